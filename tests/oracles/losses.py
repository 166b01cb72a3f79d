"""The policy-gradient losses in plain loops over scored positions, all graphs alive at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redraft.rl.config.algorithm import AlgorithmConfig
from short_names import Every, every


@dataclass(frozen=True)
class Scored:
    """One scored position: what it belongs to, and its log-probabilities (`new` has a graph)."""

    row: int
    position: int
    view: int
    weight: float
    edit: bool
    anchor: bool
    engine: float
    new: Tensor
    old: float
    reference: float


@dataclass(frozen=True)
class Row:
    """One completion."""

    advantage: float
    length: int
    group: int


@dataclass(frozen=True)
class Batch:
    """The whole batch's constants."""

    num_rows: float
    max_tokens: int
    num_tokens: float


def loss(terms: Sequence[Scored], rows: Sequence[Row], batch: Batch, config: AlgorithmConfig) -> Tensor:
    """The loss, one ratio after the other."""
    s = every(config)
    own = [term for term in terms if not term.anchor]
    advantages = [row.advantage for row in rows]
    if s.kl == "k1_reward" and s.beta:
        advantages = with_kl_in_the_reward(own, rows, s.beta)
    total = torch.zeros((), dtype=torch.float64)
    ratios = grouped(own, s)
    views = max((term.view for term in own), default=0) + 1
    weights = stable_weights(ratios, rows, views, s) if s.loss_type == "stable" else {}
    for key, members in ratios.items():
        row, edit = members[0].row, members[0].edit
        share = (s.t2t_weight if edit else 1.0) * scale(members[0], rows[row], batch, views, s)
        share *= engine_weight(members, own, s)
        if s.loss_type not in {"dpo", "sandwich"}:
            change = sum((inside(t, rows, views, s) * (t.new - t.old) for t in members), torch.zeros_like(total))
            total = total - share * surrogate(change, advantages[row], edit, weights.get(key, 1.0), s)
        if s.beta and s.kl != "k1_reward":
            away = sum((inside(t, rows, views, s) * (t.new - t.reference) for t in members), torch.zeros_like(total))
            penalty = 0.5 * away**2 if s.kl == "k2" else torch.exp(-away) - 1 + away
            total = total + share * s.beta * penalty
    if s.loss_type == "dpo":
        total = total + preferences(own, rows, s) / batch.num_rows
    if s.loss_type == "sandwich":
        total = total - sum(evidence(own, i, row, s) for i, row in enumerate(rows)) / batch.num_rows
    if s.anchor:
        lent = [t for t in terms if t.anchor] or [t for t in own if not t.edit]
        for i, row in enumerate(rows):
            if row.advantage > 0:
                elbo = sum((t.weight * t.new for t in lent if t.row == i), torch.zeros_like(total))
                total = total - s.anchor * elbo / row.length / batch.num_rows
    return total


def grouped(terms: Sequence[Scored], s: Every) -> dict[tuple, list[Scored]]:
    """What shares a ratio."""
    found: dict[tuple, list[Scored]] = {}
    for number, term in enumerate(terms):
        if s.ratio == "token":
            key = (number,)
        elif s.ratio == "position":
            key = (term.row, term.position, term.edit)
        elif s.loss_type == "bgpo":
            key = (term.row, term.view, term.edit)
        else:
            key = (term.row, term.edit)
        found.setdefault(key, []).append(term)
    return found


def inside(term: Scored, rows: Sequence[Row], views: int, s: Every) -> float:
    if s.ratio == "token":
        return 1.0
    if s.ratio == "position":
        return term.weight
    per_view = views if s.loss_type == "bgpo" else 1
    return per_view * term.weight / math.pow(rows[term.row].length, s.gamma)


def scale(term: Scored, row: Row, batch: Batch, views: int, s: Every) -> float:
    if s.ratio == "sequence":
        return 1 / batch.num_rows / (views if s.loss_type == "bgpo" else 1)
    outside = term.weight if s.ratio == "token" else 1.0
    divisor = {
        "constant": batch.num_rows * batch.max_tokens,
        "sequence": batch.num_rows * row.length,
        "batch": batch.num_tokens,
    }[s.loss_normaliser]
    return outside / divisor


def clip_range(edit: bool, s: Every) -> tuple[float, float]:
    low = s.t2t_epsilon if edit and s.t2t_epsilon is not None else s.epsilon
    high = s.t2t_epsilon_high if edit and s.t2t_epsilon_high is not None else s.epsilon_high
    return max(1 - low, 1e-12), 1 + high


def surrogate(change: Tensor, advantage: float, edit: bool, weight: float, s: Every) -> Tensor:
    low, high = clip_range(edit, s)
    ratio = change.exp()
    if s.loss_type == "reinforce":
        return advantage * change
    if s.loss_type == "cispo":
        return min(ratio.item(), high) * advantage * change
    if s.loss_type == "stable":
        return weight * advantage * change
    if s.loss_type == "bgpo":
        return advantage * (1 + change) if advantage >= 0 else advantage * ratio
    if s.loss_type == "squared":
        limited = change if math.log(low) < change.item() < math.log(high) else torch.zeros_like(change)
        if change.item() <= math.log(low):
            limited = limited + math.log(low)
        if change.item() >= math.log(high):
            limited = limited + math.log(high)
        return -((limited - s.psi * advantage) ** 2)
    if advantage >= 0 and ratio.item() > high:
        return high * advantage + 0 * ratio
    if advantage < 0 and ratio.item() < low:
        return low * advantage + 0 * ratio
    return ratio * advantage


def stable_weights(ratios: dict[tuple, list[Scored]], rows: Sequence[Row], views: int, s: Every) -> dict[tuple, float]:
    """Clipped ratios over their mean in the group (M2T and T2T apart)."""
    clipped, members = {}, {}
    for key, terms in ratios.items():
        low, high = clip_range(terms[0].edit, s)
        change = sum(inside(t, rows, views, s) * (t.new.item() - t.old) for t in terms)
        clipped[key] = min(max(math.exp(change), low), high)
        members.setdefault((rows[terms[0].row].group, terms[0].edit), []).append(key)
    mean = {key: sum(clipped[k] for k in keys) / len(keys) for keys in members.values() for key in keys}
    return {key: value / mean[key] for key, value in clipped.items()}


def engine_weight(members: Sequence[Scored], own: Sequence[Scored], s: Every) -> float:
    if s.rollout_correction == "none":
        return 1.0
    if s.rollout_correction == "token":
        gap = sum(t.old - t.engine for t in members)
    else:
        gap = sum(t.weight * (t.old - t.engine) for t in own if t.row == members[0].row)
    return min(math.exp(gap), s.correction_cap)


def with_kl_in_the_reward(own: Sequence[Scored], rows: Sequence[Row], beta: float) -> list[float]:
    k1 = [sum(t.weight * (t.old - t.reference) for t in own if t.row == i) for i in range(len(rows))]
    result = []
    for i, row in enumerate(rows):
        others = [k1[j] for j, other in enumerate(rows) if other.group == row.group]
        result.append(row.advantage - beta * (k1[i] - sum(others) / len(others)))
    return result


def preferences(own: Sequence[Scored], rows: Sequence[Row], s: Every) -> Tensor:
    margins = []
    for i, row in enumerate(rows):
        mine = [(s.t2t_weight if t.edit else 1.0) * t.weight * (t.new - t.reference) for t in own if t.row == i]
        margins.append(sum(mine, torch.zeros((), dtype=torch.float64)) / math.pow(row.length, s.gamma))
    total = torch.zeros((), dtype=torch.float64)
    for group in {row.group for row in rows}:
        members = [i for i, row in enumerate(rows) if row.group == group]
        best = max(members, key=lambda i: (rows[i].advantage, -i))
        worst = min(members, key=lambda i: (rows[i].advantage, i))
        if rows[best].advantage > rows[worst].advantage:
            total = total + torch.log(1 + torch.exp(-s.dpo_beta * (margins[best] - margins[worst])))
    return total


def evidence(own: Sequence[Scored], index: int, row: Row, s: Every) -> Tensor:
    """SPG's bound of one completion, times its advantage."""
    mine = [t for t in own if t.row == index]
    zero = torch.zeros((), dtype=torch.float64)
    norm = math.pow(row.length, s.gamma)
    lower = sum((t.weight * t.new for t in mine if not t.edit), zero) / norm
    edits = s.t2t_weight * sum((t.weight * t.new for t in mine if t.edit), zero) / norm
    upper = zero
    for position in {t.position for t in mine if not t.edit}:
        here = [t for t in mine if t.position == position and not t.edit]
        upper = upper + torch.log(sum(t.weight * torch.exp(s.bound_beta * t.new) for t in here)) / s.bound_beta
    bound = s.bound_mix * upper / norm + (1 - s.bound_mix) * lower
    return row.advantage * ((bound if row.advantage < 0 else lower) + edits)
