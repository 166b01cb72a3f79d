"""Trajectory views: the states that the editing decoder really went through, scored at what it wrote there.

With positions chosen by the state alone, the sum of the log-probabilities of the tokens drawn is the sampler's own
log-likelihood (math.md eq 13), edits included; its gradient is the policy gradient (eq 14).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from redraft.rl.views.canvas import CanvasBatch
from redraft.rl.views.view import View, draw_uniforms, position_counter
from redraft.rollout.trajectory import DecodeTrace

Actions = Literal["all", "unmask", "edit"]
SURPRISAL_FLOOR = 0.5  # share of the uniform law in the surprisal schedule, which bounds the weights


@dataclass(frozen=True)
class StepSchedule:
    """Which steps are scored, and together with which.

    Attributes:
        num_views: Steps scored per block; None: all of them.
        actions: Score everything drawn, or one kind of action.
        sampling: Law of the sampled steps: `uniform`, or `surprisal` (more often where -log p was large).
        shrink: This many neighbouring steps are scored from the state before the first (TraceRL's s; eq 35).
        merge: A block's steps are cut into at most this many segments, scored likewise (d2's N; eq 35); 0: not cut.
        lookahead: Share of a step's weight that goes in equal parts to all slots still masked, with their final
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
        """Every step is scored from the state it was taken in, not together with others."""
        return self.shrink == 1 and self.merge == 0


def trajectory_views(batch: CanvasBatch, schedule: StepSchedule, mask_id: int) -> list[View]:
    """Views of the decoder's own steps: the state before a step, scored at the positions the step acted on.

    A block that took m acting steps is scored at all of them (`num_views` None, or m <= num_views), or at one step from
    each of `num_views` strata with weight 1 / (num_views q): unbiased for the sum over all steps (math.md eq 15).

    Args:
        batch: Canvases with their traces.
        schedule: Which steps.
        mask_id: The mask token.

    Returns:
        Views in which every block has at most one step.
    """
    rows = [_RowSteps.read(trace, batch, row, mask_id, schedule) for row, trace in enumerate(batch.traces)]
    most = max((len(segments) for row in rows for segments in row.segments.values()), default=0)
    count = most if schedule.num_views is None else min(schedule.num_views, most)
    views = []
    for view in range(count):
        strata = draw_uniforms(batch, "denoising_step", view, position_counter(batch)).cpu().numpy()
        drawn = [row.view(view, schedule, strata[index]) for index, row in enumerate(rows)]
        parts = (torch.from_numpy(np.stack(part)).to(batch.tokens.device) for part in zip(*drawn, strict=True))
        noisy, target, weight, edit, log_prob, step, acted = parts
        views.append(
            View(
                noisy=noisy,
                target=target,
                scored=weight > 0,
                weight=weight,
                edit=edit,
                rollout_log_prob=log_prob if schedule.own_states else None,
                denoising_step=step,
                acted=acted if schedule.own_states else None,
            )
        )
    return views


def left_to_right(batch: CanvasBatch, mask_id: int) -> CanvasBatch:
    """The same canvases as if written one token at a time from left to right: JustGRPO's view (math.md eq 39).

    Source: JustGRPO (arXiv 2601.15165).
    """
    return replace(batch, traces=tuple(_ordered_trace(tokens, mask_id) for tokens in _canvases(batch)))


def _canvases(batch: CanvasBatch) -> list[list[int]]:
    return [tokens[editable].tolist() for tokens, editable in zip(batch.tokens, batch.editable, strict=True)]


def _ordered_trace(tokens: list[int], mask_id: int) -> DecodeTrace:
    steps, size = tuple(range(len(tokens))), len(tokens)
    unknown = (float("nan"),) * size
    return DecodeTrace(mask_id, size, steps, steps, (mask_id,) * size, tuple(tokens), unknown, unknown)


@dataclass(frozen=True)
class _RowSteps:
    """One completion's actions on the block grid."""

    forward: np.ndarray
    position: np.ndarray  # absolute
    block: np.ndarray
    new: np.ndarray
    edit: np.ndarray
    log_prob: np.ndarray
    scored: np.ndarray
    blank: np.ndarray  # the canvas before any step: prompt tokens and masks
    mask_id: int
    num_blocks: int
    segments: dict[int, np.ndarray]  # block -> first and last forward of each segment with something to score

    @classmethod
    def read(
        cls, trace: DecodeTrace, batch: CanvasBatch, row: int, mask_id: int, schedule: StepSchedule
    ) -> "_RowSteps":
        forward, new = np.asarray(trace.forward, dtype=np.int64), np.asarray(trace.new, dtype=np.int64)
        position = np.asarray(trace.position, dtype=np.int64) + batch.prompt_lengths[row]
        edit = np.asarray(trace.old, dtype=np.int64) != mask_id
        scored = {"all": np.ones_like(edit), "unmask": ~edit, "edit": edit}[schedule.actions]
        block = position // batch.block_length
        blank = torch.where(batch.editable[row], mask_id, batch.tokens[row]).cpu().numpy()
        segments = {
            int(b): _segments(np.unique(forward[scored & (block == b)]), schedule) for b in np.unique(block[scored])
        }
        log_prob, number = np.asarray(trace.log_prob, dtype=np.float64), len(blank) // batch.block_length
        return cls(forward, position, block, new, edit, log_prob, scored, blank, mask_id, number, segments)

    def view(self, view: int, schedule: StepSchedule, strata: np.ndarray) -> tuple[np.ndarray, ...]:
        """Noisy tokens, targets, weights, edit flags, engine log-probs, steps and acting slots of one view."""
        first = np.full(self.num_blocks, -1, dtype=np.int64)
        last, scale = first.copy(), np.ones(self.num_blocks)
        for block, segments in self.segments.items():
            index, scale[block] = self._choose(block, view, schedule, strata[block])
            if index is not None:
                first[block], last[block] = segments[index]
        noisy = self.blank.copy()
        before = self.forward < first[self.block]
        noisy[self.position[before]] = self.new[before]  # in forward order: the last write of a position stays
        inside = (self.forward >= first[self.block]) & (self.forward <= last[self.block])
        here = inside & self.scored
        at = self.position[here]
        target, length = noisy.copy(), len(noisy)
        weight, log_prob = np.zeros(length), np.zeros(length)
        edit, acted = np.zeros(length, dtype=bool), np.zeros(length, dtype=bool)
        target[at], weight[at], log_prob[at] = self.new[here], scale[self.block[here]], self.log_prob[here]
        if schedule.lookahead:
            later = self._look_ahead(schedule.lookahead, here, noisy, target, weight)
            log_prob[later] = np.nan  # the engine drew these in later states
        edit[at[::-1]] = self.edit[here][::-1]  # reversed: a position's first action in the segment says what it showed
        acted[self.position[inside]] = True
        return noisy, target, weight, edit, log_prob, first, acted

    def _look_ahead(
        self, share: float, here: np.ndarray, noisy: np.ndarray, target: np.ndarray, weight: np.ndarray
    ) -> list[int]:
        """Move a share of the weight of each step's unmasks to all slots of its block that are masked before it.

        Returns:
            The slots that were filled later.
        """
        final = self.blank.copy()
        final[self.position] = self.new
        unmasks, others = here & ~self.edit, []
        for block in np.unique(self.block[unmasks]):
            at = self.position[unmasks & (self.block == block)]
            open_slots = self.position[(self.block == block) & ~self.edit & (noisy[self.position] == self.mask_id)]
            total = weight[at].sum()
            weight[at] *= 1 - share
            later = np.setdiff1d(open_slots, at)
            target[later] = final[later]
            weight[open_slots] += share * total / len(open_slots)
            others += later.tolist()
        return others

    def _choose(self, block: int, view: int, schedule: StepSchedule, stratum: float) -> tuple[int | None, float]:
        """The segment of a block that a view scores, and the weight of its actions."""
        number = len(self.segments[block])
        if schedule.num_views is None or number <= schedule.num_views:
            return (view if view < number else None), 1.0
        chance = np.full(number, 1 / number)
        if schedule.sampling == "surprisal":
            chance = SURPRISAL_FLOOR * chance + (1 - SURPRISAL_FLOOR) * self._surprisal(block)
        edges = chance.cumsum()
        index = min(int(np.searchsorted(edges, (view + stratum) / schedule.num_views, side="right")), number - 1)
        return index, 1 / (schedule.num_views * chance[index])

    def _surprisal(self, block: int) -> np.ndarray:
        """Each segment's share of the block's surprisal under the rollout policy."""
        mine = self.scored & (self.block == block)
        index = np.searchsorted(self.segments[block][:, 0], self.forward[mine], side="right") - 1
        total = np.bincount(index, weights=-self.log_prob[mine], minlength=len(self.segments[block]))
        return total / total.sum() if total.sum() > 0 else np.full(len(total), 1 / len(total))


def _segments(forwards: np.ndarray, schedule: StepSchedule) -> np.ndarray:
    """First and last forward of each run of a block's acting forwards that is scored together."""
    if schedule.merge:
        runs = np.array_split(forwards, min(schedule.merge, len(forwards)))
    else:
        runs = [forwards[start : start + schedule.shrink] for start in range(0, len(forwards), schedule.shrink)]
    return np.array([(run[0], run[-1]) for run in runs])
