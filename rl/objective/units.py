"""The ratios of a loss: which scored positions share one, with which weight, and its share of the loss.

Every term belongs to exactly one unit, and an M2T term never shares a ratio with a T2T term. Equation numbers are those
of docs/math.md.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from redraft.rl.config.losses import LossConfig, SequenceRatio, TokenRatio
from redraft.rl.objective.terms import Normaliser, ScoredValues, Terms


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


def make_units(terms: Terms, loss: LossConfig, normaliser: Normaliser) -> Units:
    """Group scored positions into ratios (eq 16 to 19), each with its share of the loss (eq 42)."""
    grouping = _grouping(terms, loss)
    kind = 2 * grouping.key + terms.edit  # separates the M2T terms of a key from its T2T terms
    _, of = torch.unique(kind, return_inverse=True)
    member = _member_of_each(of)
    sequence, edit = terms.sequence[member], terms.edit[member]
    per_unit = _batch_share(terms.editable[sequence], loss, normaliser)
    kind_weight = torch.where(edit, loss.t2t_weight, 1.0)
    share = per_unit * kind_weight * grouping.outside[member]
    return Units(of, grouping.inside, sequence, edit, share)


class _Grouping(NamedTuple):
    key: Int[Tensor, " scored"]  # terms with one key share a ratio
    inside: ScoredValues  # weight of a term in its unit's log-ratio
    outside: ScoredValues  # weight of the term's unit in the loss, equal for all terms of a unit


def _grouping(terms: Terms, loss: LossConfig) -> _Grouping:
    """Say which terms share a ratio, and with which weights.

    The log-ratio of a sequence is its weighted sum divided by editable tokens ** gamma: gamma 1 is ESPO's and GSPO's
    length-normalised ratio, gamma 0 is EBPO as printed (LLaDA2.1 eq 5).
    """
    one = torch.ones_like(terms.weight)
    ratio = loss.ratio
    if isinstance(ratio, TokenRatio) and ratio.kind == "token":
        each = torch.arange(len(terms.sequence), device=terms.sequence.device)
        return _Grouping(each, inside=one, outside=terms.weight)
    if isinstance(ratio, TokenRatio):
        return _Grouping(pair_key(terms.sequence, terms.position), inside=terms.weight, outside=one)
    length = terms.editable[terms.sequence] ** ratio.gamma
    if loss.kind == "bgpo":
        # One ratio per view: each view's sum stands for the whole sequence, and the loss is the mean over views. All
        # sequences have as many views as the one with most.
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
    editable: Float[Tensor, " units"], loss: LossConfig, normaliser: Normaliser
) -> Float[Tensor, " units"]:
    """Weight of a unit by the batch's constants: a mean over sequences, or over a number of tokens (eq 42)."""
    if isinstance(loss.ratio, SequenceRatio):
        return torch.full_like(editable, 1 / normaliser.num_sequences)
    if loss.ratio.normaliser == "sequence":
        return 1 / (normaliser.num_sequences * editable)
    if loss.ratio.normaliser == "batch":
        return torch.full_like(editable, 1 / normaliser.num_tokens)
    return torch.full_like(editable, 1 / (normaliser.num_sequences * normaliser.max_tokens))


def pair_key(sequence: Int[Tensor, " scored"], within: Int[Tensor, " scored"]) -> Int[Tensor, " scored"]:
    """Number the pairs (sequence, within): equal pairs get equal numbers, different pairs different ones."""
    width = int(within.max()) + 1 if len(within) else 1
    return sequence * width + within
