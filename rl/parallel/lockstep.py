"""Keep the ranks of a learner in step: as many forwards on every rank, and one decision from the numbers of all.

A forward of a sharded network is a sequence of collectives. A rank that runs one forward more than the others waits
until the timeout, so every phase of an update is a list of calls that `run` fills up with idle ones.

**Guarantees**
    * Every rank runs the same number of forwards in every phase, whatever rows it has; it may have none.
    * `total` and `largest` return the same numbers on every rank, so what is decided by them is decided alike.
    * Shares depend on the rows and the number of ranks alone; together they hold every row once.

**Assumes**
    * All ranks have the same rows and settings, and so reach the same phases in the same order.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

Row = TypeVar("Row")
Result = TypeVar("Result")
Value = TypeVar("Value")


@runtime_checkable
class Lockstep(Protocol):
    """What an update asks of the other ranks.

    Attributes:
        rank: Number of this rank, from 0 on.
    """

    rank: int

    def share(self, units: Sequence[Sequence[Row]], cost: Callable[[Sequence[Row]], float]) -> list[Row]:
        """Choose the rows of this rank.

        Args:
            units: Rows that must stay together: a group, or a single row.
            cost: Of a unit, in any measure that adds up.
        """
        ...

    def run(
        self, calls: Sequence[Callable[[], Result]], idle: Callable[[], object], backward: bool = False
    ) -> list[Result]:
        """Make this rank's calls of a phase, then idle ones until every rank has made as many.

        Args:
            calls: Each makes one forward.
            idle: Makes one that adds to nothing.
            backward: Whether each makes a backward pass too.
        """
        ...

    def total(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Add up the numbers of all ranks; a name may be missing on some of them."""
        ...

    def largest(self, value: Tensor) -> Tensor:
        """Find the largest of the ranks' numbers."""
        ...

    def norm(self, own: Tensor) -> Tensor:
        """Compute the norm of a vector that is spread over the ranks, from the norm of each rank's entries."""
        ...

    def gather(self, value: Value) -> list[Value]:
        """Collect one picklable value of every rank, in the order of the ranks; every rank gets all."""
        ...


class Alone:
    """One process."""

    rank = 0

    def share(self, units: Sequence[Sequence[Row]], cost: Callable[[Sequence[Row]], float]) -> list[Row]:
        """Return all rows."""
        return [row for unit in units for row in unit]

    def run(
        self, calls: Sequence[Callable[[], Result]], idle: Callable[[], object], backward: bool = False
    ) -> list[Result]:
        """Make the calls."""
        return [call() for call in calls]

    def total(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return the numbers."""
        return dict(sums)

    def largest(self, value: Tensor) -> Tensor:
        """Return the number."""
        return value

    def norm(self, own: Tensor) -> Tensor:
        """Return the norm."""
        return own

    def gather(self, value: Value) -> list[Value]:
        """Return the one value."""
        return [value]
