"""Trajectory views: the decoder's own steps, replayed and scored (docs/math.md eq 13), all or sampled (eq 15).

Here states, actions and weights; that their sum has the policy's gradient (eq 14) is shown in test_learner.py.
"""

import pytest
import torch

from benchmarks.common.policies import decode
from oracles.noise_draws import batch_of, plain_row, repeated, within_four_errors
from oracles.plain_forward import states_before
from oracles.tiny_policy import TOKENS, rollouts, tiny_model
from oracles.toy_policy import ToyPolicy, ToySession
from redraft.rl.protocols import Experience
from redraft.rl.views import StepSchedule, View, make_views, trajectory_views
from redraft.rl.views import view as view_module
from redraft.rl.views.canvas import CanvasBatch, collate
from redraft.rollout.config import DecodeConfig
from redraft.rollout.engine.protocol import Outcome, Pass
from redraft.rollout.trajectory import Completion, DecodeTrace, Prompt, SpecialTokens
from short_names import short

MASK = TOKENS.mask
TOY_TOKENS = SpecialTokens(mask=11, pad=0, stops=(3, 7))
TOY_DECODE = DecodeConfig(
    block_length=4,
    threshold=0.4,
    editing_threshold=0.3,
    max_post_steps=3,
    max_completion_length=14,
    temperature=1.0,
    edit_sampling="sample",
    unmask_confidence="top",
)


class RecordingPolicy(ToyPolicy):
    """Remembers every row's canvas, up to the end of its active block, and that block, at each of its forwards."""

    def open(self, num_pages: int, block_length: int, mask: int) -> ToySession:
        session = super().open(num_pages, block_length, mask)
        self.seen: list[list[tuple[list[int], int]]] = []
        row_of: dict[int, int] = {}  # by first page; all rows are in the first pass, in order
        forward = session.forward

        def record(batch: Pass, num_active: int, routes: bool) -> Outcome:
            outcome = forward(batch, num_active, routes)
            for entry in range(num_active):
                row = row_of.setdefault(int(batch.table[entry, 0]), len(row_of))
                if row == len(self.seen):
                    self.seen.append([])
                pages = batch.table[entry, : int(batch.reach[entry, 0]) // block_length]
                self.seen[row].append((session.pages[pages].flatten().tolist(), int(batch.positions[entry, 0])))
            return outcome

        session.forward = record
        return session


def toy_rollouts(config: DecodeConfig = TOY_DECODE) -> tuple[RecordingPolicy, list[Experience], CanvasBatch]:
    policy = RecordingPolicy(vocab_size=12, max_length=40, sharpness=2.0, seed=5)
    lengths = [0, 3, 4, 6, 9, 1, 2, 5]
    source = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, 11, (n,), generator=source).tolist() for n in lengths]
    prompts = [Prompt(f"p{i}", tuple(tokens), seed=i) for i, tokens in enumerate(ids)]
    completions = decode(policy, prompts, config, TOY_TOKENS)
    rows = [Experience(p, c, 1.0, noise_seed=i) for i, (p, c) in enumerate(zip(prompts, completions, strict=True))]
    return policy, rows, collate(rows, config.block_length, TOY_TOKENS.pad, "cpu")


def scored_actions(views: list[View], row: int) -> list[tuple[int, int, int, float, bool, float]]:
    """View, position, target, weight, edit and engine's log-prob of everything scored in a row."""
    found = []
    for number, view in enumerate(views):
        assert view.rollout_log_prob is not None
        columns = (view.target, view.weight, view.edit, view.rollout_log_prob)
        for position in view.scored[row].nonzero()[:, 0].tolist():
            found.append((number, position, *(column[row, position].item() for column in columns)))
    return found


def trace_actions(row: Experience, score_edits: bool = True) -> list[tuple[int, int, int, bool, float]]:
    """Forward, position, new token, edit and log-prob of every action that has a likelihood."""
    trace, begin = row.completion.trace, len(row.prompt.token_ids)
    columns = (trace.forward, trace.position, trace.new, trace.old, trace.log_prob)
    actions = [(f, begin + p, new, old != trace.mask, lp) for f, p, new, old, lp in zip(*columns, strict=True)]
    return [action for action in actions if score_edits or not action[3]]


def test_the_toy_rollouts_hold_every_kind_of_action():
    _, rows, _ = toy_rollouts()
    assert sum(row.completion.trace.num_edits for row in rows) > 5
    traces = [row.completion.trace for row in rows]
    assert any(old == new for t in traces for old, new in zip(t.old, t.new, strict=True))
    assert any(len(row.completion.canvas_ids) > len(row.completion.token_ids) for row in rows)
    assert max(row.completion.num_forwards for row in rows) > 8


def test_replayed_states_are_the_canvases_that_the_decoder_ran():
    policy, rows, batch = toy_rollouts()
    views = trajectory_views(batch, StepSchedule(None), TOY_TOKENS.mask)
    compared = 0
    for index, row in enumerate(rows):
        for start in sorted({start for _, start in policy.seen[index]}):
            span = slice(start, start + 4)
            forwards = [f for f, (_, active) in enumerate(policy.seen[index]) if active == start]
            acted = {f for f, position, *_ in trace_actions(row) if span.start <= position < span.stop}
            acting = [f for f in forwards if f in acted]
            for number, forward in enumerate(acting):
                assert views[number].noisy[index, span].tolist() == policy.seen[index][forward][0][span]
                compared += 1
            assert not any(view.scored[index, span].any() for view in views[len(acting) :])
            # The clean half of the composite input holds what the decoder had committed before the block.
            assert batch.tokens[index, :start].tolist() == policy.seen[index][forwards[0]][0][:start]
    assert compared > 30


def test_the_slow_replay_of_a_trace_rebuilds_the_same_canvases():
    policy, rows, _ = toy_rollouts()
    for index, row in enumerate(rows):
        size = len(row.prompt.token_ids) + len(row.completion.canvas_ids)
        states = states_before(row.prompt.token_ids, row.completion.trace, size)
        for state, (canvas, active) in zip(states, policy.seen[index], strict=True):
            assert state[: active + 4] == canvas[: active + 4]


def test_a_trajectory_scores_every_action_once_with_weight_one_and_the_engines_log_prob():
    _, rows, batch = toy_rollouts()
    views = trajectory_views(batch, StepSchedule(None), TOY_TOKENS.mask)
    for index, row in enumerate(rows):
        found = scored_actions(views, index)
        assert {weight for _, _, _, weight, _, _ in found} == {1.0}
        kept = sorted((position, target, edit, lp) for _, position, target, _, edit, lp in found)
        assert kept == sorted((position, new, edit, lp) for _, position, new, edit, lp in trace_actions(row))


def test_tokens_behind_a_stop_token_are_scored_because_they_were_sampled():
    _, rows, batch = toy_rollouts()
    views = trajectory_views(batch, StepSchedule(None, actions="unmask"), TOY_TOKENS.mask)
    for index, row in enumerate(rows):
        ever = torch.stack([view.scored[index] for view in views]).any(0)
        begin = len(row.prompt.token_ids)
        assert ever.nonzero()[:, 0].tolist() == list(range(begin, begin + len(row.completion.canvas_ids)))


def test_kept_edits_are_scored_with_the_token_they_kept():
    _, rows, batch = toy_rollouts()
    views = trajectory_views(batch, StepSchedule(None), TOY_TOKENS.mask)
    kept = [
        views[number].noisy[row, position].item() == target
        for row in range(len(rows))
        for number, position, target, _, edit, _ in scored_actions(views, row)
        if edit
    ]
    recorded = [
        old == new
        for row in rows
        for old, new in zip(row.completion.trace.old, row.completion.trace.new, strict=True)
        if old != TOY_TOKENS.mask
    ]
    assert sum(kept) == sum(recorded) > 0
    assert len(kept) == len(recorded)


def test_unscored_edits_still_change_the_later_states():
    # Forward 0 fills slot 0, forward 1 edits it and fills slot 1, forward 2 edits slot 1: an argmax edit has no term.
    trace = DecodeTrace(
        MASK, 3, (0, 1, 1, 2), (0, 0, 1, 1), (MASK, 5, MASK, 6), (5, 4, 6, 2), (-1.0, 0.0, -2.0, 0.0), (-1.0,) * 4
    )
    completion = Completion("p", (4, 2), (4, 2), "length", trace)
    batch = batch_of(Experience(Prompt("p", (3, 3), 0), completion, 1.0, 0))
    views = trajectory_views(batch, StepSchedule(None, actions="unmask"), MASK)
    assert [view.noisy[0].tolist() for view in views] == [[3, 3, MASK, MASK], [3, 3, 5, MASK]]
    assert [view.scored[0].tolist() for view in views] == [[False, False, True, False], [False, False, False, True]]
    assert [view.target[0, view.scored[0]].tolist() for view in views] == [[5], [6]]
    assert not any(view.edit.any() for view in views)
    assert len(trajectory_views(batch, StepSchedule(None), MASK)) == 3


def test_the_first_view_shows_every_block_before_its_first_step():
    _, _, batch = toy_rollouts()
    first = trajectory_views(batch, StepSchedule(None), TOY_TOKENS.mask)[0]
    assert (first.noisy[batch.editable] == TOY_TOKENS.mask).all()
    assert torch.equal(first.noisy[~batch.editable], batch.tokens[~batch.editable])


def test_sampled_steps_are_all_steps_of_blocks_that_took_few():
    _, _, batch = toy_rollouts()
    every = trajectory_views(batch, StepSchedule(None), TOY_TOKENS.mask)
    sampled = trajectory_views(batch, StepSchedule(len(every) + 2), TOY_TOKENS.mask)
    assert len(sampled) == len(every)
    for one, other in zip(every, sampled, strict=True):
        assert torch.equal(one.noisy, other.noisy)
        assert torch.equal(one.weight, other.weight)


def summed_weights(batch: CanvasBatch, num_views: int) -> torch.Tensor:
    """Per draw: weight that each action of the trace got, summed over views."""
    views = trajectory_views(batch, StepSchedule(num_views), TOY_TOKENS.mask)
    states = torch.stack([view.noisy for view in views])
    weights = torch.stack([view.weight for view in views])
    targets = torch.stack([view.target for view in views])
    (trace,), (begin,) = set(batch.traces), set(batch.prompt_lengths)
    size = begin + len(trace.unmask_forward)
    canvases = states_before(batch.tokens[0, :begin].tolist(), trace, size)
    result = []
    for forward, position, new in zip(trace.forward, trace.position, trace.new, strict=True):
        at = begin + position
        span = slice(at // 4 * 4, at // 4 * 4 + 4)
        # A view shows this action when its block is in the state before it.
        same = (states[:, :, span] == torch.tensor(canvases[forward][span])).all(-1) & (targets[:, :, at] == new)
        result.append((weights[:, :, at] * same).sum(0))
    return torch.stack(result, dim=1)


@pytest.mark.parametrize("num_views", [1, 2])
def test_sampled_steps_weigh_one_on_average_over_draws(num_views: int):
    _, rows, _ = toy_rollouts(TOY_DECODE.model_copy(update={"edit_sampling": "argmax"}))
    row = max(rows, key=lambda row: row.completion.num_forwards)
    batch = repeated(collate([row], 4, TOY_TOKENS.pad, "cpu"), 1000)
    weights = summed_weights(batch, num_views)
    assert weights.std(0).max() > 0
    for action in weights.T:
        assert within_four_errors(action, 1.0) or (action == 1.0).all()


@pytest.mark.parametrize("num_views", [1, 2, 3])
def test_sampled_steps_weigh_exactly_one_over_the_whole_draw_space(num_views: int, monkeypatch: pytest.MonkeyPatch):
    _, rows, _ = toy_rollouts(TOY_DECODE.model_copy(update={"edit_sampling": "argmax"}))
    row = max(rows, key=lambda row: row.completion.num_forwards)
    batch = repeated(collate([row], 4, TOY_TOKENS.pad, "cpu"), 840)

    def grid(seed, stream, position):
        # Midpoints of a grid that every number of steps up to 8 divides: the integral over u, exactly.
        return ((seed[:, None] + 0.5) / 840).double().expand(position.shape)

    monkeypatch.setattr(view_module, "uniform", grid)
    mean = summed_weights(batch, num_views).mean(0)
    torch.testing.assert_close(mean, torch.ones_like(mean), rtol=0, atol=1e-12)


def test_a_completion_with_nothing_to_score_has_no_views():
    assert trajectory_views(batch_of(plain_row(3, 5, 0)), StepSchedule(None), MASK) == []


def test_the_estimators_choose_their_views():
    batch = batch_of(*rollouts(tiny_model(), [0, 5, 9]))
    steps = trajectory_views(batch, StepSchedule(None), MASK)
    assert len(steps) > 2
    counts = {
        name: len(make_views(batch, short(estimator=name, ratio="sequence"), MASK, True))
        for name in ("trajectory", "trajectory_sampled", "elbo")
    }
    assert counts == {"trajectory": len(steps), "trajectory_sampled": 2, "elbo": 2}


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_lookahead_moves_a_share_of_each_steps_weight_to_all_slots_still_masked(share: float):
    # Slots 2 and 3 hold the canvas: forward 0 fills slot 2 with 5, forward 1 edits it to 4 and fills slot 3 with 6.
    trace = DecodeTrace(MASK, 2, (0, 1, 1), (0, 0, 1), (MASK, 5, MASK), (5, 4, 6), (-1.0, -1.5, -2.0), (-1.0,) * 3)
    completion = Completion("p", (4, 6), (4, 6), "length", trace)
    batch = batch_of(Experience(Prompt("p", (3, 3), 0), completion, 1.0, 0))
    first, second = trajectory_views(batch, StepSchedule(None, lookahead=share), MASK)
    assert first.weight[0].tolist() == [0.0, 0.0, 1 - share / 2, share / 2]
    assert first.target[0, 2:].tolist() == [5, 6]  # what the step wrote; what the slot will hold
    assert second.weight[0].tolist() == [0.0, 0.0, 1.0, 1.0]  # an edit keeps its weight, the last mask its own
    assert second.edit[0].tolist() == [False, False, True, False]
    for view, recorded in ((first, [-1.0, float("nan")]), (second, [-1.5, -2.0])):
        assert view.rollout_log_prob is not None
        torch.testing.assert_close(view.rollout_log_prob[0, 2:].tolist(), recorded, equal_nan=True)


def test_lookahead_keeps_the_total_weight_of_every_completion():
    _, _, batch = toy_rollouts()
    plain, ahead = (trajectory_views(batch, StepSchedule(None, lookahead=s), TOY_TOKENS.mask) for s in (0.0, 0.7))
    totals = [sum(view.weight.sum(-1) for view in views) for views in (plain, ahead)]
    torch.testing.assert_close(totals[0], totals[1], rtol=0, atol=1e-12)
    assert sum(int(view.scored.sum()) for view in ahead) > sum(int(view.scored.sum()) for view in plain)
