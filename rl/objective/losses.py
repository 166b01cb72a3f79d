"""Surrogate losses, bounds and penalties: small pure functions of log-ratios.

Equation numbers are those of docs/math.md. Surrogates are maximised (the objective takes their negative), penalties are
minimised. Ratios are clipped as logarithms, before the exponential. A ratio that the clip cuts off may be infinite; its
slope would then be 0 times infinity, which is nan.
"""

import math
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Bound = float | Float[Tensor, " n"]
HEADROOM: Final = 20.0
"""Nats between the largest ratio and the largest number of its type: room for advantages, sums and the tangent."""


def bounded_exp(log_ratio: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The exponential, continued along its tangent where it would leave the range of its type.

    The result is finite, and it still rises with the log-ratio.
    """
    inside = log_ratio.clamp_max(math.log(torch.finfo(log_ratio.dtype).max) - HEADROOM)
    return inside.exp() * (1 + (log_ratio - inside))


def clipped_surrogate(
    log_ratio: Float[Tensor, " n"], advantage: Float[Tensor, " n"], low: Bound, high: Bound
) -> Float[Tensor, " n"]:
    """PPO's pessimistic surrogate min(rho A, clip(rho, 1 - low, 1 + high) A), per ratio (eq 20).

    Source: PPO (arXiv 1707.06347) eq 7; clip-higher from DAPO (arXiv 2503.14476).
    """
    floor, ceiling = _log_edges(log_ratio, low, high)
    # A >= 0 is clipped from above, A < 0 from below. The other side keeps its slope, and for A < 0 it is unbounded.
    clipped = torch.where(advantage >= 0, log_ratio.clamp(max=ceiling), log_ratio.clamp(min=floor))
    return bounded_exp(clipped) * advantage


def cispo_surrogate(log_ratio: Float[Tensor, " n"], advantage: Float[Tensor, " n"], high: Bound) -> Float[Tensor, " n"]:
    """min(rho, 1 + high) without gradient, times A log rho, so clipped terms keep their gradient (eq 21).

    Source: CISPO, MiniMax-M1 (arXiv 2506.13585).
    """
    no_lower_edge = 1.0
    return clamped_ratio(log_ratio.detach(), no_lower_edge, high) * advantage * log_ratio


def stable_surrogate(
    log_ratio: Float[Tensor, " n"], advantage: Float[Tensor, " n"], low: Bound, high: Bound, group: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Unconditionally clipped, self-normalised weights: c_i A_i log rho_i / (mean of c over the group) (eq 22).

    Unlike PPO's clip it bounds every weight on both sides, whatever the sign of the advantage, so that a noisy ratio
    cannot make a large step.

    Source: StableDRL (arXiv 2603.06743).
    """
    weight = clamped_ratio(log_ratio.detach(), low, high)
    _, member = torch.unique(group, return_inverse=True)
    total = torch.zeros_like(weight).index_add(0, member, weight)
    number = torch.zeros_like(weight).index_add(0, member, torch.ones_like(weight))
    return weight / (total / number.clamp_min(1))[member] * advantage * log_ratio


def linear_bound(log_ratio: Float[Tensor, " n"], advantage: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """A lower bound of A exp(mean_j d_j) as a mean over views j: A (1 + d) where A >= 0, A exp(d) where A < 0 (eq 23).

    Source: BGPO (arXiv 2510.11683).
    """
    return advantage * torch.where(advantage >= 0, 1 + log_ratio, bounded_exp(log_ratio))


def squared_surrogate(
    log_ratio: Float[Tensor, " n"], advantage: Float[Tensor, " n"], psi: float, low: Bound, high: Bound
) -> Float[Tensor, " n"]:
    """-(clip(log rho) - psi A)^2, the log-ratio clipped to [log(1 - low), log(1 + high)] (eq 24).

    Source: GDSD (arXiv 2605.29398).
    """
    return -(log_ratio.clamp(*_log_edges(log_ratio, low, high)) - psi * advantage).square()


def preference_pairs(
    advantage: Float[Tensor, " sequences"], group: Int[Tensor, " sequences"]
) -> Int[Tensor, "pairs 2"]:
    """Find the best and the worst completion of every group whose advantages differ (the first of equal ones).

    Returns:
        Numbers of the two sequences, the better one first.
    """
    names, member = torch.unique(group, return_inverse=True)
    best, worst = (_first_extreme(advantage, member, len(names), reduce) for reduce in ("amax", "amin"))
    return torch.stack([best, worst], dim=1)[advantage[best] > advantage[worst]]


def _first_extreme(
    value: Float[Tensor, " sequences"], member: Int[Tensor, " sequences"], groups: int, reduce: str
) -> Int[Tensor, " groups"]:
    """The first sequence of each group that has the group's largest or smallest value.

    Args:
        value: To compare.
        member: Number of the group of each sequence.
        groups: Number of groups.
        reduce: `amax` or `amin`.
    """
    extreme = value.new_zeros(groups).scatter_reduce(0, member, value, reduce, include_self=False)
    last = len(value) - 1
    candidate = torch.where(value == extreme[member], torch.arange(len(value), device=value.device), last)
    return torch.full_like(extreme, last, dtype=torch.int64).scatter_reduce(0, member, candidate, "amin")


def preference_surrogate(
    margin: Float[Tensor, " sequences"], pairs: Int[Tensor, "pairs 2"], beta: float
) -> Float[Tensor, " pairs"]:
    """Log sigmoid(beta (margin of the better - margin of the worse)), margins being log p / p_ref (eq 25).

    Source: DPO (arXiv 2305.18290) with VRPO's ELBO margins (arXiv 2505.19223).
    """
    return F.logsigmoid(beta * (margin[pairs[:, 0]] - margin[pairs[:, 1]]))


def upper_bound(
    log_prob: Float[Tensor, " n"], weight: Float[Tensor, " n"], position: Int[Tensor, " n"], positions: int, beta: float
) -> Float[Tensor, " positions"]:
    """Renyi upper bound of each position's evidence, (1 / beta) log sum_views weight p^beta (eq 26).

    The logarithm of a Monte-Carlo mean lies below that of the mean on average (Jensen), by O(1 / views). The sum over
    positions bounds a completion's evidence only for beta at least their number, or up to a constant.

    Args:
        log_prob: Nats, one per (view, position) that was masked.
        weight: 1 / (views k q(k)), as in the ELBO.
        position: Number of the position that each term belongs to. Every position must have a term.
        positions: How many there are.
        beta: Order, at least 1.

    Source: SPG (arXiv 2510.09541) eq 9.
    """
    exponent = beta * log_prob + weight.log()
    # The largest exponent of each position is taken out of its sum, so that no exponential overflows.
    peak = torch.full((positions,), -torch.inf, dtype=log_prob.dtype, device=log_prob.device)
    peak = peak.scatter_reduce(0, position, exponent.detach(), "amax")
    total = torch.zeros_like(peak).index_add(0, position, (exponent - peak[position]).exp())
    return (total.log() + peak) / beta


def k2(log_ratio: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """0.5 (log p - log p_ref)^2: as a loss on own draws its gradient is that of KL(policy || ref) (eq 27)."""
    return 0.5 * log_ratio.square()


def k3(log_ratio: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """p_ref / p - 1 + log(p / p_ref), never negative (eq 27).

    It grows exponentially with the noise of an ELBO. It is offered because other frameworks have it.

    Source: http://joschu.net/blog/kl-approx.html.
    """
    return bounded_exp(-log_ratio) - 1 + log_ratio


def clamped_ratio(log_ratio: Float[Tensor, " n"], low: Bound, high: Bound) -> Float[Tensor, " n"]:
    """The ratio limited to [1 - low, 1 + high]."""
    return log_ratio.clamp(*_log_edges(log_ratio, low, high)).exp()


def clips_gradient(
    log_ratio: Float[Tensor, " n"], advantage: Float[Tensor, " n"], low: Bound, high: Bound
) -> Bool[Tensor, " n"]:
    """Mark the ratios that are outside their range on the side where PPO's clip stops the gradient."""
    floor, ceiling = _log_edges(log_ratio, low, high)
    return torch.where(advantage > 0, log_ratio > ceiling, log_ratio < floor) & (advantage != 0)


def _log_edges(like: Tensor, low: Bound, high: Bound) -> tuple[Tensor, Tensor]:
    """Logarithms of 1 - low and 1 + high. Where 1 - low is not positive, the lower edge is at a ratio of 1e-12."""
    floor = 1 - torch.as_tensor(low, dtype=like.dtype, device=like.device)
    ceiling = 1 + torch.as_tensor(high, dtype=like.dtype, device=like.device)
    return floor.clamp_min(1e-12).log(), ceiling.log()
