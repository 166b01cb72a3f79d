"""Scored views: the noisy canvases that a likelihood estimator looks at, and what it scores in each.

An estimator turns completions into `View`s. A view is one composite forward: for every block one noisy state, the
positions scored in it, their targets and weights. Two families:

* `trajectory_views`: the states the editing decoder really went through. With positions chosen by the state alone,
  the sum of the log-probabilities of the tokens drawn there is the sampler's own log-likelihood.
* `elbo_views`: states made by masking the final canvas at random; the weighted sum is an unbiased estimate of the
  block ELBO.

Draws depend on (noise seed, view, position) only, so the new, the old and the reference policy share them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl.batch import CanvasBatch
from rl.config import AlgorithmConfig
from rollout.sampling import uniform
from rollout.trajectory import DecodeTrace


@dataclass(frozen=True)
class View:
    """One noisy state per block and what is scored in it; one composite forward."""

    noisy: Int[Tensor, "batch length"]
    target: Int[Tensor, "batch length"]
    scored: Bool[Tensor, "batch length"]
    weight: Float[Tensor, "batch length"]
    edit: Bool[Tensor, "batch length"]  # scored as T2T (the position showed a token) rather than M2T
    rollout_log_prob: Float[Tensor, "batch length"] | None  # nats, as the engine recorded; None: nothing recorded


def make_views(batch: CanvasBatch, config: AlgorithmConfig, mask_id: int, score_edits: bool) -> list[View]:
    """The views of the configured estimator; `score_edits` says that edits were sampled, not argmax."""
    if config.estimator == "elbo":
        return elbo_views(batch, config.num_mc, config.noise, mask_id)
    num_views = config.num_mc if config.estimator == "trajectory_sampled" else None
    return trajectory_views(batch, num_views, mask_id, score_edits)


def elbo_views(batch: CanvasBatch, num_mc: int, noise: str, mask_id: int) -> list[View]:
    """Masked views of the final canvas whose weighted log-probability sums are the block ELBO in expectation.

    A block with n editable positions, by `noise`:

    * `exact_count`: k ~ U{1..n} positions masked, weight n / k (E2 of design/ALGORITHMS.md).
    * `stratified`: the same, the `num_mc` levels of a block drawn from separate strata of the unit interval.
    * `bernoulli`: t ~ U(0, 1), every position masked with probability t, weight 1 / t (E1).

    Args:
        batch: Canvases.
        num_mc: Number of views; each carries weight 1 / num_mc.
        noise: One of the names above.
        mask_id: The mask token.

    Returns:
        `num_mc` views, M2T only. Unbiased for the ELBO of every block, and so for their sum.
    """
    rows, length = batch.tokens.shape
    blocks = batch.editable.view(rows, -1, batch.block_length)
    position = torch.arange(length, device=blocks.device).expand(rows, -1)
    block = torch.arange(blocks.shape[1], device=blocks.device).expand(rows, -1)

    def draw(view: int, kind: int, counter: Tensor) -> Tensor:
        # A stream for each kind of draw, not a range of counters: those would move with the batch's padding.
        return uniform(batch.noise_seeds, torch.full_like(batch.noise_seeds, 3 * view + kind), counter)

    strata = torch.stack([draw(view, 2, block) for view in range(num_mc)]).argsort(0)
    views = []
    for view in range(num_mc):
        level = draw(view, 1, block)
        if noise == "stratified":
            level = (strata[view] + level) / num_mc
        masked, weight = mask_blocks(blocks, level, draw(view, 0, position).view_as(blocks), noise)
        masked = masked.view(rows, length)
        views.append(
            View(
                noisy=torch.where(masked, mask_id, batch.tokens),
                target=batch.tokens,
                scored=masked,
                weight=weight.view(rows, length) / num_mc,
                edit=torch.zeros_like(masked),
                rollout_log_prob=None,
            )
        )
    return views


def mask_blocks(
    blocks: Bool[Tensor, "rows blocks slots"],
    level: Float[Tensor, "rows blocks"],
    rank: Float[Tensor, "rows blocks slots"],
    noise: str,
) -> tuple[Bool[Tensor, "rows blocks slots"], Float[Tensor, "rows blocks slots"]]:
    """Masks of one view from uniform draws, a level per block and a rank per slot; see `elbo_views` for `noise`.

    Returns:
        The masked slots, all of them among the editable `blocks`, and their weights (0 elsewhere).
    """
    if noise == "bernoulli":
        masked, weight = blocks & (rank < level[..., None]), 1 / level.clamp_min(1e-12)
    else:
        size = blocks.sum(-1)
        count = (level * size).floor().clamp_max(size - 1) + 1  # 1..n: floor(u n) alone would never mask all
        order = rank.masked_fill(~blocks, 2.0).argsort(-1).argsort(-1)
        masked, weight = blocks & (order < count[..., None]), size / count.clamp_min(1)
    return masked, masked * weight[..., None]


def trajectory_views(batch: CanvasBatch, num_views: int | None, mask_id: int, score_edits: bool) -> list[View]:
    """Views of the decoder's own steps: the state before a step, scored at the positions the step acted on.

    A block that took m acting steps is scored at all of them (`num_views` None, or m <= num_views), or at one step
    from each of `num_views` strata with weight m / num_views: unbiased for the sum over all steps.

    Args:
        batch: Canvases with their traces.
        num_views: Steps scored per block; None: all of them.
        mask_id: The mask token.
        score_edits: Score edits too. Only sampled edits have a likelihood: an argmax edit is a deterministic function
            of the state.

    Returns:
        Views in which every block has at most one step.
    """
    rows = [_RowSteps.read(trace, batch, row, mask_id, score_edits) for row, trace in enumerate(batch.traces)]
    most = max((len(steps) for row in rows for steps in row.steps.values()), default=0)
    count = most if num_views is None else min(num_views, most)
    position = torch.arange(batch.tokens.shape[1]).expand(len(rows), -1)
    seeds = batch.noise_seeds.cpu()
    views = []
    for view in range(count):
        strata = uniform(seeds, torch.full_like(seeds, view), position).numpy()
        drawn = [row.view(view, num_views, strata[index]) for index, row in enumerate(rows)]
        noisy, target, weight, edit, log_prob = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
        device = batch.tokens.device
        views.append(
            View(
                noisy=noisy.to(device),
                target=target.to(device),
                scored=(weight > 0).to(device),
                weight=weight.to(device),
                edit=edit.to(device),
                rollout_log_prob=log_prob.to(device),
            )
        )
    return views


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
    steps: dict[int, np.ndarray]  # block -> its forwards with something to score, in order

    @classmethod
    def read(cls, trace: DecodeTrace, batch: CanvasBatch, row: int, mask_id: int, score_edits: bool) -> "_RowSteps":
        forward, new = np.asarray(trace.forward, dtype=np.int64), np.asarray(trace.new, dtype=np.int64)
        position = np.asarray(trace.position, dtype=np.int64) + batch.prompt_lengths[row]
        edit = np.asarray(trace.old, dtype=np.int64) != mask_id
        scored = ~edit | score_edits
        block = position // batch.block_length
        blank = torch.where(batch.editable[row], mask_id, batch.tokens[row]).cpu().numpy()
        steps = {int(b): np.unique(forward[scored & (block == b)]) for b in np.unique(block[scored])}
        return cls(forward, position, block, new, edit, np.asarray(trace.log_prob), scored, blank, steps)

    def view(self, view: int, num_views: int | None, strata: np.ndarray) -> tuple[np.ndarray, ...]:
        """Noisy tokens, targets, weights, edit flags and engine log-probs of one view of this row."""
        length = len(self.blank)
        chosen = np.full(int(self.block.max(initial=0)) + 1, -1, dtype=np.int64)
        scale = np.ones(len(chosen))
        for block, forwards in self.steps.items():
            if num_views is None or len(forwards) <= num_views:
                chosen[block] = forwards[view] if view < len(forwards) else -1
            else:
                scale[block] = len(forwards) / num_views
                index = int((view + strata[block]) * scale[block])
                chosen[block] = forwards[min(index, len(forwards) - 1)]
        noisy = self.blank.copy()
        before = self.forward < chosen[self.block]
        noisy[self.position[before]] = self.new[before]  # in forward order: the last write of a position stays
        here = (self.forward == chosen[self.block]) & self.scored
        at = self.position[here]
        target, weight = noisy.copy(), np.zeros(length)
        edit, log_prob = np.zeros(length, dtype=bool), np.zeros(length)
        target[at], weight[at], edit[at] = self.new[here], scale[self.block[here]], self.edit[here]
        log_prob[at] = self.log_prob[here]
        return noisy, target, weight, edit, log_prob


def supervised_view(
    batch: CanvasBatch, mask_ratio: tuple[float, float], edit_ratio: float, t2t_weight: float, mask_id: int
) -> View:
    """The M2T + T2T mixture of supervised training: one noisy state per block with both kinds of noise.

    A block with n editable positions has k = 1 + floor(t n) of them masked (at most n), t uniform in `mask_ratio`;
    each still visible position is replaced with probability `edit_ratio` by a token from elsewhere in the batch.
    Masked positions carry the ELBO weight n / k; visible ones are scored too (repair what is wrong, keep what is
    right) with weight `t2t_weight` times n over their number, so both terms have one unit.

    Source: LLaDA2.1 section on the mixture; ratios there are unpublished, ours are configurable.
    """
    rows, length = batch.tokens.shape
    blocks = batch.editable.view(rows, -1, batch.block_length)
    size = blocks.sum(-1)
    position = torch.arange(length, device=size.device).expand(rows, -1)
    block = torch.arange(blocks.shape[1], device=size.device).expand(rows, -1)

    def draw(stream: int, counter: Tensor) -> Tensor:
        return uniform(batch.noise_seeds, torch.full_like(batch.noise_seeds, stream), counter)

    low, high = mask_ratio
    level = low + (high - low) * draw(0, block)
    count = ((level * size).floor() + 1).clamp_max(size)
    rank = draw(1, position).view_as(blocks).masked_fill(~blocks, 2.0).argsort(-1).argsort(-1)
    masked = (blocks & (rank < count[..., None])).reshape(rows, length)
    visible = batch.editable & ~masked
    wrong = visible & (draw(2, position) < edit_ratio)
    pool = batch.tokens[batch.editable]
    substitute = pool[(draw(3, position) * len(pool)).long()]
    noisy = torch.where(wrong, substitute, batch.tokens).masked_fill(masked, mask_id)
    unmask_weight = (size / count.clamp_min(1)).repeat_interleave(batch.block_length, dim=1)
    seen = (size - count).clamp_min(1)
    edit_weight = (t2t_weight * size / seen).repeat_interleave(batch.block_length, dim=1)
    weight = torch.where(masked, unmask_weight, edit_weight) * batch.editable
    return View(noisy, batch.tokens, weight > 0, weight, visible, None)
