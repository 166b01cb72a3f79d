"""ELBO views: masked copies of the canvas whose weighted log-probability sums estimate the block ELBO.

A masking scheme makes three independent choices: how the number k of masked positions of a block is drawn, how the
draws of several views depend on each other, and which positions are masked given their number. Equations are in
docs/math.md.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from redraft.rl.views.canvas import CanvasBatch
from redraft.rl.views.view import View, block_counter, draw_uniforms, masked_view, position_counter, ranks, spread

Noise = Literal["exact_count", "bernoulli", "cyclic", "gauss", "coupled", "folded"]
PAIRED: tuple[str, ...] = ("coupled", "folded")

BlockInts = Int[Tensor, "batch blocks"]
BlockFloats = Float[Tensor, "batch blocks"]


@dataclass(frozen=True)
class MaskingScheme:
    """How masks are drawn. All schemes but `gauss` are unbiased for the ELBO of every block.

    Attributes:
        num_mc: Views.
        noise: `exact_count`: k ~ q on 1..n (math.md eq 6); `bernoulli`: t ~ U(0, 1), each position with probability t,
            weight 1 / t (eq 1); `cyclic`: exact count, levels on a grid over (view, block) cells with one random shift
            (DARE's EBPO; eq 8); `gauss`: k = round(t n) at Gauss-Legendre nodes t (GDPO; eq 12, biased); `coupled`:
            pairs of complements, k ~ U{0..n} (ESPO; eq 10); `folded`: pairs of complements, k ~ U{1..n} (eq 11).
        stratify: The views' levels come from separate strata of the unit interval, in random order per block (eq 8).
        count_exponent: q(k) ~ k^-a for exact counts; 0 is uniform (optimum: eq 7).
        tiles: Views mask consecutive arcs of one random order of the block's positions (eq 9).
        masks_per_level: Views that share one level (VRPO's n_y); 1 is the best use of a budget.
    """

    num_mc: int
    noise: Noise = "exact_count"
    stratify: bool = True
    count_exponent: float = 0.0
    tiles: bool = False
    masks_per_level: int = 1

    @property
    def views_per_level(self) -> int:
        """Views that one level decides."""
        return 2 if self.noise in PAIRED else self.masks_per_level


def elbo_views(batch: CanvasBatch, scheme: MaskingScheme, mask_id: int) -> list[View]:
    """Make `scheme.num_mc` masked views of the final canvas, M2T only; the sum over them estimates the ELBO.

    Source: math.md eq 1 to 12; LLaDA2.0 (block diffusion), EBPO (arXiv 2602.08676), ESPO (2512.03759).
    """
    levels = _levels(batch, scheme)
    level_of_view = [levels[view // scheme.views_per_level] for view in range(scheme.num_mc)]
    if scheme.noise == "bernoulli":
        return [_bernoulli_view(batch, level, view, scheme, mask_id) for view, level in enumerate(level_of_view)]
    blocks = batch.editable.view(len(batch.tokens), -1, batch.block_length)
    size = blocks.sum(-1)
    views: list[View] = []
    order, covered = ranks(batch, 0), torch.zeros_like(size)
    for view, level in enumerate(level_of_view):
        # Views of one group mask consecutive arcs of one order; a new group starts with an order of its own.
        if view > 0 and _order_group(view, scheme) != _order_group(view - 1, scheme):
            order, covered = ranks(batch, _order_group(view, scheme)), torch.zeros_like(size)
        count, weight = mask_count(level, size, view, scheme)
        masked = arc(order, covered, count, size) & blocks
        views.append(masked_view(batch, masked.flatten(1), spread(weight, batch), mask_id))
        covered = covered + count
    return views


def mask_count(level: BlockFloats, size: BlockInts, view: int, scheme: MaskingScheme) -> tuple[BlockInts, BlockFloats]:
    """Compute the number of masked positions per block, and the weight of each in the ELBO, from a uniform level.

    Args:
        level: One number in [0, 1) per block (for `gauss`: the node).
        size: Editable positions n of each block.
        view: Which view; pairs take their complement at odd ones.
        scheme: How masks are drawn.

    Returns:
        k and its weight; blocks without editable positions have k = 0.
    """
    if scheme.noise in PAIRED:
        return _paired_count(level, size, view, scheme)
    if scheme.noise == "gauss":
        return _gauss_count(level, size, view, scheme)
    return _drawn_count(level, size, scheme)


def _paired_count(
    level: BlockFloats, size: BlockInts, view: int, scheme: MaskingScheme
) -> tuple[BlockInts, BlockFloats]:
    """Two complementary masks from one level (eq 10, 11)."""
    first, share = _pair(level, size, scheme.noise)
    count = first if view % 2 == 0 else size - first
    pairs = scheme.num_mc // 2
    return count, torch.where(count > 0, share / count.clamp_min(1), 0.0) / pairs


def _gauss_count(
    level: BlockFloats, size: BlockInts, view: int, scheme: MaskingScheme
) -> tuple[BlockInts, BlockFloats]:
    """A mask of the size next to a Gauss-Legendre node (eq 12)."""
    _, node_weights = _gauss(scheme.num_mc // scheme.masks_per_level)
    count = (level * size).round().long().clamp_min(1).minimum(size)
    scale = float(node_weights[view // scheme.masks_per_level]) / scheme.masks_per_level
    return count, scale * size.double() / count.clamp_min(1)


def _drawn_count(level: BlockFloats, size: BlockInts, scheme: MaskingScheme) -> tuple[BlockInts, BlockFloats]:
    """A number k with probability q(k), by inversion of its distribution; weight 1 / (views k q(k)) (eq 6)."""
    probability = count_distribution(size, int(size.max().clamp_min(1)), scheme.count_exponent)
    count = (probability.cumsum(-1) <= level[..., None]).sum(-1).add(1).minimum(size)
    chosen = probability.gather(-1, (count - 1).clamp_min(0)[..., None]).squeeze(-1)
    weight = 1 / (scheme.num_mc * count.clamp_min(1) * chosen.clamp_min(1e-300))
    return count, torch.where(count > 0, weight, 0.0)


def count_distribution(size: BlockInts, most: int, exponent: float) -> Float[Tensor, "batch blocks most"]:
    """Probabilities q(k) proportional to k^-exponent on 1..n, for every block (eq 6); 0 for n < k <= `most`."""
    k = torch.arange(1, most + 1, dtype=torch.float64, device=size.device)
    mass = k**-exponent * (k <= size[..., None])
    return mass / mass.sum(-1, keepdim=True).clamp_min(1e-300)


def arc(
    order: Int[Tensor, "batch blocks positions"], start: BlockInts, count: BlockInts, size: BlockInts
) -> Bool[Tensor, "batch blocks positions"]:
    """Mark the positions whose place in the order lies in the arc of `count` from `start`, around a circle of `size`.

    See docs/math.md eq 9.
    """
    place = (order - start[..., None]) % size.clamp_min(1)[..., None]
    return place < count[..., None]


def _pair(level: BlockFloats, size: BlockInts, noise: str) -> tuple[BlockInts, BlockFloats]:
    """Size of a pair's first mask, and weight * k, which both masks of the pair have in common."""
    if noise == "coupled":
        # ESPO: a mask of size j occurs in the pair with probability 2 / (n + 1), and the ELBO weighs it by 1 / j.
        return (level * (size + 1)).floor().long().minimum(size), (size.double() + 1) / 2
    first = (level * size).floor().long().add(1).minimum(size)
    # The full mask has an empty complement, so it carries the whole weight; any other size occurs in either mask.
    return first, torch.where(first == size, size.double(), size.double() / 2)


def _order_group(view: int, scheme: MaskingScheme) -> int:
    """Number of the order that a view takes its mask from."""
    if scheme.noise in PAIRED:
        return view // 2
    return 0 if scheme.tiles else view


def _levels(batch: CanvasBatch, scheme: MaskingScheme) -> list[BlockFloats]:
    """Draw one level per block for each `views_per_level` views."""
    block, number = block_counter(batch), scheme.num_mc // scheme.views_per_level
    if scheme.noise == "gauss":
        nodes, _ = _gauss(number)
        return [torch.full(block.shape, float(t), dtype=torch.float64, device=block.device) for t in nodes]
    if scheme.noise == "cyclic":
        held = batch.editable.view(*block.shape, -1).any(-1)
        index, blocks_held = held.cumsum(1) - 1, held.sum(1, keepdim=True).clamp_min(1)
        shift = draw_uniforms(batch, "level", 0, block[:, :1])
        return [(shift + (view + index / blocks_held) / number) % 1.0 for view in range(number)]
    levels = [draw_uniforms(batch, "level", view, block) for view in range(number)]
    if not scheme.stratify:
        return levels
    strata = torch.stack([draw_uniforms(batch, "strata", view, block) for view in range(number)]).argsort(0)
    return [(stratum + level) / number for stratum, level in zip(strata, levels, strict=True)]


def _bernoulli_view(batch: CanvasBatch, level: BlockFloats, view: int, scheme: MaskingScheme, mask_id: int) -> View:
    level = spread(level, batch)
    masked = batch.editable & (draw_uniforms(batch, "rank", view, position_counter(batch)) < level)
    return masked_view(batch, masked, 1 / (scheme.num_mc * level.clamp_min(1e-12)), mask_id)


def _gauss(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on (0, 1)."""
    nodes, weights = np.polynomial.legendre.leggauss(number)
    return (nodes + 1) / 2, weights / 2
