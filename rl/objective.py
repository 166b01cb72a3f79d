"""The objective: ratios over views, a surrogate, KL, anchor and corrections, composed from the settings.

The network never appears here. The learner differentiates `policy_loss` by the scored log-probabilities only, and
replays the result through the network one view at a time (proxy gradients, docs/math.md eq 46), so no more than one
view's graph lives. Equation numbers are those of docs/math.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl.algorithm import AlgorithmConfig
from rl.losses import (
    cispo_surrogate,
    clipped_surrogate,
    clips_gradient,
    k2,
    k3,
    linear_bound,
    preference_pairs,
    preference_surrogate,
    squared_surrogate,
    stable_surrogate,
    upper_bound,
)

Scored = Float[Tensor, " scored"]
Sums = dict[str, Tensor]


@dataclass(frozen=True)
class Terms:
    """Scored positions of all views of some rows, flattened, and what is known of the rows."""

    row: Int[Tensor, " scored"]
    position: Int[Tensor, " scored"]
    view: Int[Tensor, " scored"]
    weight: Scored
    edit: Bool[Tensor, " scored"]
    anchor: Bool[Tensor, " scored"]  # belongs to the ELBO anchor alone
    engine: Scored  # the rollout engine's log-probabilities, nats; nan where it recorded none
    advantage: Float[Tensor, " rows"]
    editable: Float[Tensor, " rows"]  # number of generated tokens of each row
    group: Int[Tensor, " rows"]

    def select(self, chosen: Bool[Tensor, " scored"]) -> "Terms":
        """Some of the scored positions, of the same rows."""
        names = ("row", "position", "view", "weight", "edit", "anchor", "engine")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def row_sums(self, values: Scored) -> Float[Tensor, " rows"]:
        """Sums of one number per scored position over each row."""
        return torch.zeros_like(self.editable).index_add(0, self.row, values)


@dataclass(frozen=True)
class Normaliser:
    """Constants of the whole batch, so that the loss does not depend on how it is split."""

    num_rows: float  # a share of the batch's rows, where zero-advantage rows are left out or minibatches split it
    max_tokens: int  # longest completion allowed: Dr.GRPO's constant token normaliser
    num_tokens: float  # generated tokens, in the same share: DAPO's token mean


@dataclass(frozen=True)
class LogProbs:
    """Log-probabilities of scored positions under one policy, and the mark of the draws behind them."""

    values: Scored  # nats
    draw: int


@dataclass(frozen=True)
class Policies:
    """The same scored positions under the policies that the loss compares."""

    current: Scored  # being updated; the only one with a gradient
    old: Scored  # that the rollouts came from
    reference: Scored | None = None  # of the KL or preference term

    @classmethod
    def joined(
        cls, current: Sequence[LogProbs], old: Sequence[LogProbs], reference: Sequence[LogProbs | None]
    ) -> "Policies":
        """Put the log-probabilities of several micro-batches side by side; the current ones become a leaf.

        Raises:
            ValueError: They were not taken on the same draws.
        """
        for now, *others in zip(current, old, reference, strict=True):
            for name, other in zip(("old", "reference"), others, strict=True):
                if other is not None and other.draw != now.draw:
                    raise ValueError(
                        f"the {name} policy's log-probabilities come from other noise draws than the current policy's;"
                        " score all policies on the same views (an unshared ratio has ~1000 times the variance)"
                    )
        known = [one.values for one in reference if one is not None]
        return cls(
            current=torch.cat([one.values for one in current]).clone().requires_grad_(),
            old=torch.cat([one.values for one in old]),
            reference=torch.cat(known) if known else None,
        )


@dataclass(frozen=True)
class Units:
    """What has one ratio: a token, a position over its views, a view of a row, or a whole row; M2T and T2T apart."""

    of: Int[Tensor, " scored"]
    inside: Scored  # weight of a term inside its unit's log-ratio
    row: Int[Tensor, " units"]
    edit: Bool[Tensor, " units"]
    share: Float[Tensor, " units"]  # weight of the unit in the loss

    def sum(self, values: Scored) -> Float[Tensor, " units"]:
        """Weighted sums over the terms of each unit."""
        return torch.zeros_like(self.share).index_add(0, self.of, self.inside * values)


def make_units(terms: Terms, config: AlgorithmConfig, normaliser: Normaliser) -> Units:
    """Group scored positions into ratios (eq 16 to 19), each with its share of the loss (eq 42).

    The sequence ratio divides the weighted sum by editable tokens ** gamma: gamma 1 is ESPO's and GSPO's
    length-normalised ratio, gamma 0 is EBPO as printed (LLaDA2.1 eq 5).
    """
    views = int(terms.view.max()) + 1 if len(terms.view) else 1
    length = terms.editable[terms.row]
    if config.ratio == "token":
        key, inside, outside = torch.arange(len(terms.row), device=terms.row.device), None, terms.weight
    elif config.ratio == "position":
        key, inside, outside = _key(terms.row, terms.position), terms.weight, None
    elif config.loss_type == "bgpo":
        key, inside, outside = _key(terms.row, terms.view), views * terms.weight / length**config.gamma, 1 / views
    else:
        key, inside, outside = terms.row, terms.weight / length**config.gamma, None
    _, of = torch.unique(2 * key + terms.edit, return_inverse=True)
    number = int(of.max()) + 1 if len(of) else 0
    first = torch.zeros(number, dtype=torch.int64, device=of.device).scatter_(
        0, of, torch.arange(len(of), device=of.device)
    )
    row, edit = terms.row[first], terms.edit[first]
    share = _scale(terms.editable[row], config, normaliser) * torch.where(edit, config.t2t_weight, 1.0)
    if isinstance(outside, Tensor):
        share = share * outside[first]
    elif outside is not None:
        share = share * outside
    return Units(of, torch.ones_like(terms.weight) if inside is None else inside, row, edit, share)


def policy_loss(
    policies: Policies, terms: Terms, config: AlgorithmConfig, normaliser: Normaliser
) -> tuple[Float[Tensor, ""], Sums]:
    """The loss of some rows, as their share of the batch's loss. Whole groups, where the loss compares inside groups.

    Args:
        policies: Log-probabilities; the gradient is taken by `policies.current`.
        terms: What each scored position belongs to.
        config: Ratio, loss, regularisers and corrections.
        normaliser: Constants of the whole batch.

    Returns:
        The loss, and sums for metrics.
    """
    chosen = ~terms.anchor
    own = terms.select(chosen)
    current, old = policies.current[chosen], policies.old[chosen]
    reference = None if policies.reference is None else policies.reference[chosen]
    units = make_units(own, config, normaliser)
    log_ratio = units.sum(current - old)
    if config.kl == "k1_reward" and reference is not None:
        own = replace(own, advantage=own.advantage - config.beta * _centred_k1(own, old - reference))
    advantage = own.advantage[units.row]
    weights, sums = _engine_weights(old, own, units, config)
    if config.loss_type == "dpo":
        assert reference is not None
        loss = -_preferences(current - reference, own, config) / normaliser.num_rows
    elif config.loss_type == "sandwich":
        loss = -_evidence(current, own, units, config)
    else:
        surrogate = _surrogate(log_ratio, advantage, units, own.group[units.row], config)
        loss = -(units.share * weights * surrogate).sum()
    if reference is not None and config.beta and config.kl != "k1_reward":
        penalty = (units.share * (k3 if config.kl == "k3" else k2)(units.sum(current - reference))).sum()
        loss, sums["kl"] = loss + config.beta * penalty, penalty
    if config.anchor:
        evidence = _anchor(policies.current, terms, normaliser)
        loss, sums["anchor"] = loss - config.anchor * evidence, evidence
    sums |= _ratio_sums(log_ratio, advantage, units, config)
    return loss, {name: value.detach() for name, value in sums.items()}


def _surrogate(
    log_ratio: Float[Tensor, " units"],
    advantage: Float[Tensor, " units"],
    units: Units,
    group: Int[Tensor, " units"],
    config: AlgorithmConfig,
) -> Float[Tensor, " units"]:
    low, high = _clip_range(units, config)
    if config.loss_type == "reinforce":  # the gradient of A log p: old log-probabilities are constants
        return advantage * log_ratio
    if config.loss_type == "cispo":
        return cispo_surrogate(log_ratio, advantage, high)
    if config.loss_type == "stable":
        return stable_surrogate(log_ratio, advantage, low, high, 2 * group + units.edit)
    if config.loss_type == "bgpo":
        return linear_bound(log_ratio, advantage)
    if config.loss_type == "squared":
        return squared_surrogate(log_ratio, advantage, config.psi, low, high)
    return clipped_surrogate(log_ratio, advantage, low, high)


def _clip_range(units: Units, config: AlgorithmConfig) -> tuple[Float[Tensor, " units"], Float[Tensor, " units"]]:
    """T2T ratios have a range of their own: edits are few and their ratios noisier."""
    edit_low = config.epsilon if config.t2t_epsilon is None else config.t2t_epsilon
    edit_high = config.epsilon_high if config.t2t_epsilon_high is None else config.t2t_epsilon_high
    like = units.share
    low = torch.where(units.edit, torch.full_like(like, edit_low), config.epsilon)
    return low, torch.where(units.edit, torch.full_like(like, edit_high), config.epsilon_high)


def _scale(editable: Tensor, config: AlgorithmConfig, normaliser: Normaliser) -> Tensor:
    """Weight of a unit by the batch's constants: a mean over rows, and for token losses over a number of tokens."""
    if config.ratio == "sequence":
        return torch.full_like(editable, 1 / normaliser.num_rows)
    if config.loss_normaliser == "sequence":
        return 1 / (normaliser.num_rows * editable)
    per_token = 1 / normaliser.num_tokens if config.loss_normaliser == "batch" else None
    return torch.full_like(editable, per_token or 1 / (normaliser.num_rows * normaliser.max_tokens))


def _key(row: Tensor, within: Tensor) -> Tensor:
    """One number for (row, within)."""
    return row * (int(within.max()) + 1 if len(within) else 1) + within


def _term_weights(terms: Terms, config: AlgorithmConfig) -> Scored:
    return terms.weight * torch.where(terms.edit, config.t2t_weight, 1.0)


def _centred_k1(terms: Terms, difference: Scored) -> Float[Tensor, " rows"]:
    """Each row's log p_old / p_ref minus its group's mean: what a KL in the reward does to advantages (eq 27)."""
    value = terms.row_sums(terms.weight * difference).detach()
    _, member = torch.unique(terms.group, return_inverse=True)
    total = torch.zeros_like(value).index_add(0, member, value)
    number = torch.zeros_like(value).index_add(0, member, torch.ones_like(value))
    return value - (total / number.clamp_min(1))[member]


def _preferences(difference: Scored, terms: Terms, config: AlgorithmConfig) -> Float[Tensor, ""]:
    margin = terms.row_sums(_term_weights(terms, config) * difference) / terms.editable**config.gamma
    return preference_surrogate(margin, preference_pairs(terms.advantage, terms.group), config.dpo_beta).sum()


def _evidence(current: Scored, terms: Terms, units: Units, config: AlgorithmConfig) -> Float[Tensor, ""]:
    """SPG: A times a lower bound where A >= 0, and times a mixture with an upper bound where A < 0 (eq 26)."""
    lower = units.sum(current)
    unmasked = ~terms.edit
    slots, slot = torch.unique(_key(terms.row, terms.position)[unmasked], return_inverse=True)
    bound = upper_bound(current[unmasked], terms.weight[unmasked], slot, len(slots), config.bound_beta)
    row = torch.zeros(len(slots), dtype=torch.int64, device=slot.device).scatter_(0, slot, terms.row[unmasked])
    upper = torch.zeros_like(terms.editable).index_add(0, row, bound) / terms.editable**config.gamma
    mixed = config.bound_mix * upper[units.row] + (1 - config.bound_mix) * lower
    advantage = terms.advantage[units.row]
    value = torch.where((advantage < 0) & ~units.edit, mixed, lower)
    return (units.share * advantage * value).sum()


def _anchor(current: Scored, terms: Terms, normaliser: Normaliser) -> Float[Tensor, ""]:
    """Mean ELBO per token of the completions with positive advantage (eq 28).

    Source: DiPOD (arXiv 2606.13795).
    """
    lent = ~terms.edit if not terms.anchor.any() else terms.anchor
    evidence = terms.row_sums(torch.where(lent, terms.weight * current, 0.0)) / terms.editable
    return (evidence * (terms.advantage > 0)).sum() / normaliser.num_rows


def _engine_weights(
    old: Scored, terms: Terms, units: Units, config: AlgorithmConfig
) -> tuple[Float[Tensor, " units"], Sums]:
    """min(old policy / rollout engine, cap) per unit, no gradient: the outer ratio of decoupled PPO (eq 29)."""
    if config.rollout_correction == "none":
        return torch.ones_like(units.share), {}
    gap = old - terms.engine
    if gap.isnan().any():
        raise ValueError(
            "rollout_correction needs the engine's log-probability of every scored token; some are missing"
        )
    if config.rollout_correction == "token":
        total = torch.zeros_like(units.share).index_add(0, units.of, gap)
    else:
        total = terms.row_sums(terms.weight * gap)[units.row]
    weights = total.exp().clamp_max(config.correction_cap)
    cut = (total.exp() > config.correction_cap).sum()
    return weights, {"correction": weights.sum(), "truncated": cut}


def _ratio_sums(
    log_ratio: Float[Tensor, " units"], advantage: Float[Tensor, " units"], units: Units, config: AlgorithmConfig
) -> Sums:
    outside = clips_gradient(log_ratio, advantage, *_clip_range(units, config))
    unmask, edit = ~units.edit, units.edit
    return {
        "ratios": unmask.sum(),
        "clip_fraction": (outside & unmask).sum(),
        "log_ratio_abs": (log_ratio.abs() * unmask).sum(),
        "drift": k2(log_ratio).sum(),
        "t2t_ratios": edit.sum(),
        "t2t_clip_fraction": (outside & edit).sum(),
        "t2t_log_ratio_abs": (log_ratio.abs() * edit).sum(),
    }
