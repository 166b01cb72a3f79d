"""Scores of an engine that has all logits in a table."""

from collections.abc import Iterator

from jaxtyping import Bool, Float
from torch import Tensor

from redraft.rollout.engine.scores import Piece, Reading, placed, reading_of, suppress_mask_


class DenseScores:
    """`engine.scores.Scores` of a table."""

    def __init__(self, logits: Float[Tensor, "rows slots vocab"], mask: int) -> None:
        """Take a copy of the table, without the mask token's logits."""
        self._logits = suppress_mask_(logits.clone(), mask)

    def read(self, where: Bool[Tensor, "rows slots"]) -> Reading:
        row, slot = where.nonzero(as_tuple=True)
        return placed(reading_of(self._logits[row, slot]), row, slot, where)

    def pieces(self, where: Bool[Tensor, "rows slots"]) -> Iterator[Piece]:
        row, slot = where.nonzero(as_tuple=True)
        if len(row):
            yield row, slot, self._logits[row, slot]
