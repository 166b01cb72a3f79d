"""Trajectory views: the states that the editing decoder really went through, scored at what it wrote there.

A denoising step is one forward of the decoder that acted on the block; a segment is a run of them that is scored
together.

With positions chosen by the state alone, the sum of the log-probabilities of the tokens drawn is the sampler's own
log-likelihood (math.md eq 13), edits included; its gradient is the policy gradient (eq 14).

**Guarantees**
    * A scored block shows the canvas as it was right before the segment that is scored.
    * If every denoising step is scored in its own state and without lookahead, the weights of each scored action add up
      to 1 over all views: always if all denoising steps are scored, in the mean over the draws if they are sampled
      (eq 15).
    * Which denoising steps are sampled depends on the sequence's own noise seed and trace, not on its neighbours in the
      batch.

**Assumes**
    * A trace lists its actions in the order of the forwards.
    * All actions of one forward lie in one block. A view shows at most one state per block; one composite forward
      scores all blocks, because a block sees only what was committed before it.
    * The engine's log-probabilities, which the sampling `surprisal` reads, are those of the policy that drew them.

**Rejected alternatives**
    * One view per forward of the decoder: a completion of 8 blocks would need about 8 times the composite forwards.
    * Recording every canvas in the trace: replaying the actions gives the same canvases and needs a fraction of the
      memory.
    * Tensors instead of numpy arrays: traces differ in length and every block has its own segments, so nothing here has
      the shape of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from redraft.rl.views.canvas import CanvasBatch
from redraft.rl.views.view import View, block_counter, draw_uniforms
from redraft.rollout.trajectory import DecodeTrace

Actions = Literal["all", "unmask", "edit"]
SURPRISAL_FLOOR = 0.5  # share of uniform chances in those of `surprisal`, which bounds the weights


@dataclass(frozen=True)
class StepSchedule:
    """Which denoising steps are scored, and together with which.

    Attributes:
        num_views: Denoising steps scored per block. None scores all of them.
        actions: Score everything drawn, or one kind of action.
        sampling: Chances of sampled denoising steps: `uniform`, or `surprisal` (more often where -log p was large).
        shrink: This many neighbouring denoising steps are one segment (TraceRL's s; eq 35).
        merge: A block's denoising steps are cut into at most this many segments (d2's N; eq 35). With 0, `shrink` alone
            decides.
        lookahead: Share of a segment's weight that goes in equal parts to all positions still masked, with their final
            tokens: biased, of much less variance, and no further forward (eq 48).
    """

    num_views: int | None
    actions: Actions = "all"
    sampling: Literal["uniform", "surprisal"] = "uniform"
    shrink: int = 1
    merge: int = 0
    lookahead: float = 0.0

    @property
    def own_states(self) -> bool:
        """Every denoising step is scored from the state it was taken in, not together with others."""
        return self.shrink == 1 and self.merge == 0


def trajectory_views(batch: CanvasBatch, schedule: StepSchedule, mask_id: int) -> list[View]:
    """Make views of the decoder's own denoising steps: the state before each, scored at the positions it acted on.

    A block with m segments is scored at all of them (`num_views` None, or m <= num_views), or at one segment from each
    of `num_views` strata with weight 1 / (num_views q): unbiased for the sum over all segments (math.md eq 15).

    Args:
        batch: Canvases with their traces.
        schedule: Which denoising steps.
        mask_id: The mask token.

    Returns:
        Views in which every block shows at most one segment.
    """
    sequences = [_Actions.read(batch, index, mask_id, schedule) for index in range(len(batch.traces))]
    most = max((len(segments) for actions in sequences for segments in actions.segments.values()), default=0)
    count = most if schedule.num_views is None else min(schedule.num_views, most)
    views = []
    for number in range(count):
        strata = draw_uniforms(batch, "denoising_step", number, block_counter(batch)).cpu().numpy()
        shown = [actions.view(number, schedule, strata[index]) for index, actions in enumerate(sequences)]
        views.append(_stacked(shown, schedule.own_states, batch.tokens.device))
    return views


def left_to_right(batch: CanvasBatch, mask_id: int) -> CanvasBatch:
    """Replace the traces as if the canvases were written from left to right, one token at a time (math.md eq 39).

    Source: JustGRPO (arXiv 2601.15165).
    """
    canvases = [tokens[editable].tolist() for tokens, editable in zip(batch.tokens, batch.editable, strict=True)]
    return replace(batch, traces=tuple(_ordered_trace(canvas, mask_id) for canvas in canvases))


def _ordered_trace(tokens: list[int], mask_id: int) -> DecodeTrace:
    size = len(tokens)
    order = tuple(range(size))
    unknown = (float("nan"),) * size
    return DecodeTrace(
        mask=mask_id,
        num_forwards=size,
        forward=order,
        position=order,
        old=(mask_id,) * size,
        new=tuple(tokens),
        log_prob=unknown,
        log_prob_raw=unknown,
    )


class _SequenceView(NamedTuple):
    """One view of one sequence: what `View` holds per position, and per block the forward whose state is shown."""

    noisy: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    edit: np.ndarray
    log_prob: np.ndarray
    acted: np.ndarray
    forward: np.ndarray


def _stacked(sequences: Sequence[_SequenceView], own_states: bool, device: torch.device) -> View:
    """Stack one view of every sequence into a `View` of the batch.

    Args:
        sequences: In the order of the batch.
        own_states: Every denoising step is scored in its own state. Otherwise the engine's log-probabilities, which it
            took in other states, are left out, and so is what the decoder did in the first state alone.
        device: Of the view.
    """

    def stack(parts: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(parts)).to(device)

    weight = stack([one.weight for one in sequences])
    return View(
        noisy=stack([one.noisy for one in sequences]),
        target=stack([one.target for one in sequences]),
        scored=weight > 0,
        weight=weight,
        edit=stack([one.edit for one in sequences]),
        rollout_log_prob=stack([one.log_prob for one in sequences]) if own_states else None,
        denoising_step=stack([one.forward for one in sequences]),
        acted=stack([one.acted for one in sequences]) if own_states else None,
    )


@dataclass(frozen=True)
class _Actions:
    """One completion's actions on the block grid, one array entry per action.

    Attributes:
        forward: Forward of the action, counted within the completion.
        position: Absolute position.
        block: Block of the position.
        new: Token that it wrote.
        edit: It replaced a token and not a mask.
        log_prob: Nats, as the engine recorded them.
        scored: It is of a kind that the schedule scores.
        blank: The canvas before the first forward: prompt tokens and masks.
        mask_id: The mask token.
        num_blocks: Blocks of the canvas.
        segments: Block -> first and last forward of each of its segments, `[segments, 2]`. Only forwards with
            something to score count.
    """

    forward: np.ndarray
    position: np.ndarray
    block: np.ndarray
    new: np.ndarray
    edit: np.ndarray
    log_prob: np.ndarray
    scored: np.ndarray
    blank: np.ndarray
    mask_id: int
    num_blocks: int
    segments: dict[int, np.ndarray]

    @classmethod
    def read(cls, batch: CanvasBatch, index: int, mask_id: int, schedule: StepSchedule) -> "_Actions":
        """Read the trace of one sequence of a batch."""
        trace = batch.traces[index]
        forward = np.asarray(trace.forward, dtype=np.int64)
        position = np.asarray(trace.position, dtype=np.int64) + batch.prompt_lengths[index]
        block = position // batch.block_length
        edit = np.asarray(trace.old, dtype=np.int64) != mask_id
        scored = {"all": np.ones_like(edit), "unmask": ~edit, "edit": edit}[schedule.actions]
        blank = torch.where(batch.editable[index], mask_id, batch.tokens[index]).cpu().numpy()
        segments = {}
        for number in np.unique(block[scored]):
            acting = np.unique(forward[scored & (block == number)])
            segments[int(number)] = _segments(acting, schedule)
        return cls(
            forward=forward,
            position=position,
            block=block,
            new=np.asarray(trace.new, dtype=np.int64),
            edit=edit,
            log_prob=np.asarray(trace.log_prob, dtype=np.float64),
            scored=scored,
            blank=blank,
            mask_id=mask_id,
            num_blocks=len(blank) // batch.block_length,
            segments=segments,
        )

    def view(self, number: int, schedule: StepSchedule, strata: np.ndarray) -> _SequenceView:
        """Show every block before its chosen segment, and score what the segment wrote.

        Args:
            number: Number of the view.
            schedule: Which denoising steps.
            strata: A uniform draw per block.
        """
        first, last, scale = self._windows(number, schedule, strata)
        noisy = self._canvas_before(first)
        inside = (self.forward >= first[self.block]) & (self.forward <= last[self.block])
        scored = inside & self.scored
        at = self.position[scored]
        # A segment of several forwards may write one position twice. Then the last action counts...
        target, weight, log_prob = noisy.copy(), np.zeros(len(noisy)), np.zeros(len(noisy))
        target[at] = self.new[scored]
        weight[at] = scale[self.block[scored]]
        log_prob[at] = self.log_prob[scored]
        if schedule.lookahead:
            ahead = self._look_ahead(schedule.lookahead, scored, noisy, target, weight)
            log_prob[ahead] = np.nan  # the engine drew these in later states
        # ... but whether it is an edit depends on what the view shows, so the first action decides: written last here.
        edit, acted = np.zeros(len(noisy), dtype=bool), np.zeros(len(noisy), dtype=bool)
        edit[at[::-1]] = self.edit[scored][::-1]
        acted[self.position[inside]] = True
        return _SequenceView(noisy, target, weight, edit, log_prob, acted, first)

    def _windows(
        self, number: int, schedule: StepSchedule, strata: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Choose the segment that a view scores in every block.

        Returns:
            Per block, the first and the last forward of its segment, -1 if none, and the weight of its actions.
        """
        first = np.full(self.num_blocks, -1, dtype=np.int64)
        last, scale = first.copy(), np.ones(self.num_blocks)
        for block, segments in self.segments.items():
            chosen, scale[block] = self._choose(block, number, schedule, strata[block])
            if chosen is not None:
                first[block], last[block] = segments[chosen]
        return first, last, scale

    def _canvas_before(self, first: np.ndarray) -> np.ndarray:
        """Replay the actions of every block that precede the given forward; a block with -1 stays blank."""
        canvas = self.blank.copy()
        earlier = self.forward < first[self.block]
        canvas[self.position[earlier]] = self.new[earlier]  # in order of the forwards: a position's last token stays
        return canvas

    def _look_ahead(
        self, share: float, scored: np.ndarray, noisy: np.ndarray, target: np.ndarray, weight: np.ndarray
    ) -> list[int]:
        """Give a share of the weight of each segment's unmasks to all positions of its block that are still masked.

        Args:
            share: Of the weight.
            scored: The actions that the view scores.
            noisy: The canvas that the view shows.
            target: Gets the final tokens of the positions that the segment left masked.
            weight: Is changed in place; its sum stays.

        Returns:
            The positions that the segment left masked.
        """
        final = self.blank.copy()
        final[self.position] = self.new
        unmasks = scored & ~self.edit
        shown_masked = ~self.edit & (noisy[self.position] == self.mask_id)
        left_masked: list[int] = []
        for block in np.unique(self.block[unmasks]):
            written = self.position[unmasks & (self.block == block)]
            masked = self.position[shown_masked & (self.block == block)]
            total = weight[written].sum()
            weight[written] *= 1 - share
            later = np.setdiff1d(masked, written)
            target[later] = final[later]
            weight[masked] += share * total / len(masked)
            left_masked += later.tolist()
        return left_masked

    def _choose(self, block: int, number: int, schedule: StepSchedule, stratum: float) -> tuple[int | None, float]:
        """Choose the segment of a block that a view scores, and the weight of its actions.

        If there are no more segments than views, view i scores segment i. Otherwise the unit interval is cut into
        pieces as long as the segments' chances and into as many strata as there are views; view i draws a point of
        stratum i.
        """
        count = len(self.segments[block])
        if schedule.num_views is None or count <= schedule.num_views:
            return (number if number < count else None), 1.0
        chance = np.full(count, 1 / count)
        if schedule.sampling == "surprisal":
            chance = SURPRISAL_FLOOR * chance + (1 - SURPRISAL_FLOOR) * self._surprisal(block)
        point = (number + stratum) / schedule.num_views
        found = int(np.searchsorted(chance.cumsum(), point, side="right"))
        chosen = min(found, count - 1)  # the chances' sum may be rounded to less than the point
        return chosen, 1 / (schedule.num_views * chance[chosen])

    def _surprisal(self, block: int) -> np.ndarray:
        """Each segment's share of the block's surprisal under the rollout policy."""
        mine = self.scored & (self.block == block)
        starts = self.segments[block][:, 0]
        segment = np.searchsorted(starts, self.forward[mine], side="right") - 1
        total = np.bincount(segment, weights=-self.log_prob[mine], minlength=len(starts))
        return total / total.sum() if total.sum() > 0 else np.full(len(total), 1 / len(total))


def _segments(forwards: np.ndarray, schedule: StepSchedule) -> np.ndarray:
    """First and last forward of each run of a block's acting forwards that is scored together."""
    if schedule.merge:
        runs = np.array_split(forwards, min(schedule.merge, len(forwards)))
    else:
        runs = [forwards[start : start + schedule.shrink] for start in range(0, len(forwards), schedule.shrink)]
    return np.array([(run[0], run[-1]) for run in runs])
