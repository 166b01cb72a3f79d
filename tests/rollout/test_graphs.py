"""Passes padded to the sizes of graphs: the capture is a stand-in, all around it is what runs on a GPU."""

import pytest
import torch

from alike import assert_alike
from benchmarks.common.policies import decode
from oracles.tiny_policy import DECODE, TOKENS, ragged_prompts, tiny_model
from redraft.rollout.decoding.slots import PREFILL_BLOCKS
from redraft.rollout.engine.graphs import GraphedBody, entry_size, table_size
from redraft.rollout.engine.protocol import Pass
from redraft.rollout.engine.torch_engine import TorchEngine


class FixedMemory:
    """Repeats the function on the memory it was captured with, and keeps the result at one place, as a graph does."""

    def __init__(self) -> None:
        self.captured, self.replayed = 0, 0

    def __call__(self, function):
        self.captured += 1
        result = torch.empty_like(function())

        def replay():
            self.replayed += 1
            return result.copy_(function())

        return replay


class GraphedEngine(TorchEngine):
    """Replays on a CPU too."""

    def __init__(self, model, capture) -> None:
        super().__init__(model)
        self.capture = capture

    def open(self, num_pages, block_length, mask):
        session = super().open(num_pages, block_length, mask)
        session.use_graphs(self.capture)
        self.session = session
        return session


@pytest.mark.parametrize("slots", [1, 3, 7])
def test_padded_passes_decode_what_others_do(slots):
    model, prompts, capture = tiny_model(), ragged_prompts([0, 3, 4, 9, 17, 2, 5, 30, 1, 8]), FixedMemory()
    graphed = decode(GraphedEngine(model, capture), prompts, DECODE, TOKENS, slots)
    assert_alike(graphed, decode(TorchEngine(model), prompts, DECODE, TOKENS, slots))
    assert capture.replayed > capture.captured > 3


def test_prompts_that_are_run_in_passes_of_their_own_are_decoded_beside_graphs():
    """Of 17 blocks, 16 are run together and the last one alone; short rows join with a few blocks each."""
    model = tiny_model()
    model.config = model.config.model_copy(update={"max_position_embeddings": 128})
    prompts, capture = ragged_prompts([4 * PREFILL_BLOCKS + 4, 5, 70, 9]), FixedMemory()
    graphed = decode(GraphedEngine(model, capture), prompts, DECODE, TOKENS, 2)
    assert_alike(graphed, decode(TorchEngine(model), prompts, DECODE, TOKENS, 2))


def test_a_capture_that_fails_leaves_the_decode_to_plain_forwards_with_one_warning(caplog):
    def refuse(function):
        raise RuntimeError("operation not permitted when stream is capturing")

    model, prompts = tiny_model(), ragged_prompts([0, 3, 9])
    engine = GraphedEngine(model, refuse)
    assert_alike(decode(engine, prompts, DECODE, TOKENS), decode(TorchEngine(model), prompts, DECODE, TOKENS))
    (warning,) = caplog.messages
    assert "no CUDA graph could be captured (operation not permitted" in warning
    use = engine.session.graphs
    assert (use.captured, use.replayed) == (0, 0)
    assert use.plain > 3
    assert use.broken == "RuntimeError: operation not permitted when stream is capturing"


def test_a_session_counts_what_ran_from_graphs_and_what_did_not():
    """Prompts of 17 blocks are run in passes of their own, 16 blocks at a time: those have no graph."""
    model, capture = tiny_model(), FixedMemory()
    model.config = model.config.model_copy(update={"max_position_embeddings": 128})
    engine, prompts = GraphedEngine(model, capture), ragged_prompts([4 * PREFILL_BLOCKS + 4, 5])
    decode(engine, prompts, DECODE, TOKENS, 2)
    use = engine.session.graphs
    assert (use.captured, use.replayed, use.broken) == (capture.captured, capture.replayed, None)
    assert use.plain >= 1
    plain = TorchEngine(model).open(4, 4, TOKENS.mask)
    assert plain.graphs is None


def test_memory_that_runs_out_in_a_capture_is_not_taken_for_a_failed_capture():
    def greedy(function):
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        decode(GraphedEngine(tiny_model(), greedy), ragged_prompts([0]), DECODE, TOKENS)


def test_a_pass_does_not_see_what_a_larger_one_left_in_the_fixed_memory():
    seen = []

    def body(batch: Pass):
        seen.append(Pass(*(part.clone() for part in batch)))
        return batch.tokens[..., None].double()

    graphed = GraphedBody(body, FixedMemory())
    for entries, pages in [(8, 6), (5, 5)]:
        ones = torch.ones(entries, 4, dtype=torch.int64)
        batch = Pass(7 * ones, ones, ones[:, :1], torch.full((entries, pages), 9), 4 * pages * ones[:, :1])
        assert graphed(batch).tolist() == [[[7.0]] * 4] * entries
    last = seen[-1]
    assert last.tokens.shape == (8, 4)
    assert last.table.shape == (8, 6)
    assert last.table[:5].tolist() == [[9, 9, 9, 9, 9, 0]] * 5
    assert last.table[5:].tolist() == [[0] * 6] * 3
    assert last.write[:, 0].tolist() == [1] * 5 + [0] * 3
    assert last.reach[:, 0].tolist() == [20] * 5 + [4] * 3
    assert last.tokens[5:].sum() == last.positions[5:].sum() == 0


@pytest.mark.parametrize(
    ("size", "given", "expected"),
    [
        (entry_size, [1, 2, 3, 5, 8, 9, 64, 65, 129, 257], [1, 2, 4, 8, 8, 16, 64, 80, 160, 320]),
        (table_size, [1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 17, 25], [1, 2, 3, 4, 6, 6, 8, 12, 12, 16, 24, 32]),
    ],
)
def test_sizes_are_few_and_never_too_small(size, given, expected):
    assert [size(number) for number in given] == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graphs_decode_what_plain_forwards_do():
    model = tiny_model(dtype=torch.bfloat16).cuda()
    prompts = ragged_prompts([0, 3, 4, 9, 17])
    greedy = DECODE.model_copy(update={"temperature": 0.0})
    graphed = decode(TorchEngine(model), prompts, greedy, TOKENS)
    plain = decode(TorchEngine(model, cuda_graphs=False), prompts, greedy, TOKENS)
    assert [completion.token_ids for completion in graphed] == [completion.token_ids for completion in plain]
