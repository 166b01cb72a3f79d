"""Routes on the composite forward: the rollout's own, those of an earlier pass, and what replaying them does."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from benchmarks.common.policies import decode
from oracles.plain_forward import states_before
from oracles.tiny_policy import DECODE, TOKENS, ragged_prompts, run_config, tiny_model
from redraft.rl.learner.learner import Learner
from redraft.rl.likelihood.routes import earlier_routes, trajectory_routes
from redraft.rl.likelihood.score import score_view
from redraft.rl.models.llada2 import LLaDA2Model, init_weights
from redraft.rl.protocols import Experience
from redraft.rl.views import MaskingScheme, StepSchedule, View, elbo_views, trajectory_views
from redraft.rl.views.canvas import CanvasBatch, collate
from redraft.rollout.blocks import block_causal_mask
from redraft.rollout.engine.route_tape import RouteTape
from redraft.rollout.engine.torch_engine import TorchEngine

MASK, BLOCK, LAYERS, K = TOKENS.mask, DECODE.block_length, 2, 2
SHAPES = {
    "prompts that share the first block, and longer ones": [0, 1, 3, 4, 5, 9, 6, 3],
    "whole prompt blocks in front of every completion": [4, 9, 13],
    "one row": [6],
}


def routed_model() -> LLaDA2Model:
    """Two routed layers, a choice limited by groups, and a bias that matters."""
    sizes = {"num_hidden_layers": 3, "num_experts": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": K}
    model = LLaDA2Model(tiny_model().config.model_copy(update=sizes), dtype=torch.float64)
    generator = torch.Generator().manual_seed(4)
    init_weights(model, generator)
    for buffer in model.buffers():
        buffer.normal_(0.0, 0.1, generator=generator)
    return model


@torch.no_grad()
def moved(model: LLaDA2Model) -> LLaDA2Model:
    """A copy some way on."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(6)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def recorded_batch(model: LLaDA2Model, lengths: list[int]) -> tuple[list[Experience], CanvasBatch]:
    prompts = ragged_prompts(lengths)
    completions = decode(TorchEngine(model), prompts, DECODE.model_copy(update={"record_routes": True}), TOKENS)
    rows = [Experience(p, c, 1.0, noise_seed=i) for i, (p, c) in enumerate(zip(prompts, completions, strict=True))]
    return rows, collate(rows, BLOCK, TOKENS.pad, "cpu")


def active_blocks(row: Experience) -> list[int]:
    """The block of every forward: that of the last action so far (each block begins with an unmask)."""
    trace, prompt, blocks = row.completion.trace, len(row.prompt.token_ids), []
    for forward in range(trace.num_forwards):
        pairs = zip(trace.forward, trace.position, strict=True)
        blocks.append(max((f, (prompt + p) // BLOCK) for f, p in pairs if f <= forward)[1])
    return blocks


def state_views(rows: list[Experience], batch: CanvasBatch) -> list[tuple[View, Tensor]]:
    """Views that show every state of every block, also those without an action, and the forwards they show."""
    views, template = [], trajectory_views(batch, StepSchedule(None), MASK)[0]
    blocks = [active_blocks(row) for row in rows]
    for turn in range(max(blocks[row].count(b) for row in range(len(rows)) for b in blocks[row])):
        noisy, step = batch.tokens.clone(), torch.full((len(rows), batch.tokens.shape[1] // BLOCK), -1)
        scored = torch.zeros_like(batch.editable)
        for index, row in enumerate(rows):
            size = len(row.prompt.token_ids) + len(row.completion.canvas_ids)
            states = states_before(row.prompt.token_ids, row.completion.trace, size)
            for block in set(blocks[index]):
                forwards = [f for f, b in enumerate(blocks[index]) if b == block]
                if turn < len(forwards):
                    span = slice(block * BLOCK, block * BLOCK + BLOCK)
                    noisy[index, span] = torch.tensor(states[forwards[turn]][span])
                    scored[index, span], step[index, block] = batch.editable[index, span], forwards[turn]
        view = dataclasses.replace(template, noisy=noisy, target=batch.tokens, scored=scored, weight=scored.double())
        views.append((view, step))
    return views


def score(model: LLaDA2Model, batch: CanvasBatch, view: View, tape: RouteTape | None = None) -> Tensor:
    return score_view(model, batch, view, MASK, 1.0, tape).log_prob


@pytest.fixture(scope="module")
def model() -> LLaDA2Model:
    return routed_model()


@pytest.mark.parametrize("lengths", SHAPES.values(), ids=SHAPES.keys())
def test_the_engine_and_the_composite_forward_choose_the_same_routes_in_every_state(model, lengths):
    rows, batch = recorded_batch(model, lengths)
    compared, first = 0, batch.first_editable // BLOCK
    for view, step in state_views(rows, batch):
        tape = model.route_tape(trajectory_routes(batch, step), replay=False)
        score(model, batch, view, tape)
        states = int((step >= 0).sum())
        assert tape.agreement() == (LAYERS * BLOCK * states,) * 3
        live = tape.routes.unflatten(1, (len(rows), -1))
        for row, block in (step >= 0).nonzero().tolist():
            engine = rows[row].completion.trace.routes[step[row, block]]
            start = (block - first) * BLOCK
            for layer in range(LAYERS):
                for slot in range(BLOCK):
                    assert set(live[layer, row, start + slot].tolist()) == set(engine[layer, slot].tolist())
        compared += states
    assert compared == sum(row.completion.num_forwards for row in rows)


def test_only_noisy_blocks_that_show_a_state_have_routes_and_each_has_those_of_its_forward(model):
    rows, batch = recorded_batch(model, SHAPES["whole prompt blocks in front of every completion"])
    length, start = batch.tokens.shape[1], batch.first_editable
    assert start == BLOCK
    size = (length - start) + (length - BLOCK)  # of one row: noisy half, and clean half without the last block
    _, step = state_views(rows, batch)[1]
    assert (step == -1).any()
    routes = trajectory_routes(batch, step)
    assert routes.shape == (LAYERS, len(rows) * size, K)
    assert routes.dtype == torch.int16
    for row, (experience, forwards) in enumerate(zip(rows, step.tolist(), strict=True)):
        for place in range(size):
            found = routes[:, row * size + place].tolist()
            forward = forwards[(start + place) // BLOCK] if place < length - start else -1
            if forward < 0:
                assert found == [[-1] * K] * LAYERS
            else:
                assert found == experience.completion.trace.routes[forward, :, place % BLOCK].tolist()


def test_replaying_the_rollout_at_the_same_weights_changes_no_bit(model):
    rows, batch = recorded_batch(model, SHAPES["prompts that share the first block, and longer ones"])
    parameters = list(model.parameters())
    for view, step in state_views(rows, batch)[:2]:
        plain, tape = score(model, batch, view), model.route_tape(trajectory_routes(batch, step))
        replayed = score(model, batch, view, tape)
        assert torch.equal(replayed, plain)
        gradients = [torch.autograd.grad(values.sum(), parameters) for values in (plain, replayed)]
        for one, other in zip(*gradients, strict=True):
            assert torch.equal(one, other)


def plain_log_probs(model: LLaDA2Model, row: Experience, view: View, index: int, block: int, forward: int) -> Tensor:
    """Log-probs of a block's targets by a plain forward of `[clean blocks before ; noisy block]` with its routes."""
    start, end = block * BLOCK, block * BLOCK + BLOCK
    tokens = torch.cat([view.target[index, :start], view.noisy[index, start:end]])[None]
    given = torch.full((LAYERS, end, K), -1, dtype=torch.int16)
    given[:, start:] = torch.from_numpy(row.completion.trace.routes[forward])
    positions = torch.arange(end)[None]
    mask = block_causal_mask(positions, positions, BLOCK)
    hidden = model.hidden_states(tokens, positions, mask, tape=model.route_tape(given))
    logits = model.logits(hidden[0, start:]).clone()
    logits[:, MASK] = -torch.inf
    log_probs = logits.log_softmax(-1).gather(-1, view.target[index, start:end, None])[:, 0]
    return log_probs[view.scored[index, start:end]]


@torch.no_grad()
def test_under_moved_weights_replay_restores_agreement_to_one_with_the_scores_of_plain_replayed_forwards(model):
    rows, batch = recorded_batch(model, SHAPES["prompts that share the first block, and longer ones"])
    later = moved(model)
    view, step = state_views(rows, batch)[1]
    given = trajectory_routes(batch, step)
    comparing, replaying = later.route_tape(given, replay=False), later.route_tape(given)
    live, replayed = score(later, batch, view, comparing), score(later, batch, view, replaying)
    assert (live - replayed).abs().max() > 1e-3
    assert comparing.agreement().used < comparing.agreement().known
    assert replaying.agreement().used == replaying.agreement().known == comparing.agreement().known
    assert 0 < replaying.agreement().live < replaying.agreement().known
    pairs = [(row, block, int(step[row, block])) for row, block in (step >= 0).nonzero().tolist()]
    plain = [plain_log_probs(later, rows[row], view, row, block, forward) for row, block, forward in pairs]
    torch.testing.assert_close(replayed, torch.cat(plain), rtol=0, atol=1e-10)


def test_routes_of_the_old_policys_pass_are_replayed_on_masks_that_no_engine_saw(model):
    _, batch = recorded_batch(model, SHAPES["prompts that share the first block, and longer ones"])
    later = moved(model)
    view = elbo_views(batch, MaskingScheme(1), MASK)[0]
    recording = model.route_tape()
    with torch.no_grad():
        score(model, batch, view, recording)
    given = earlier_routes(batch, view, recording.routes)
    comparing, replaying = later.route_tape(given, replay=False), later.route_tape(given)
    score(later, batch, view, comparing)
    routers = [layer.mlp.gate.weight for layer in later.layers[1:]]
    gradients = torch.autograd.grad(score(later, batch, view, replaying).sum(), routers)
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients)
    # A scored block in its noisy copy, and clean copies of all blocks before the last scored one.
    scored = [{position // BLOCK for position in row.nonzero().flatten().tolist()} for row in view.scored]
    known = LAYERS * BLOCK * sum(len(blocks) + max(blocks) for blocks in scored if blocks)
    assert len({max(blocks) for blocks in scored}) > 2
    assert comparing.agreement().known == replaying.agreement().known == known
    assert 0 < comparing.agreement().used < known
    assert replaying.agreement().used == known


def test_what_no_scored_position_reads_is_routed_live_and_everything_else_as_before(model):
    _, batch = recorded_batch(model, [1, 13])
    length, view = batch.tokens.shape[1], elbo_views(batch, MaskingScheme(1), MASK)[0]
    scored = torch.zeros_like(view.scored)
    scored[0, BLOCK] = scored[1, length - 1] = True
    tape = model.route_tape()
    score(model, batch, view, tape)
    given = earlier_routes(batch, dataclasses.replace(view, scored=scored), tape.routes)
    # Of the first canvas: noisy block 1 and clean block 0; of the second: its last noisy block and all clean ones.
    row = 2 * length - BLOCK
    read = [*range(BLOCK, 2 * BLOCK), *range(length, length + BLOCK)]
    read += [*range(row + length - BLOCK, row + length), *range(row + length, 2 * row)]
    other = sorted(set(range(2 * row)) - set(read))
    assert torch.equal(given[:, read], tape.routes[:, read])
    assert (given[:, other] == -1).all()


def test_routes_that_were_not_recorded_are_asked_for_by_row(model):
    rows, batch = recorded_batch(model, [3, 6])
    step = torch.full((2, batch.tokens.shape[1] // BLOCK), -1)
    bare = dataclasses.replace(batch.traces[1], routes=None)
    with pytest.raises(ValueError, match="trace of sequence 1 holds no routes: decode with record_routes: true"):
        trajectory_routes(dataclasses.replace(batch, traces=(batch.traces[0], bare)), step)
    step[0, 0] = count = rows[0].completion.num_forwards
    with pytest.raises(ValueError, match=f"sequence 0 has no forward {count}; it took part in {count}"):
        trajectory_routes(batch, step)


def test_learning_leaves_routers_and_their_bias_alone_by_default(model):
    rows, _ = recorded_batch(model, [0, 3, 5])
    learner = Learner(copy.deepcopy(model), run_config(), TOKENS)
    learner.update(rows)
    changed = {k for k, v in learner.model.state_dict().items() if not torch.equal(v, model.state_dict()[k])}
    routers = {name for name in model.state_dict() if ".gate." in name}
    assert len(routers) == 2 * LAYERS
    assert changed == model.state_dict().keys() - routers
