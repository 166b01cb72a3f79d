"""Compute advantages: how much better a completion is than the others of its prompt. Pure functions of numbers."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Final

Rewards = Sequence[float | None]
_TINY: Final = 1e-6  # in units of reward; rewards of a group that differ by less count as equal


def group_advantages(rewards: Rewards, kind: str, psi: float = 1.0) -> list[float | None]:
    """Compute the advantages of one group, in units of reward but for the kinds that scale (docs/math.md eq 30 to 34).

    Rewards 1, 0, 0 give 2/3, -1/3, -1/3 with `dr_grpo` and 1, -1/2, -1/2 with `leave_one_out`.

    * `dr_grpo`: r - mean(r) (eq 30).
    * `leave_one_out`: r - mean of the others' rewards = n / (n - 1) (r - mean(r)): unbiased as a baseline (eq 31).
    * `grpo`: (r - mean(r)) / std(r): easy and hard prompts weigh more than middling ones (eq 32).
    * `reinforce_plus_plus`: r - mean(r), to be whitened over the batch (`whiten`; eq 33).
    * `signed_softmax`: softmax(a / psi) - softmax(-a / psi) with a = r - mean(r): wd1's weights (eq 34).
    * `softmax`: softmax(r / psi) - 1 / n: DMPO's weights less their mean (eq 34).

    Args:
        rewards: One per completion; None where a completion could not be scored.
        kind: One of the names above.
        psi: Reward difference, in units of reward, that changes a softmax weight by a factor of e.

    Returns:
        One advantage per completion; None where the reward is None or no other completion of the group has one
        (a lone reward says nothing about being better or worse).
    """
    known = [reward for reward in rewards if reward is not None]
    if len(known) < 2:
        return [None] * len(rewards)
    if kind == "grpo":
        return whiten(rewards)
    weights = iter(_advantages(known, kind, psi))
    return [None if reward is None else next(weights) for reward in rewards]


def _advantages(rewards: Sequence[float], kind: str, psi: float) -> list[float]:
    mean, n = sum(rewards) / len(rewards), len(rewards)
    centred = [reward - mean for reward in rewards]
    if kind == "leave_one_out":
        return [n / (n - 1) * value for value in centred]
    if kind == "signed_softmax":
        good, bad = softmax(centred, psi), softmax([-value for value in centred], psi)
        return [up - down for up, down in zip(good, bad, strict=True)]
    if kind == "softmax":
        return [weight - 1 / n for weight in softmax(rewards, psi)]
    return centred


def softmax(values: Sequence[float], scale: float) -> list[float]:
    """Compute exp(v / scale) over the sum of all of them."""
    top = max(values)
    powers = [math.exp((value - top) / scale) for value in values]
    return [power / sum(powers) for power in powers]


def whiten(advantages: Sequence[float | None]) -> list[float | None]:
    """Shift and scale to mean 0 and standard deviation 1, over a group (GRPO) or a batch; equal values become 0."""
    known = [value for value in advantages if value is not None]
    if not known:
        return list(advantages)
    mean, spread = fmean(known), pstdev(known)
    scale = 1 / spread if spread > _TINY else 0.0
    return [None if value is None else (value - mean) * scale for value in advantages]


def normalised_sum(parts: Sequence[Mapping[str, float | None]], weights: Mapping[str, float]) -> list[float | None]:
    """Normalise each part inside the group, then add the parts by weight (docs/math.md eq 43).

    A part that varies little, such as a format reward, then counts as much as its weight says, instead of drowning.

    Args:
        parts: Unweighted scores by reward name, per completion; None where a reward does not apply.
        weights: Weight by reward name.

    Returns:
        Weighted sum per completion; None where no part with a weight applies.
    """
    normalised = {name: whiten([part[name] for part in parts]) for name in weights if weights[name]}
    sums: list[float | None] = []
    for index in range(len(parts)):
        known = {name: values[index] for name, values in normalised.items()}
        applying = [weights[name] * value for name, value in known.items() if value is not None]
        sums.append(sum(applying) if applying else None)
    return sums
