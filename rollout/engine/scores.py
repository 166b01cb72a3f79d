"""Scores of the positions of active blocks: logits, computed only for the positions that are asked about.

A vocabulary is large, and a denoising step looks at few numbers per position: the most probable token, its probability
and the normaliser. So the head's product is made in slices of the vocabulary. All logits of a position exist only where
a token is drawn.

Guarantees:
    * Logits take at most `budget_bytes`, or the room of a single logit (`read`) or position (`pieces`) if that is more.
    * Whatever the slices, every logit is the same product of the same types; sums run in fp32 at least.
    * The mask token has no probability. Logits that are not finite raise; they never become a token.

Assumes:
    * The head has no bias: its logits are `hidden head_weight^T`.

Rejected alternatives:
    * The whole table of logits: 64 requests x 32 positions x 157184 tokens are 1.3 GB in fp32, for a few numbers each.
    * `softmax` before the maximum: a second table of the same size.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Piece = tuple[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, "n vocab"]]
"""Sequence and position of some places, and all logits at each."""
_DRAW_TABLES: Final = 9  # tables of the size of a piece, itself among them, that exist during a draw with sorting
_GROUP: Final = 64  # columns whose maximum is taken before the search for its place


class Reading(NamedTuple):
    """The untempered softmax at each position, in a few numbers.

    Attributes:
        top: The most probable token; of equal ones the lowest id.
        top_prob: Its probability, at most 1.
        log_normalizer: log sum exp of the logits.
        top_log_prob: Nats, of the most probable token; at most 0.
    """

    top: Int[Tensor, "sequences positions"]
    top_prob: Float[Tensor, "sequences positions"]
    log_normalizer: Float[Tensor, "sequences positions"]
    top_log_prob: Float[Tensor, "sequences positions"]


@runtime_checkable
class Scores(Protocol):
    """Logits of the active blocks of one forward, computed where they are asked for; the mask token has none."""

    def read(self, where: Bool[Tensor, "sequences positions"]) -> Reading:
        """Read the positions in `where`; elsewhere the token is 0, the probability 0.0 and the normaliser 0.0.

        Raises:
            FloatingPointError: If logits that were asked for hold nan or infinity, or nothing but -inf.
        """
        ...

    def pieces(self, where: Bool[Tensor, "sequences positions"]) -> Iterator[Piece]:
        """Yield the logits of the positions in `where`, in row-major order, in pieces that fit into memory.

        The caller must not change the logits: they may be kept for the next call.
        """
        ...


def suppress_mask_(logits: Float[Tensor, "*n vocab"], mask: int) -> Float[Tensor, "*n vocab"]:
    """Set the mask token's logit to -inf in place: it has no probability and is never written."""
    logits[..., mask] = -torch.inf
    return logits


def read(logits: Float[Tensor, "sequences positions vocab"]) -> Reading:
    """Find argmax, its probability and the normaliser of each position, without a softmax of the whole vocabulary.

    Raises:
        FloatingPointError: If logits hold nan or infinity, or nothing but -inf.
    """
    return _finite(reading_of(logits))


class HeadScores:
    """Scores from hidden states: only the positions that are asked about pass the head."""

    def __init__(
        self,
        hidden: Float[Tensor, "sequences positions hidden"],
        head_weight: Float[Tensor, "vocab hidden"],
        mask: int,
        budget_bytes: int,
    ) -> None:
        """Compute nothing yet.

        Args:
            hidden: Hidden states of the active blocks after the final norm.
            head_weight: Matrix of the policy's head.
            mask: Token id of an empty position.
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

    def read(self, where: Bool[Tensor, "sequences positions"]) -> Reading:
        """See `Scores.read`: a running maximum and sum over slices of the vocabulary.

        Logits that leave room for a draw from all of them are kept for `pieces`.
        """
        sequence, position = where.nonzero(as_tuple=True)
        hidden = self._hidden[sequence, position]
        if _DRAW_TABLES * len(sequence) * self._vocab_size <= self._room:
            logits = self._slice(hidden, 0, self._vocab_size)
            self._table = where, logits
            return placed(reading_of(logits), sequence, position, where)
        parts = [self._stream(part) for part in hidden.split(self._room)]
        return placed(_reading(*map(torch.cat, zip(*parts, strict=True))), sequence, position, where)

    def pieces(self, where: Bool[Tensor, "sequences positions"]) -> Iterator[Piece]:
        """See `Scores.pieces`; a piece and a draw from it fit into the budget, or it holds one position."""
        sequence, position = where.nonzero(as_tuple=True)
        known, table = self._table
        if not len(sequence):
            return
        if len(table) and not (where & ~known).any():
            place = known.flatten().cumsum(0).view_as(known)[sequence, position] - 1
            yield sequence, position, table if len(sequence) == len(table) else table[place]
            return
        size = max((self._room - table.numel()) // self._vocab_size, 1)
        for begin in range(0, len(sequence), size):
            where_from = sequence[begin : begin + size], position[begin : begin + size]
            yield *where_from, self._slice(self._hidden[where_from], 0, self._vocab_size)

    def _stream(self, hidden: Float[Tensor, "n hidden"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return highest logit, its token and log sum exp, slice by slice; a column of each position fits the room."""
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
        """Compute the logits of the tokens from `start` on and before `stop`."""
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
    reading: Reading,
    sequence: Int[Tensor, " n"],
    position: Int[Tensor, " n"],
    where: Bool[Tensor, "sequences positions"],
) -> Reading:
    """Put a reading of some positions at their places; refuse one whose logits are not finite."""
    fields = (field.new_zeros(where.shape).index_put_((sequence, position), field) for field in reading)
    return _finite(Reading(*fields))


def _finite(reading: Reading) -> Reading:
    """Return the reading; refuse one whose logits are not finite."""
    broken = ~reading.log_normalizer.isfinite()
    if broken.any():
        sequence, position = broken.nonzero()[0].tolist()
        raise FloatingPointError(
            f"logits are not finite in sequence {sequence}, position {position} of the active blocks"
        )
    return reading


def _peak(logits: Float[Tensor, "n columns"]) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Return the highest logit and its first column.

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
