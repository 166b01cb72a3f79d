"""The policy-gradient loss in plain loops over scored positions, all graphs alive at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scored:
    """One scored position: its completion, weight, kind, and log-probabilities (`new` has a graph)."""

    row: int
    weight: float
    edit: bool
    new: Tensor
    old: float
    reference: float


@dataclass(frozen=True)
class Settings:
    """What the loss depends on beside the log-probabilities."""

    ratio: str
    gamma: float
    low: float
    high: float
    beta: float
    t2t_weight: float
    max_tokens: int
    num_rows: float


def clipped(log_ratio: Tensor, advantage: float, low: float, high: float) -> Tensor:
    """PPO's surrogate, branch by branch."""
    ratio = log_ratio.exp()
    if advantage >= 0 and ratio.item() > 1 + high:
        return (1 + high) * advantage + 0 * ratio
    if advantage < 0 and ratio.item() < 1 - low:
        return (1 - low) * advantage + 0 * ratio
    return ratio * advantage


def loss(terms: Sequence[Scored], advantages: Sequence[float], lengths: Sequence[int], settings: Settings) -> Tensor:
    """Minus the mean surrogate plus beta times the mean squared log-ratio to the reference, halved.

    Args:
        terms: Every scored position of every view.
        advantages: Per completion.
        lengths: Generated tokens per completion.
        settings: The objective.
    """
    s = settings
    weights = [term.weight * (s.t2t_weight if term.edit else 1.0) for term in terms]
    total = torch.zeros((), dtype=torch.float64)
    if s.ratio == "token":
        for term, weight in zip(terms, weights, strict=True):
            scale = weight / (s.num_rows * s.max_tokens)
            total = total - scale * clipped(term.new - term.old, advantages[term.row], s.low, s.high)
            if s.beta:
                total = total + scale * s.beta * 0.5 * (term.new - term.reference) ** 2
        return total
    for row, (advantage, length) in enumerate(zip(advantages, lengths, strict=True)):
        mine = [(term, weight) for term, weight in zip(terms, weights, strict=True) if term.row == row]
        norm = math.pow(length, s.gamma)
        log_ratio = sum((w * (term.new - term.old) for term, w in mine), torch.zeros_like(total)) / norm
        total = total - clipped(log_ratio, advantage, s.low, s.high) / s.num_rows
        if s.beta:
            away = sum((w * (term.new - term.reference) for term, w in mine), torch.zeros_like(total)) / norm
            total = total + s.beta * 0.5 * away**2 / s.num_rows
    return total
