"""What a forward says about the slots of its active blocks: logits, computed only for the slots that are asked about.

A vocabulary is large and a step looks at few numbers of each slot: the most probable token, its probability and the
normaliser. So the head's product is made in slices of the vocabulary, and whole rows of logits exist for drawn slots
only.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Piece = tuple[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, "n vocab"]]
_DRAW_TABLES: Final = 9  # of the size of a piece, itself among them, that a draw with sorting makes
_GROUP: Final = 64  # columns whose maximum is taken before the search for its place


class Reading(NamedTuple):
    """What the untempered softmax says about each slot.

    Attributes:
        top: The most probable token; of equal ones the lowest id.
        top_prob: Its probability, at most 1.
        log_normalizer: log sum exp of the logits.
        top_log_prob: Nats, of the most probable token; at most 0.
    """

    top: Int[Tensor, "rows slots"]
    top_prob: Float[Tensor, "rows slots"]
    log_normalizer: Float[Tensor, "rows slots"]
    top_log_prob: Float[Tensor, "rows slots"]


@runtime_checkable
class Scores(Protocol):
    """Logits of the active blocks of one forward, computed where they are asked for; the mask token has none."""

    def read(self, where: Bool[Tensor, "rows slots"]) -> Reading:
        """The reading of the slots in `where`; elsewhere token 0, probability 0.0 and normaliser 0.0.

        Raises:
            FloatingPointError: If logits that were asked for hold nan or infinity, or nothing but -inf.
        """
        ...

    def pieces(self, where: Bool[Tensor, "rows slots"]) -> Iterator[Piece]:
        """Row, slot and logits of the slots in `where`, in row-major order, in pieces that fit into memory.

        The logits are the scores' own: they are not to be changed.
        """
        ...


def suppress_mask_(logits: Float[Tensor, "*n vocab"], mask: int) -> Float[Tensor, "*n vocab"]:
    """Sets the mask token's logit to -inf in place: it has no probability and is never written."""
    logits[..., mask] = -torch.inf
    return logits


def read(logits: Float[Tensor, "rows slots vocab"]) -> Reading:
    """Argmax, its probability and the normaliser of each slot, without a softmax of the whole vocabulary.

    Raises:
        FloatingPointError: If logits hold nan or infinity, or nothing but -inf.
    """
    return _finite(reading_of(logits))


class HeadScores:
    """Scores from hidden states: only the slots that are asked about pass the head."""

    def __init__(
        self,
        hidden: Float[Tensor, "rows slots hidden"],
        head_weight: Float[Tensor, "vocab hidden"],
        mask: int,
        budget_bytes: int,
    ) -> None:
        """Computes nothing yet.

        Args:
            hidden: Hidden states of the active blocks after the final norm.
            head_weight: Matrix of the policy's head.
            mask: Token id of an empty slot.
            budget_bytes: Logits that may exist at a time, their 16-bit originals included; but always one.

        Raises:
            ValueError: If the budget is not positive.
        """
        if budget_bytes < 1:
            raise ValueError(f"budget_bytes must be at least 1, got {budget_bytes}")
        self._hidden, self._head_weight, self._mask = hidden, head_weight, mask
        self._dtype = torch.promote_types(hidden.dtype, torch.float32)
        original = hidden.dtype.itemsize if hidden.dtype != self._dtype else 0
        self._room = max(budget_bytes // (self._dtype.itemsize + original), 1)  # in logits
        self._vocab_size = len(head_weight)
        self._table = hidden.new_zeros(hidden.shape[:2], dtype=torch.bool), hidden.new_empty(0, self._vocab_size)

    def read(self, where: Bool[Tensor, "rows slots"]) -> Reading:
        """See `Scores.read`: a running maximum and sum over slices of the vocabulary.

        Logits that leave room for a draw from all of them are kept for `pieces`.
        """
        row, slot = where.nonzero(as_tuple=True)
        hidden = self._hidden[row, slot]
        if _DRAW_TABLES * len(row) * self._vocab_size <= self._room:
            logits = self._slice(hidden, 0, self._vocab_size)
            self._table = where, logits
            return placed(reading_of(logits), row, slot, where)
        parts = [self._stream(part) for part in hidden.split(self._room)]
        return placed(_reading(*map(torch.cat, zip(*parts, strict=True))), row, slot, where)

    def pieces(self, where: Bool[Tensor, "rows slots"]) -> Iterator[Piece]:
        """See `Scores.pieces`; a piece and a draw from it fit into the budget, or it holds one slot."""
        row, slot = where.nonzero(as_tuple=True)
        known, table = self._table
        if not len(row):
            return
        if len(table) and not (where & ~known).any():
            place = known.flatten().cumsum(0).view_as(known)[row, slot] - 1
            yield row, slot, table if len(row) == len(table) else table[place]
            return
        size = max((self._room - table.numel()) // self._vocab_size, 1)
        for begin in range(0, len(row), size):
            rows, slots = row[begin : begin + size], slot[begin : begin + size]
            yield rows, slots, self._slice(self._hidden[rows, slots], 0, self._vocab_size)

    def _stream(self, hidden: Float[Tensor, "n hidden"]) -> tuple[Tensor, Tensor, Tensor]:
        """Highest logit, its token and log sum exp, of no more slots than there is room for columns."""
        top = torch.full((len(hidden),), torch.finfo(self._dtype).min, dtype=self._dtype, device=hidden.device)
        token, total = torch.zeros_like(top, dtype=torch.int64), torch.zeros_like(top)
        width = self._room // max(len(hidden), 1)
        for start in range(0, self._vocab_size if len(hidden) else 0, width):
            logits = self._slice(hidden, start, start + width)
            peak, column = _peak(logits)
            token = torch.where(peak > top, column + start, token)
            higher = torch.maximum(top, peak)
            # In place: an exponential beside every logit would be twice the memory.
            total = total * (top - higher).exp() + logits.sub_(higher[:, None]).exp_().sum(dim=-1)
            top = higher
        return top, token, top + total.log()

    def _slice(self, hidden: Float[Tensor, "n hidden"], start: int, stop: int) -> Float[Tensor, "n columns"]:
        """Logits of the tokens from `start` on and before `stop`."""
        logits = F.linear(hidden, self._head_weight[start:stop]).to(self._dtype)
        if start <= self._mask < stop:
            suppress_mask_(logits, self._mask - start)
        return logits


def reading_of(logits: Float[Tensor, "*n vocab"]) -> Reading:
    """Compute the reading of whole rows of logits."""
    peak, column = _peak(logits.flatten(0, -2))
    return _reading(peak.view(logits.shape[:-1]), column.view(logits.shape[:-1]), logits.logsumexp(dim=-1))


def _reading(top_logit: Float[Tensor, "*n"], top: Int[Tensor, "*n"], log_normalizer: Float[Tensor, "*n"]) -> Reading:
    # log sum exp >= max holds after rounding too, so no probability passes a threshold of 1.0, which means "never".
    top_log_prob = top_logit - log_normalizer
    return Reading(top, top_log_prob.exp(), log_normalizer, top_log_prob)


def placed(
    reading: Reading, row: Int[Tensor, " n"], slot: Int[Tensor, " n"], where: Bool[Tensor, "rows slots"]
) -> Reading:
    """Put a reading of some positions at their places; refuse one whose logits are not finite."""
    fields = (field.new_zeros(where.shape).index_put_((row, slot), field) for field in reading)
    return _finite(Reading(*fields))


def _finite(reading: Reading) -> Reading:
    """The reading, if its logits allowed one."""
    broken = ~reading.log_normalizer.isfinite()
    if broken.any():
        row, slot = broken.nonzero()[0].tolist()
        raise FloatingPointError(f"logits are not finite in row {row}, slot {slot} of the active blocks")
    return reading


def _peak(logits: Float[Tensor, "n columns"]) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """The highest logit and its first column.

    On a CPU the search for the column costs 20 times the maximum itself, so it is made in the first group of columns
    that holds the maximum.
    """
    whole = logits.shape[1] // _GROUP * _GROUP
    if logits.is_cuda or not whole:
        peak, column = logits.max(dim=-1)
        return peak, column
    highest = logits[:, :whole].unflatten(-1, (-1, _GROUP)).amax(dim=-1)
    if whole < logits.shape[1]:
        highest = torch.cat([highest, logits[:, whole:].amax(dim=-1, keepdim=True)], dim=-1)
    # A last group with fewer columns borrows earlier ones: they are below the maximum, or it would not be the first.
    start = (highest.argmax(dim=-1, keepdim=True) * _GROUP).clamp(max=logits.shape[1] - _GROUP)
    peak, column = logits.gather(-1, start + torch.arange(_GROUP, device=logits.device)).max(dim=-1)
    return peak, column + start[:, 0]
