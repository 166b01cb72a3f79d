"""What the loss is computed from: scored positions as terms, each policy's values of them, their grouping into ratios.

Equation numbers are those of docs/math.md.

**Guarantees**
    * Every term belongs to exactly one unit, and an M2T term never shares a ratio with a T2T term.
    * The share of a unit depends on its own sequence and on constants of the whole batch. So the losses of the parts of
      a batch add up to the loss of the batch, however it is split (in whole groups, if the loss compares in groups).
    * Log-probabilities that were taken on different noise draws are refused (`Policies.joined`).

**Assumes**
    * `Terms.sequence` indexes `advantage`, `editable` and `group`. A sequence may have no term.
    * Views are numbered from 0. The loss `bgpo` takes the largest number plus one as the number of views of every
      sequence.

**Rejected alternatives**
    * A padded tensor of views x sequences x positions: nearly all entries would be empty, and every sum would need a
      mask.
    * Means inside a micro-batch: the loss would change with the size of the micro-batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from redraft.rl.config.algorithm import AlgorithmConfig

ScoredValues = Float[Tensor, " scored"]


@dataclass(frozen=True)
class Terms:
    """The scored positions of all views of some sequences, side by side, and what is known of the sequences.

    Example: sequence 0 has 4 generated tokens, of which its view scores positions 2 and 3 with weight 4 / 2 each;
    sequence 1 has 2, of which its view scores position 1 with weight 2 / 1. With log-probabilities of -1, -0.5 and
    -0.25 nats, the estimated log-likelihoods are 2 (-1) + 2 (-0.5) = -3 and 2 (-0.25) = -0.5:

    >>> terms = Terms(
    ...     sequence=torch.tensor([0, 0, 1]),
    ...     position=torch.tensor([2, 3, 1]),
    ...     view=torch.tensor([0, 0, 0]),
    ...     weight=torch.tensor([2.0, 2.0, 2.0]),
    ...     edit=torch.tensor([False, False, False]),
    ...     anchor=torch.tensor([False, False, False]),
    ...     engine=torch.full((3,), torch.nan),
    ...     advantage=torch.tensor([1.0, -1.0]),
    ...     editable=torch.tensor([4.0, 2.0]),
    ...     group=torch.tensor([0, 0]),
    ... )
    >>> terms.sequence_sums(terms.weight * torch.tensor([-1.0, -0.5, -0.25])).tolist()
    [-3.0, -0.5]

    Attributes:
        sequence: Number of the sequence that a scored position belongs to.
        position: Absolute position in the sequence.
        view: Number of the view that scores it.
        weight: Of its log-probability in the sequence's log-likelihood.
        edit: Scored as T2T (the position showed a token) and not as M2T.
        anchor: The view belongs to the ELBO anchor and not to the policy's likelihood.
        engine: Log-probability that the rollout engine recorded, in nats; nan where it recorded none.
        advantage: Per sequence.
        editable: Number of generated tokens per sequence.
        group: Completions of one prompt have the same number.
    """

    sequence: Int[Tensor, " scored"]
    position: Int[Tensor, " scored"]
    view: Int[Tensor, " scored"]
    weight: ScoredValues
    edit: Bool[Tensor, " scored"]
    anchor: Bool[Tensor, " scored"]
    engine: ScoredValues
    advantage: Float[Tensor, " sequences"]
    editable: Float[Tensor, " sequences"]
    group: Int[Tensor, " sequences"]

    def select(self, chosen: Bool[Tensor, " scored"]) -> "Terms":
        """Keep some of the scored positions, and all sequences."""
        names = ("sequence", "position", "view", "weight", "edit", "anchor", "engine")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def sequence_sums(self, values: ScoredValues) -> Float[Tensor, " sequences"]:
        """Sum one number per scored position over each sequence; 0 for a sequence without scored positions."""
        return torch.zeros_like(self.editable).index_add(0, self.sequence, values)


@dataclass(frozen=True)
class Normaliser:
    """Constants of the whole batch, so that the loss does not depend on how the batch is split.

    An optimizer step on a part of the batch gets the same part of `num_sequences` and `num_tokens`. They count the
    sequences that are not learned from as well.

    Attributes:
        num_sequences: Sequences in the batch.
        max_tokens: Longest completion allowed: Dr.GRPO's constant token normaliser.
        num_tokens: Generated tokens in the batch: DAPO's token mean.
    """

    num_sequences: float
    max_tokens: int
    num_tokens: float


@dataclass(frozen=True)
class LogProbs:
    """Log-probabilities of scored positions under one policy.

    Attributes:
        values: Nats.
        mark: `draws_mark` of the views that they were taken on.
    """

    values: ScoredValues
    mark: int


@dataclass(frozen=True)
class Policies:
    """Log-probabilities of the same scored positions under the policies that the loss compares.

    Attributes:
        current: Of the policy that is updated; the loss is differentiated by these.
        old: Of the policy that wrote the rollouts.
        reference: Of the policy that the KL or the preference loss compares with.
    """

    current: ScoredValues
    old: ScoredValues
    reference: ScoredValues | None = None

    @classmethod
    def joined(
        cls, current: Sequence[LogProbs], old: Sequence[LogProbs], reference: Sequence[LogProbs | None]
    ) -> "Policies":
        """Put the log-probabilities of several micro-batches side by side, the current ones as a leaf of the graph.

        Raises:
            ValueError: They were not taken on the same draws.
        """
        for now, before, fixed in zip(current, old, reference, strict=True):
            _refuse_other_draws("old", before, now)
            if fixed is not None:
                _refuse_other_draws("reference", fixed, now)
        known = [one.values for one in reference if one is not None]
        return cls(
            current=torch.cat([one.values for one in current]).clone().requires_grad_(),
            old=torch.cat([one.values for one in old]),
            reference=torch.cat(known) if known else None,
        )


def _refuse_other_draws(name: str, other: LogProbs, current: LogProbs) -> None:
    if other.mark != current.mark:
        raise ValueError(
            f"the {name} policy's log-probabilities come from other noise draws than the current policy's;"
            " score all policies on the same views (an unshared ratio has ~1000 times the variance)"
        )


@dataclass(frozen=True)
class Units:
    """The ratios of a loss.

    One unit has one ratio: a token, a position over its views, a view of a sequence, or a whole sequence. M2T and T2T
    terms are in different units.

    Attributes:
        of: Number of the unit that a term belongs to.
        inside: Weight of a term in its unit's log-ratio.
        sequence: Number of the unit's sequence.
        edit: The unit consists of T2T terms.
        share: Weight of the unit in the loss.
    """

    of: Int[Tensor, " scored"]
    inside: ScoredValues
    sequence: Int[Tensor, " units"]
    edit: Bool[Tensor, " units"]
    share: Float[Tensor, " units"]

    def sum(self, values: ScoredValues) -> Float[Tensor, " units"]:
        """Sum one number per term over each unit, with the terms' weights."""
        return torch.zeros_like(self.share).index_add(0, self.of, self.inside * values)


def make_units(terms: Terms, config: AlgorithmConfig, normaliser: Normaliser) -> Units:
    """Group scored positions into ratios (eq 16 to 19), each with its share of the loss (eq 42)."""
    grouping = _grouping(terms, config)
    kind = 2 * grouping.key + terms.edit  # separates the M2T terms of a key from its T2T terms
    _, of = torch.unique(kind, return_inverse=True)
    member = _member_of_each(of)
    sequence, edit = terms.sequence[member], terms.edit[member]
    per_unit = _batch_share(terms.editable[sequence], config, normaliser)
    kind_weight = torch.where(edit, config.t2t_weight, 1.0)
    share = per_unit * kind_weight * grouping.outside[member]
    return Units(of, grouping.inside, sequence, edit, share)


class _Grouping(NamedTuple):
    key: Int[Tensor, " scored"]  # terms with one key share a ratio
    inside: ScoredValues  # weight of a term in its unit's log-ratio
    outside: ScoredValues  # weight of the term's unit in the loss, equal for all terms of a unit


def _grouping(terms: Terms, config: AlgorithmConfig) -> _Grouping:
    """Say which terms share a ratio, and with which weights.

    The log-ratio of a sequence is its weighted sum divided by editable tokens ** gamma: gamma 1 is ESPO's and GSPO's
    length-normalised ratio, gamma 0 is EBPO as printed (LLaDA2.1 eq 5).
    """
    one = torch.ones_like(terms.weight)
    if config.ratio == "token":
        each = torch.arange(len(terms.sequence), device=terms.sequence.device)
        return _Grouping(each, inside=one, outside=terms.weight)
    if config.ratio == "position":
        return _Grouping(pair_key(terms.sequence, terms.position), inside=terms.weight, outside=one)
    length = terms.editable[terms.sequence] ** config.gamma
    if config.loss_type == "bgpo":
        # One ratio per view: each view's sum stands for the whole sequence, and the loss is the mean over views.
        views = int(terms.view.max()) + 1 if len(terms.view) else 1
        by_view = pair_key(terms.sequence, terms.view)
        return _Grouping(by_view, inside=views * terms.weight / length, outside=torch.full_like(one, 1 / views))
    return _Grouping(terms.sequence, inside=terms.weight / length, outside=one)


def _member_of_each(of: Int[Tensor, " scored"]) -> Int[Tensor, " units"]:
    """Index of some term of each unit; which one does not matter where all terms of a unit agree."""
    number = int(of.max()) + 1 if len(of) else 0
    index = torch.arange(len(of), device=of.device)
    return torch.zeros(number, dtype=torch.int64, device=of.device).scatter_(0, of, index)


def _batch_share(
    editable: Float[Tensor, " units"], config: AlgorithmConfig, normaliser: Normaliser
) -> Float[Tensor, " units"]:
    """Weight of a unit by the batch's constants: a mean over sequences, or over a number of tokens (eq 42)."""
    if config.ratio == "sequence":
        return torch.full_like(editable, 1 / normaliser.num_sequences)
    if config.loss_normaliser == "sequence":
        return 1 / (normaliser.num_sequences * editable)
    if config.loss_normaliser == "batch":
        return torch.full_like(editable, 1 / normaliser.num_tokens)
    return torch.full_like(editable, 1 / (normaliser.num_sequences * normaliser.max_tokens))


def pair_key(sequence: Int[Tensor, " scored"], within: Int[Tensor, " scored"]) -> Int[Tensor, " scored"]:
    """Number the pairs (sequence, within): equal pairs get equal numbers, different pairs different ones."""
    width = int(within.max()) + 1 if len(within) else 1
    return sequence * width + within
