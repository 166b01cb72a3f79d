"""The torch engine: the block cache against full recomputation, and what a pass computes."""

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.common.policies import decode
from oracles.head_rows import HeadRows
from oracles.plain_forward import states_before
from oracles.small_moe import SAMPLED, SHAPE, TOKENS
from redraft.rl.models.llada2.config import LLaDA2Config
from redraft.rl.models.llada2.model import LLaDA2Model, init_weights
from redraft.rollout.blocks import block_causal_mask
from redraft.rollout.config import DecodeConfig
from redraft.rollout.decoding.slots import Slots
from redraft.rollout.engine.paged_cache import CacheShape
from redraft.rollout.engine.protocol import BLOCK_CAUSAL, Geometry, Outcome, Pass
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens

RECORDED = SAMPLED.model_copy(update={"record_routes": True})


def llada2(dtype: torch.dtype = torch.float64, seed: int = 0) -> LLaDA2Model:
    model = LLaDA2Model(LLaDA2Config.from_dict(SHAPE), dtype=dtype)
    init_weights(model, torch.Generator().manual_seed(seed))
    return model


def ragged_prompts() -> list[Prompt]:
    generator = torch.Generator().manual_seed(3)
    sizes = [0, 1, 4, 7, 13, 22]
    return [
        Prompt(f"p{size}", tuple(torch.randint(3, 24, (size,), generator=generator).tolist()), seed=size)
        for size in sizes
    ]


class AuditedSlots(Slots):
    """Compares every forward of the cached engine with a recomputation of each canvas from nothing."""

    model: LLaDA2Model
    fused_commits = compared = reopened = 0

    def _recomputed(self, row: int) -> Tensor:
        """Logits of the active block from the canvas alone.

        A block that is open again stands twice in the input: as later blocks see it, and once more at the end, with
        all of the window in sight.
        """
        start, seen = int(self.progress.active[row]), int(self.progress.frontier[row]) + 4
        tokens, positions = self._canvas[row, :seen], torch.arange(seen)
        mask = block_causal_mask(positions, positions, 4)
        if seen == start + 4:
            return self.model(tokens[None], 4)[0, start:]
        span = slice(start, start + 4)
        inside = torch.zeros(seen, dtype=torch.bool)
        inside[span] = True
        mask = torch.cat([mask, (~inside).expand(4, -1)])
        mask = torch.cat([mask, torch.zeros(seen + 4, 4, dtype=torch.bool)], dim=1)
        mask[seen:, seen:] = True
        both = torch.cat([tokens, tokens[span]]), torch.cat([positions, positions[span]])
        hidden = self.model.hidden_states(both[0][None], both[1][None], mask[None])
        return self.model.logits(hidden[0, seen:])

    def _forward(self, rows, rules):
        active, committed = self.progress.active[rows], self.progress.committed[rows]
        type(self).reopened += int((active < self.progress.frontier[rows]).sum())
        whole = [self._recomputed(row) for row in rows.tolist()]
        forward = self.session.forward

        def audited(batch: Pass, num_active: int, record: bool) -> Outcome:
            outcome = forward(batch, num_active, record)
            everywhere = torch.ones(num_active, 4, dtype=torch.bool)
            ((*_, logits),) = outcome.scores.pieces(everywhere)
            expected = torch.cat(whole)
            expected[:, TOKENS.mask] = -torch.inf
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
            type(self).compared += num_active
            return outcome

        self.session.forward = audited
        try:
            return super()._forward(rows, rules)
        finally:
            self.session.forward = forward
            type(self).fused_commits += int(((active - committed > 0) & (committed > 0)).sum())


@pytest.fixture
def audited(monkeypatch):
    """Completions with every forward audited."""

    def run(config: DecodeConfig) -> list[Completion]:
        model = llada2()
        for name, value in {"model": model, "fused_commits": 0, "compared": 0, "reopened": 0}.items():
            monkeypatch.setattr(AuditedSlots, name, value, raising=False)
        monkeypatch.setattr("redraft.rollout.decoding.decoder.Slots", AuditedSlots)
        completions = decode(TorchEngine(model), ragged_prompts(), config, TOKENS, slots=3)
        assert AuditedSlots.compared == sum(completion.num_forwards for completion in completions)
        return completions

    return run


def test_every_cached_forward_equals_a_recomputation_of_the_whole_canvas(audited):
    completions = audited(SAMPLED)
    assert AuditedSlots.fused_commits > 5
    assert sum(completion.trace.num_edits for completion in completions) > 20


@pytest.mark.parametrize("window", [2, 3])
def test_so_does_every_forward_with_blocks_that_are_open_again(audited, window):
    completions = audited(SAMPLED.model_copy(update={"editing_window": window, "max_completion_length": 20}))
    assert AuditedSlots.reopened > 20
    assert sum(completion.trace.num_edits for completion in completions) > 20


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_completion_does_not_depend_on_its_batch(temperature):
    engine, prompts = TorchEngine(llada2()), ragged_prompts()
    config = SAMPLED.model_copy(update={"temperature": temperature})
    together = decode(engine, prompts, config, TOKENS)
    apart = [decode(engine, [prompt], config, TOKENS)[0] for prompt in prompts]
    assert [completion.canvas_ids for completion in apart] == [completion.canvas_ids for completion in together]
    for one, other in zip(apart, together, strict=True):
        assert one.trace.forward == other.trace.forward
        assert one.trace.new == other.trace.new
        assert one.trace.log_prob == pytest.approx(other.trace.log_prob, abs=1e-10)
    chunked = decode(engine, prompts, config, TOKENS, slots=4)
    assert [completion.canvas_ids for completion in chunked] == [completion.canvas_ids for completion in together]


class TinyModel(nn.Module):
    """One attention layer: a block model that has nothing to do with LLaDA2."""

    def __init__(self) -> None:
        super().__init__()
        self.vocab_size, self.max_positions, self.geometry = 24, 64, BLOCK_CAUSAL
        self.embed = nn.Embedding(24, 8)
        self.project = nn.Linear(8, 24, bias=False)
        self.head = nn.Linear(8, 24, bias=False)
        self.cache_shape = CacheShape(layers=1, heads=1, head_dim=8)
        self.slots_run = 0

    @property
    def head_weight(self) -> Tensor:
        return self.head.weight

    def hidden_states(self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor, cache=None) -> Tensor:
        self.slots_run += input_ids.numel()
        hidden = self.embed(input_ids) + torch.sin(position_ids[..., None].to(self.head.weight.dtype))
        query, key, value = self.project(hidden)[:, None].split(8, dim=-1)
        key, value = cache.update(0, key, value)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask[:, None])
        return hidden + mixed[:, 0]

    def through_head(self, hidden, use):
        return use(hidden, self.head.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)


def test_any_block_model_is_decoded_and_no_slot_is_run_for_padding():
    torch.manual_seed(0)
    model = TinyModel().double()
    config = DecodeConfig(block_length=4, threshold=0.0, editing_threshold=1.0, max_completion_length=8)
    prompts = [Prompt("long", (3,) * 16, seed=0), Prompt("short", (), seed=0)]
    with HeadRows(model.head_weight) as scored:
        completions = decode(TorchEngine(model), prompts, config, SpecialTokens(mask=1, pad=0, stops=()))
    assert [completion.num_forwards for completion in completions] == [2, 2]
    # Per row: each generated block once as active, each but the last once more to commit it; the prompt once.
    assert model.slots_run == (2 * 4 + 4 + 16) + (2 * 4 + 4)
    assert sum(scored.rows) == 4 * 4  # the head sees active blocks only


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_models_are_decoded(dtype):
    completions = decode(TorchEngine(llada2(dtype)), ragged_prompts(), SAMPLED, TOKENS)
    for completion in completions:
        assert TOKENS.mask not in completion.canvas_ids
        assert max(completion.trace.log_prob) <= 1e-6


def test_weights_may_change_between_decodes_of_one_engine():
    model, prompts = llada2(seed=0), ragged_prompts()
    engine = TorchEngine(model)
    before = decode(engine, prompts, SAMPLED, TOKENS)
    init_weights(model, torch.Generator().manual_seed(1))
    after = decode(engine, prompts, SAMPLED, TOKENS)
    assert after != before
    assert after == decode(TorchEngine(llada2(seed=1)), prompts, SAMPLED, TOKENS)


def test_a_model_can_be_trained_after_a_decode():
    model = llada2()
    decode(TorchEngine(model), ragged_prompts(), SAMPLED, TOKENS)
    model(torch.tensor([[3, 4, 5, 1]]), 4).sum().backward()
    assert all(parameter.grad is not None for parameter in model.lm_head.parameters())


def test_a_module_that_is_no_block_model_is_refused():
    parts = "hidden_states, logits, head_weight, through_head, cache_shape, geometry, vocab_size and max_positions"
    with pytest.raises(TypeError, match=f"Linear must have {parts} to be decoded"):
        TorchEngine(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("geometry", "error"),
    [
        (Geometry("full", 0), "TinyModel has attention 'full' and cannot be decoded yet; use .* 'blocks'"),
        (Geometry("blocks", 1), "TinyModel has shift 1, .* and cannot be decoded yet; use a network with shift 0"),
    ],
)
def test_a_network_with_another_geometry_is_refused(geometry, error):
    model = TinyModel()
    model.geometry = geometry
    with pytest.raises(ValueError, match=error):
        TorchEngine(model)


# --- routes of a mixture of experts -------------------------------------------------------------------------------


def routes_by_recomputation(model: LLaDA2Model, prompt: Prompt, completion: Completion) -> list[list[list[set[int]]]]:
    """Experts by forward, layer and slot: every state runs as a whole canvas, without a cache and alone."""
    found, trace = [], completion.trace
    states = states_before(prompt.token_ids, trace, len(prompt.token_ids) + len(completion.canvas_ids))
    for forward, state in enumerate(states):
        acted = max(f for f in trace.forward if f <= forward)
        slot = next(p for f, p in zip(trace.forward, trace.position, strict=True) if f == acted)
        end = (len(prompt.token_ids) + slot) // 4 * 4 + 4
        positions = torch.arange(end)[None]
        tape = model.route_tape()
        mask = block_causal_mask(positions, positions, 4)
        model.hidden_states(torch.tensor([state[:end]]), positions, mask, tape=tape)
        found.append([[set(token) for token in layer[-4:]] for layer in tape.routes.tolist()])
    return found


@torch.no_grad()
def test_recorded_routes_are_those_of_a_recomputation_of_every_state():
    model, prompts = llada2(), ragged_prompts()
    completions = decode(TorchEngine(model), prompts, RECORDED, TOKENS)
    assert len({completion.num_forwards for completion in completions}) > 2  # rows leave the batch at different times
    for prompt, completion in zip(prompts, completions, strict=True):
        routes = completion.trace.routes
        assert routes.shape == (completion.num_forwards, 2, 4, 2)
        assert routes.dtype == np.int16
        found = [[[set(token) for token in layer] for layer in forward] for forward in routes.tolist()]
        assert found == routes_by_recomputation(model, prompt, completion)


def test_recorded_routes_do_not_depend_on_the_batch():
    engine, prompts = TorchEngine(llada2()), ragged_prompts()
    together = decode(engine, prompts, RECORDED, TOKENS)
    by_two = decode(engine, prompts, RECORDED, TOKENS, slots=2)
    alone = [decode(engine, [prompt], RECORDED, TOKENS)[0] for prompt in prompts]
    for one, two, three in zip(together, by_two, alone, strict=True):
        assert np.array_equal(one.trace.routes, two.trace.routes)
        assert np.array_equal(one.trace.routes, three.trace.routes)


def test_recording_changes_no_completion_and_is_off_by_default():
    engine, prompts = TorchEngine(llada2()), ragged_prompts()
    plain = decode(engine, prompts, SAMPLED, TOKENS)
    assert decode(engine, prompts, RECORDED, TOKENS) == plain
    assert all(completion.trace.routes is None for completion in plain)


def test_routes_travel_without_those_of_the_other_rows():
    completions = decode(TorchEngine(llada2()), ragged_prompts(), RECORDED, TOKENS)
    for completion in completions:
        routes = completion.trace.routes
        assert routes.base is None or routes.base.nbytes == routes.nbytes
        copy = pickle.loads(pickle.dumps(completion))
        assert copy == completion
        assert np.array_equal(copy.trace.routes, routes)
        assert len(pickle.dumps(routes)) < routes.nbytes + 300


def test_a_model_without_routers_is_decoded_but_records_no_routes():
    engine, tokens = TorchEngine(TinyModel().double()), SpecialTokens(mask=1, pad=0, stops=())
    config = DecodeConfig(block_length=4, threshold=0.0, max_completion_length=4)
    assert decode(engine, [Prompt("p", (3,), seed=0)], config, tokens)[0].trace.routes is None
    with pytest.raises(TypeError, match="TinyModel can neither record nor replay routes: it has no route_tape"):
        decode(engine, [Prompt("p", (3,), seed=0)], config.model_copy(update={"record_routes": True}), tokens)
