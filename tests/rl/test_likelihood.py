"""The composite forward against plain forwards block by block, and against what the engine recorded."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.common.policies import decode
from oracles.all_trajectories import Sampler
from oracles.plain_forward import action_log_probs, block_log_probs, view_log_probs
from oracles.tiny_policy import DECODE, TOKENS, ragged_prompts, rollouts, tiny_model
from redraft.rl.likelihood.score import score_view
from redraft.rl.models.llada2.model import LLaDA2Model
from redraft.rl.views import StepSchedule, View, trajectory_views
from redraft.rl.views.canvas import CanvasBatch, collate, pad_to_grid
from redraft.rollout.engine.protocol import Geometry
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.trajectory import SpecialTokens

MASK = TOKENS.mask
SHAPES = {
    "prompt tails inside blocks, and a prompt of two blocks": [(1, 7), (6, 6), (9, 3), (8, 12)],
    "whole prompt blocks in front of every completion": [(4, 4), (7, 5), (13, 7)],
    "no prompt": [(0, 8), (0, 4)],
    "a prompt that shares the first block, alone": [(3, 1)],
}


def random_batch(shape: list[tuple[int, int]], seed: int = 0) -> CanvasBatch:
    source = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(0, 7, (prompt,), generator=source).tolist() for prompt, _ in shape]
    canvases = [torch.randint(0, 7, (canvas,), generator=source).tolist() for _, canvas in shape]
    tokens, editable = pad_to_grid(prompts, canvases, 4, TOKENS.pad)
    return CanvasBatch(
        tokens=tokens,
        editable=editable,
        advantages=torch.ones(len(shape), dtype=torch.float64),
        noise_seeds=torch.arange(len(shape)),
        groups=torch.zeros(len(shape), dtype=torch.int64),
        traces=(),
        prompt_lengths=tuple(prompt for prompt, _ in shape),
        block_length=4,
    )


def random_view(batch: CanvasBatch, seed: int = 1) -> View:
    """Any mixture of masked, wrong and right tokens, and any target, at editable positions."""
    source = torch.Generator().manual_seed(seed)
    shape = batch.tokens.shape
    noise = torch.randint(0, 8, shape, generator=source)
    scored = batch.editable & (torch.rand(shape, generator=source) < 0.7)
    scored |= batch.editable & (batch.editable.cumsum(-1) == 1)  # at least one in each row
    return View(
        noisy=torch.where(batch.editable, noise, batch.tokens),
        target=torch.randint(0, 7, shape, generator=source),
        scored=scored,
        weight=scored.double(),
        edit=torch.zeros_like(scored),
        rollout_log_prob=None,
    )


def plain_scores(model, batch: CanvasBatch, view: View, temperature: float) -> torch.Tensor:
    return torch.stack(view_log_probs(model, batch, view, MASK, temperature))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_one_composite_forward_equals_a_plain_forward_per_block(model, shape, temperature):
    batch = random_batch(shape)
    view = random_view(batch)
    scores = score_view(model, batch, view, MASK, temperature)
    torch.testing.assert_close(scores.log_prob, plain_scores(model, batch, view, temperature), rtol=0, atol=1e-10)
    assert scores.sequence.tolist() == view.scored.nonzero()[:, 0].tolist()


def test_its_gradient_equals_that_of_the_plain_forwards(model):
    batch = random_batch(SHAPES["prompt tails inside blocks, and a prompt of two blocks"])
    view = random_view(batch)
    parameters = list(model.parameters())
    factor = torch.linspace(-1, 1, int(view.scored.sum()), dtype=torch.float64)
    ours = torch.autograd.grad((score_view(model, batch, view, MASK, 0.7).log_prob * factor).sum(), parameters)
    plain = torch.autograd.grad((plain_scores(model, batch, view, 0.7) * factor).sum(), parameters)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_the_noisy_half_starts_at_the_first_block_that_any_row_generates():
    batches = {name: random_batch(shape).first_editable for name, shape in SHAPES.items()}
    assert list(batches.values()) == [0, 4, 0, 0]


def scores_by_position(model, batch: CanvasBatch, view: View) -> torch.Tensor:
    table = torch.zeros(batch.tokens.shape, dtype=torch.float64)
    table[view.scored] = score_view(model, batch, view, MASK, 1.0).log_prob.detach()
    return table


def differs(after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """More than by rounding: expert batches of another size may round the last bit of rows that see the same."""
    return (after - before).abs() > 1e-12


@pytest.fixture
def leak_case(model):
    batch = random_batch([(5, 11), (4, 12)])
    view = dataclasses.replace(random_view(batch), scored=batch.editable)
    return batch, view, scores_by_position(model, batch, view)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_clean_tokens_of_a_block_reach_later_blocks_only(model, leak_case, block):
    batch, view, before = leak_case
    tokens = batch.tokens.clone()
    span = slice(4 * block, 4 * block + 4)
    tokens[:, span] = (tokens[:, span] + 1) % 7
    after = scores_by_position(model, dataclasses.replace(batch, tokens=tokens), view)
    changed = differs(after, before)
    assert not changed[:, : span.stop].any()
    assert changed[:, span.stop :].all()


@pytest.mark.parametrize("block", [1, 2, 3])
def test_noisy_tokens_of_a_block_reach_their_own_block_only(model, leak_case, block):
    batch, view, before = leak_case
    noisy = view.noisy.clone()
    span = slice(4 * block, 4 * block + 4)
    noisy[:, span] = (noisy[:, span] + 1) % 8
    after = scores_by_position(model, batch, dataclasses.replace(view, noisy=noisy))
    changed = differs(after, before)
    assert changed[:, span][batch.editable[:, span]].all()
    changed[:, span] = False
    assert not changed.any()


def test_the_prompt_reaches_every_block(model, leak_case):
    batch, view, before = leak_case
    tokens, noisy = batch.tokens.clone(), view.noisy.clone()
    tokens[:, 0] = noisy[:, 0] = (tokens[:, 0] + 1) % 7
    after = scores_by_position(model, dataclasses.replace(batch, tokens=tokens), dataclasses.replace(view, noisy=noisy))
    assert differs(after, before)[batch.editable].all()


def test_padding_of_the_batch_reaches_nothing(model):
    rows = rollouts(model, [2, 13])
    together, alone = (collate(some, 4, TOKENS.pad, "cpu") for some in (rows, rows[:1]))
    assert together.tokens.shape[1] > alone.tokens.shape[1]
    steps = [trajectory_views(batch, StepSchedule(None), MASK)[0] for batch in (together, alone)]
    scores = [score_view(model, batch, view, MASK, 1.0) for batch, view in zip((together, alone), steps, strict=True)]
    torch.testing.assert_close(scores[0].log_prob[scores[0].sequence == 0], scores[1].log_prob, rtol=0, atol=1e-12)
    filled = dataclasses.replace(together, tokens=together.tokens.clone())
    filled.tokens[0, alone.tokens.shape[1] :] = 5
    assert not differs(score_view(model, filled, steps[0], MASK, 1.0).log_prob, scores[0].log_prob).any()


class HeadProducts(TorchDispatchMode):
    """Shapes of all products with `vocab_size` columns."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size, self.shapes = vocab_size, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default and out.shape[-1] == self.vocab_size:
            self.shapes.append(tuple(out.shape))
        return out


def test_logits_are_computed_at_the_scored_positions_and_nowhere_else():
    model = tiny_model(vocab_size=41)  # a number that is no other size of the model
    batch = random_batch(SHAPES["whole prompt blocks in front of every completion"])
    view = random_view(batch)
    with HeadProducts(41) as products:
        score_view(model, batch, view, MASK, 1.0)
    assert products.shapes == [(int(view.scored.sum()), 41)]


def test_the_network_sees_no_clean_block_that_nothing_attends_to(monkeypatch):
    model, seen = tiny_model(), []
    run = model.hidden_states
    monkeypatch.setattr(model, "hidden_states", lambda ids, *rest: seen.append(ids.shape) or run(ids, *rest))
    batch = random_batch([(5, 11), (9, 7)])
    score_view(model, batch, random_view(batch), MASK, 1.0)
    assert seen == [(2, (16 - 4) + (16 - 4))]


def test_a_model_without_a_head_is_refused():
    batch = random_batch([(3, 1)])
    with pytest.raises(TypeError, match=r"Linear must have hidden_states, logits, head_weight, .* to be scored"):
        score_view(torch.nn.Linear(1, 1), batch, random_view(batch), MASK, 1.0)


@pytest.mark.parametrize("geometry", [Geometry("full", 0), Geometry("blocks", 1)])
def test_a_network_with_another_geometry_is_refused(monkeypatch, geometry):
    monkeypatch.setattr(LLaDA2Model, "geometry", geometry)
    batch = random_batch([(3, 1)])
    with pytest.raises(ValueError, match=r"LLaDA2Model has (attention 'full'|shift 1).* cannot be scored yet; use"):
        score_view(tiny_model(), batch, random_view(batch), MASK, 1.0)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_the_distribution_is_tempered_and_leaves_out_the_mask_token(model, temperature):
    batch = random_batch([(3, 5)])
    view = random_view(batch)
    row, column = view.scored.nonzero()[0].tolist()

    def score(token: int):
        target = view.target.clone()
        target[row, column] = token
        return score_view(model, batch, dataclasses.replace(view, target=target), MASK, temperature)

    assert score(MASK).log_prob[0].item() == -torch.inf
    log_probs = [score(token).log_prob[0].item() for token in range(7)]
    probability = torch.tensor(log_probs, dtype=torch.float64).exp()
    assert probability.sum().item() == pytest.approx(1.0, abs=1e-12)
    expected = -(probability * probability.log()).sum().item()
    assert score(0).entropy[0].item() == pytest.approx(expected, abs=1e-12)
    plain = block_log_probs(model, [], view.noisy[0, :4].tolist(), MASK, temperature)
    torch.testing.assert_close(torch.tensor(log_probs, dtype=torch.float64), plain[column, :7], rtol=0, atol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("edit_sampling", ["sample", "argmax"])
def test_trajectory_scores_are_the_log_probs_that_the_engine_recorded(model, temperature, edit_sampling):
    config = DECODE.model_copy(update={"temperature": temperature, "edit_sampling": edit_sampling})
    rows = rollouts(model, [0, 1, 4, 5, 9, 6, 3, 3], config)
    assert sum(row.completion.trace.num_edits for row in rows) > 5
    batch = collate(rows, 4, TOKENS.pad, "cpu")
    scored = 0
    for view in trajectory_views(
        batch, StepSchedule(None, actions="all" if edit_sampling == "sample" else "unmask"), MASK
    ):
        scores = score_view(model, batch, view, MASK, temperature)
        torch.testing.assert_close(scores.log_prob, view.rollout_log_prob[view.scored], rtol=0, atol=1e-9)
        scored += len(scores.log_prob)
    every = [old == MASK or edit_sampling == "sample" for row in rows for old in row.completion.trace.old]
    assert scored == sum(every)


def test_the_plain_replay_gives_the_recorded_log_probs_too(model):
    config = DECODE.model_copy(update={"temperature": 0.7})
    for row in rollouts(model, [0, 5, 9], config):
        trace = row.completion.trace
        found = action_log_probs(model, row.prompt.token_ids, trace, 4, 0.7)
        assert [value.item() for value in found] == pytest.approx(list(trace.log_prob), abs=1e-9)


def test_an_argmax_edit_was_not_drawn_so_its_recorded_log_prob_is_no_likelihood(model):
    config = DECODE.model_copy(update={"edit_sampling": "argmax"})
    rows = rollouts(model, [4, 5, 9], config)
    batch = collate(rows, 4, TOKENS.pad, "cpu")
    for view in trajectory_views(batch, StepSchedule(None), MASK):
        assert (view.rollout_log_prob[view.edit & view.scored] == 0).all()


# --- the sampler as a whole ---------------------------------------------------------------------------------------

SMALL = DECODE.model_copy(
    update={"block_length": 2, "threshold": 0.6, "max_post_steps": 2, "max_completion_length": 4, "temperature": 0.8}
)
SMALL_TOKENS = SpecialTokens(mask=2, pad=0, stops=())


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_trajectory_probabilities_sum_to_one(seed: int):
    sampler = Sampler(tiny_model(3, seed), (0, 1), SMALL, mask=2)
    total = sum(trajectory.log_prob().exp().item() for trajectory in sampler.trajectories(num_blocks=2))
    assert total == pytest.approx(1.0, abs=1e-12)


@torch.no_grad()
def test_the_decoder_draws_each_trajectory_as_often_as_its_likelihood_says():
    model, count = tiny_model(3, seed=3), 1500
    known = {t.actions: t for t in Sampler(model, (0, 1), SMALL, mask=2).trajectories(num_blocks=2)}
    prompts = [dataclasses.replace(ragged_prompts([0])[0], token_ids=(0, 1), seed=seed) for seed in range(count)]
    drawn: dict[tuple, int] = {}
    for completion in decode(TorchEngine(model), prompts, SMALL, SMALL_TOKENS):
        trace = completion.trace
        actions = tuple(zip(trace.forward, trace.position, trace.old, trace.new, strict=True))
        drawn[actions] = drawn.get(actions, 0) + 1
        assert [part.item() for part in known[actions].parts] == pytest.approx(list(trace.log_prob), abs=1e-9)
        assert completion.num_forwards == known[actions].forward
    assert len(drawn) > 20
    for actions, trajectory in known.items():
        p = trajectory.log_prob().exp().item()
        assert abs(drawn.get(actions, 0) - count * p) < 4.5 * (count * p * (1 - p)) ** 0.5 + 1
