"""The objective: ratios over views, a surrogate, KL, anchor and corrections, composed from the settings.

No network takes part here. The learner differentiates `policy_loss` by the scored log-probabilities only, and replays
the result through the network one view at a time (proxy gradients, docs/math.md eq 46). So at most one view's graph is
in memory. Equation numbers are those of docs/math.md.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.rl.config.choices import Choices, CorrectionConfig, ElboAnchor, KlPenalty, NoCorrection
from redraft.rl.config.losses import (
    CispoLoss,
    ClipLoss,
    DpoLoss,
    LossConfig,
    SandwichLoss,
    SquaredLoss,
    StableLoss,
)
from redraft.rl.objective.losses import (
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
from redraft.rl.objective.terms import Normaliser, Policies, ScoredValues, Terms
from redraft.rl.objective.units import Units, make_units, pair_key

LossSums = dict[str, Tensor]


def policy_loss(
    policies: Policies, terms: Terms, config: Choices, normaliser: Normaliser
) -> tuple[Float[Tensor, ""], LossSums]:
    """Compute the loss of some sequences: their share of the batch's loss.

    The sequences must be whole groups if the loss compares completions inside groups.

    Args:
        policies: Log-probabilities; the gradient is taken by `policies.current`.
        terms: What each scored position belongs to.
        config: Loss, regulariser and correction are read.
        normaliser: Constants of the whole batch.

    Returns:
        The loss, and sums for metrics.
    """
    chosen = ~terms.anchor  # the anchor's views enter the anchor alone
    own = terms.select(chosen)
    current, old = policies.current[chosen], policies.old[chosen]
    reference = None if policies.reference is None else policies.reference[chosen]
    kl, anchor = config.regulariser.kl, config.regulariser.anchor
    units = make_units(own, config.loss, normaliser)
    log_ratio = units.sum(current - old)
    if isinstance(kl, KlPenalty) and kl.kind == "k1_reward" and reference is not None:
        own = replace(own, advantage=own.advantage - kl.beta * _centred_k1(own, old - reference))
    advantage = own.advantage[units.sequence]
    weights, sums = _engine_weights(old, own, units, config.correction)
    if isinstance(config.loss, DpoLoss):
        assert reference is not None
        loss = -_preferences(current - reference, own, config.loss) / normaliser.num_sequences
    elif isinstance(config.loss, SandwichLoss):
        loss = -_evidence(current, own, units, config.loss)
    else:
        surrogate = _surrogate(log_ratio, advantage, units, own.group[units.sequence], config.loss)
        loss = -(units.share * weights * surrogate).sum()
    if isinstance(kl, KlPenalty) and kl.kind != "k1_reward" and reference is not None:
        divergence = k3 if kl.kind == "k3" else k2
        penalty = (units.share * divergence(units.sum(current - reference))).sum()
        loss, sums["kl"] = loss + kl.beta * penalty, penalty
    if isinstance(anchor, ElboAnchor):
        evidence = _anchor(policies.current, terms, normaliser)
        loss, sums["anchor"] = loss - anchor.weight * evidence, evidence
    sums |= _ratio_sums(log_ratio, advantage, units, config.loss)
    return loss, {name: value.detach() for name, value in sums.items()}


def _surrogate(
    log_ratio: Float[Tensor, " units"],
    advantage: Float[Tensor, " units"],
    units: Units,
    group: Int[Tensor, " units"],
    loss: LossConfig,
) -> Float[Tensor, " units"]:
    low, high = _clip_range(units, loss)
    if loss.kind == "reinforce":  # the gradient of A log p: old log-probabilities are constants
        return advantage * log_ratio
    if loss.kind == "cispo":
        return cispo_surrogate(log_ratio, advantage, high)
    if loss.kind == "stable":
        return stable_surrogate(log_ratio, advantage, low, high, 2 * group + units.edit)
    if loss.kind == "bgpo":
        return linear_bound(log_ratio, advantage)
    if loss.kind == "squared":
        return squared_surrogate(log_ratio, advantage, loss.psi, low, high)
    return clipped_surrogate(log_ratio, advantage, low, high)


def _clip_range(units: Units, loss: LossConfig) -> tuple[Float[Tensor, " units"], Float[Tensor, " units"]]:
    """Lower and upper range of each ratio; T2T ratios have their own, as edits are few and their ratios noisier."""
    bounds = _bounds(loss)
    edit_low = bounds.epsilon if bounds.t2t_epsilon is None else bounds.t2t_epsilon
    edit_high = bounds.epsilon_high if bounds.t2t_epsilon_high is None else bounds.t2t_epsilon_high
    like = units.share
    low = torch.where(units.edit, torch.full_like(like, edit_low), bounds.epsilon)
    return low, torch.where(units.edit, torch.full_like(like, edit_high), bounds.epsilon_high)


def _bounds(loss: LossConfig) -> ClipLoss | StableLoss | SquaredLoss:
    """The bounds of a loss; metrics count the ratios of a loss without bounds against the defaults of `clip`."""
    match loss:
        case ClipLoss() | StableLoss() | SquaredLoss():
            return loss
        case CispoLoss():
            return ClipLoss(epsilon_high=loss.epsilon_high, t2t_epsilon_high=loss.t2t_epsilon_high)
        case _:
            return ClipLoss()


def _term_weights(terms: Terms, loss: LossConfig) -> ScoredValues:
    return terms.weight * torch.where(terms.edit, loss.t2t_weight, 1.0)


def _centred_k1(terms: Terms, difference: ScoredValues) -> Float[Tensor, " sequences"]:
    """Each sequence's log p_old / p_ref minus its group's mean: what a KL in the reward does to advantages (eq 27)."""
    value = terms.sequence_sums(terms.weight * difference).detach()
    _, member = torch.unique(terms.group, return_inverse=True)
    total = torch.zeros_like(value).index_add(0, member, value)
    number = torch.zeros_like(value).index_add(0, member, torch.ones_like(value))
    return value - (total / number.clamp_min(1))[member]


def _preferences(difference: ScoredValues, terms: Terms, loss: DpoLoss) -> Float[Tensor, ""]:
    margin = terms.sequence_sums(_term_weights(terms, loss) * difference) / terms.editable**loss.ratio.gamma
    return preference_surrogate(margin, preference_pairs(terms.advantage, terms.group), loss.beta).sum()


def _evidence(current: ScoredValues, terms: Terms, units: Units, loss: SandwichLoss) -> Float[Tensor, ""]:
    """SPG: A times a lower bound where A >= 0, and times a mixture with an upper bound where A < 0 (eq 26)."""
    lower = units.sum(current)
    upper = _upper_evidence(current, terms, loss)
    mixed = loss.bound_mix * upper[units.sequence] + (1 - loss.bound_mix) * lower
    advantage = terms.advantage[units.sequence]
    value = torch.where((advantage < 0) & ~units.edit, mixed, lower)
    return (units.share * advantage * value).sum()


def _upper_evidence(current: ScoredValues, terms: Terms, loss: SandwichLoss) -> Float[Tensor, " sequences"]:
    """Sum of the upper bounds of a sequence's positions, M2T terms only, per editable tokens ** gamma."""
    unmasked = ~terms.edit
    key = pair_key(terms.sequence, terms.position)[unmasked]
    places, place = torch.unique(key, return_inverse=True)
    bound = upper_bound(current[unmasked], terms.weight[unmasked], place, len(places), loss.bound_beta)
    sequence = torch.zeros(len(places), dtype=torch.int64, device=place.device)
    sequence = sequence.scatter_(0, place, terms.sequence[unmasked])
    return torch.zeros_like(terms.editable).index_add(0, sequence, bound) / terms.editable**loss.ratio.gamma


def _anchor(current: ScoredValues, terms: Terms, normaliser: Normaliser) -> Float[Tensor, ""]:
    """Mean ELBO per token of the completions with positive advantage (eq 28).

    Source: DiPOD (arXiv 2606.13795).
    """
    # Without views of its own, the anchor uses the M2T terms of the policy's views, which are an ELBO then.
    own = terms.anchor if terms.anchor.any() else ~terms.edit
    # A rank without completions stands in with one that has no generated token.
    evidence = terms.sequence_sums(torch.where(own, terms.weight * current, 0.0)) / terms.editable.clamp_min(1)
    return (evidence * (terms.advantage > 0)).sum() / normaliser.num_sequences


def _engine_weights(
    old: ScoredValues, terms: Terms, units: Units, correction: CorrectionConfig
) -> tuple[Float[Tensor, " units"], LossSums]:
    """min(old policy / rollout engine, cap) per unit, without gradient: the outer ratio of decoupled PPO (eq 29)."""
    if isinstance(correction.rollout, NoCorrection):
        return torch.ones_like(units.share), {}
    gap = old - terms.engine
    if gap.isnan().any():
        raise ValueError(
            "correction.rollout needs the engine's log-probability of every scored token; some are missing"
        )
    if correction.rollout.kind == "token":
        total = torch.zeros_like(units.share).index_add(0, units.of, gap)
    else:
        total = terms.sequence_sums(terms.weight * gap)[units.sequence]
    weights = total.exp().clamp_max(correction.rollout.cap)
    truncated = (total > math.log(correction.rollout.cap)).sum()
    return weights, {"correction": weights.sum(), "truncated": truncated}


def _ratio_sums(
    log_ratio: Float[Tensor, " units"], advantage: Float[Tensor, " units"], units: Units, loss: LossConfig
) -> LossSums:
    outside = clips_gradient(log_ratio, advantage, *_clip_range(units, loss))
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
