"""Policy-gradient objectives as pure functions of log-probabilities: ratios, clips, KL and their aggregation.

The network never appears here. The learner differentiates `policy_loss` by the scored log-probabilities only, and
replays the result through the network one view at a time (proxy gradients), so no more than one view's graph lives.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl.config import AlgorithmConfig


@dataclass(frozen=True)
class Terms:
    """Scored positions of all views of some rows, flattened."""

    row: Int[Tensor, " scored"]
    weight: Float[Tensor, " scored"]
    edit: Bool[Tensor, " scored"]
    advantage: Float[Tensor, " rows"]
    editable: Float[Tensor, " rows"]  # number of generated tokens of each row


@dataclass(frozen=True)
class Normaliser:
    """Constants of the whole batch, so that the loss does not depend on how it is split."""

    num_rows: float  # a share of the batch's rows, where zero-advantage rows are left out or minibatches split it
    max_tokens: int  # longest completion allowed: Dr.GRPO's constant token normaliser


def clipped_surrogate(
    log_ratio: Float[Tensor, " n"], advantage: Float[Tensor, " n"], low: float, high: float
) -> Float[Tensor, " n"]:
    """PPO's pessimistic surrogate min(rho A, clip(rho, 1 - low, 1 + high) A), per ratio.

    Source: PPO (arXiv 1707.06347) eq 7; clip-higher from DAPO (arXiv 2503.14476).
    """
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def k2(log_ratio: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """0.5 (log p - log p_ref)^2: as a loss on the policy's own draws its gradient is that of KL(policy || ref)."""
    return 0.5 * log_ratio.square()


def sequence_log_ratio(
    difference: Float[Tensor, " scored"], terms: Terms, weight: Float[Tensor, " scored"], gamma: float
) -> Float[Tensor, " rows"]:
    """Weighted sum of log-probability differences per row, divided by editable tokens ** gamma.

    gamma 1 is ESPO / GSPO's length-normalised ratio, gamma 0 is EBPO as printed (LLaDA2.1 eq 5).
    """
    sums = torch.zeros_like(terms.editable).index_add(0, terms.row, weight * difference)
    return sums / terms.editable**gamma


def policy_loss(
    current: Float[Tensor, " scored"],
    old: Float[Tensor, " scored"],
    reference: Float[Tensor, " scored"] | None,
    terms: Terms,
    config: AlgorithmConfig,
    normaliser: Normaliser,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """The loss of some rows, as their share of the batch's loss.

    Args:
        current: Log-probabilities under the policy being updated; the only argument with a gradient.
        old: Under the policy that the rollouts came from.
        reference: Under the reference policy of the KL term; None: no KL.
        terms: What each scored position belongs to.
        config: Ratio, clip and KL settings.
        normaliser: Constants of the whole batch.

    Returns:
        The loss, and sums for metrics (to be divided by the batch's number of ratios).
    """
    weight = terms.weight * torch.where(terms.edit, config.t2t_weight, 1.0)
    if config.ratio == "token":
        log_ratio, advantage = current - old, terms.advantage[terms.row]
        share, scale = weight, 1 / (normaliser.num_rows * normaliser.max_tokens)
    else:
        log_ratio, advantage = sequence_log_ratio(current - old, terms, weight, config.gamma), terms.advantage
        share, scale = torch.ones_like(advantage), 1 / normaliser.num_rows
    surrogate = clipped_surrogate(log_ratio, advantage, config.epsilon, config.epsilon_high)
    loss = -(share * surrogate).sum() * scale
    ratio = log_ratio.detach().exp()
    outside = torch.where(advantage > 0, ratio > 1 + config.epsilon_high, ratio < 1 - config.epsilon)
    sums = {
        "ratios": torch.ones_like(log_ratio).sum(),
        "clip_fraction": (outside & (advantage != 0)).sum(),
        "log_ratio_abs": log_ratio.abs().sum(),
    }
    if reference is not None:
        to_reference = current - reference
        if config.ratio == "sequence":
            to_reference = sequence_log_ratio(to_reference, terms, weight, config.gamma)
        penalty = (share * k2(to_reference)).sum()
        loss = loss + config.beta * scale * penalty
        sums["kl"] = penalty * scale
    return loss, {name: value.detach() for name, value in sums.items()}
