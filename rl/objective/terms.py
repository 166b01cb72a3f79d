"""What the objective is made of: scored positions as terms, policies' values of them, and their grouping into ratios.

Equation numbers are those of docs/math.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from redraft.rl.config.algorithm import AlgorithmConfig

ScoredValues = Float[Tensor, " scored"]


@dataclass(frozen=True)
class Terms:
    """Scored positions of all views of some rows, flattened, and what is known of the rows."""

    sequence: Int[Tensor, " scored"]
    position: Int[Tensor, " scored"]
    view: Int[Tensor, " scored"]
    weight: ScoredValues
    edit: Bool[Tensor, " scored"]
    anchor: Bool[Tensor, " scored"]  # belongs to the ELBO anchor alone
    engine: ScoredValues  # the rollout engine's log-probabilities, nats; nan where it recorded none
    advantage: Float[Tensor, " sequences"]
    editable: Float[Tensor, " sequences"]  # number of generated tokens of each row
    group: Int[Tensor, " sequences"]

    def select(self, chosen: Bool[Tensor, " scored"]) -> "Terms":
        """Some of the scored positions, of the same rows."""
        names = ("sequence", "position", "view", "weight", "edit", "anchor", "engine")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def sequence_sums(self, values: ScoredValues) -> Float[Tensor, " sequences"]:
        """Sums of one number per scored position over each row."""
        return torch.zeros_like(self.editable).index_add(0, self.sequence, values)


@dataclass(frozen=True)
class Normaliser:
    """Constants of the whole batch, so that the loss does not depend on how it is split."""

    num_sequences: float  # a share of the batch's rows, where zero-advantage rows are left out or minibatches split it
    max_tokens: int  # longest completion allowed: Dr.GRPO's constant token normaliser
    num_tokens: float  # generated tokens, in the same share: DAPO's token mean


@dataclass(frozen=True)
class LogProbs:
    """Log-probabilities of scored positions under one policy, and the mark of the draws behind them."""

    values: ScoredValues  # nats
    mark: int


@dataclass(frozen=True)
class Policies:
    """The same scored positions under the policies that the loss compares."""

    current: ScoredValues  # being updated; the only one with a gradient
    old: ScoredValues  # that the rollouts came from
    reference: ScoredValues | None = None  # of the KL or preference term

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
                if other is not None and other.mark != now.mark:
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
    inside: ScoredValues  # weight of a term inside its unit's log-ratio
    sequence: Int[Tensor, " units"]
    edit: Bool[Tensor, " units"]
    share: Float[Tensor, " units"]  # weight of the unit in the loss

    def sum(self, values: ScoredValues) -> Float[Tensor, " units"]:
        """Weighted sums over the terms of each unit."""
        return torch.zeros_like(self.share).index_add(0, self.of, self.inside * values)


def make_units(terms: Terms, config: AlgorithmConfig, normaliser: Normaliser) -> Units:
    """Group scored positions into ratios (eq 16 to 19), each with its share of the loss (eq 42).

    The sequence ratio divides the weighted sum by editable tokens ** gamma: gamma 1 is ESPO's and GSPO's
    length-normalised ratio, gamma 0 is EBPO as printed (LLaDA2.1 eq 5).
    """
    views = int(terms.view.max()) + 1 if len(terms.view) else 1
    length = terms.editable[terms.sequence]
    if config.ratio == "token":
        key, inside, outside = torch.arange(len(terms.sequence), device=terms.sequence.device), None, terms.weight
    elif config.ratio == "position":
        key, inside, outside = pair_key(terms.sequence, terms.position), terms.weight, None
    elif config.loss_type == "bgpo":
        key, inside, outside = (
            pair_key(terms.sequence, terms.view),
            views * terms.weight / length**config.gamma,
            1 / views,
        )
    else:
        key, inside, outside = terms.sequence, terms.weight / length**config.gamma, None
    _, of = torch.unique(2 * key + terms.edit, return_inverse=True)
    number = int(of.max()) + 1 if len(of) else 0
    first = torch.zeros(number, dtype=torch.int64, device=of.device).scatter_(
        0, of, torch.arange(len(of), device=of.device)
    )
    row, edit = terms.sequence[first], terms.edit[first]
    share = _scale(terms.editable[row], config, normaliser) * torch.where(edit, config.t2t_weight, 1.0)
    if isinstance(outside, Tensor):
        share = share * outside[first]
    elif outside is not None:
        share = share * outside
    return Units(of, torch.ones_like(terms.weight) if inside is None else inside, row, edit, share)


def _scale(editable: Tensor, config: AlgorithmConfig, normaliser: Normaliser) -> Tensor:
    """Weight of a unit by the batch's constants: a mean over rows, and for token losses over a number of tokens."""
    if config.ratio == "sequence":
        return torch.full_like(editable, 1 / normaliser.num_sequences)
    if config.loss_normaliser == "sequence":
        return 1 / (normaliser.num_sequences * editable)
    per_token = 1 / normaliser.num_tokens if config.loss_normaliser == "batch" else None
    return torch.full_like(editable, per_token or 1 / (normaliser.num_sequences * normaliser.max_tokens))


def pair_key(row: Tensor, within: Tensor) -> Tensor:
    """One number for (row, within)."""
    return row * (int(within.max()) + 1 if len(within) else 1) + within
