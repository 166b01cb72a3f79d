"""What the loss is computed from: scored positions as terms, and the values that each policy gives them.

**Guarantees**
    * The loss depends on the batch only through `Terms` and `Normaliser`. The losses of the parts of a batch add up to
      the loss of the batch, however it is split (in whole groups, if the loss compares in groups).
    * Log-probabilities that were taken on different noise draws are refused (`Policies.joined`).

**Assumes**
    * `Terms.sequence` indexes `advantage`, `editable` and `group`. A sequence may have no term.
    * Views are numbered from 0.

**Rejected alternatives**
    * A padded tensor of views x sequences x positions: nearly all entries would be empty, and every sum would need a
      mask.
    * Means inside a micro-batch: the loss would change with the size of the micro-batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
