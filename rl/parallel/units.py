"""The parts that a network names for sharding. Importing this loads nothing of torch.distributed."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import nn


class Unit(NamedTuple):
    """Modules that are gathered together.

    Attributes:
        modules: Called one after the other.
        kind: "experts" are spread over expert-parallel ranks, all else over all ranks; the "head" stays gathered until
            its backward pass, which follows at once; a "router" computes in the type of its own weights.
    """

    modules: tuple[nn.Module, ...]
    kind: Literal["embedding", "layer", "experts", "router", "head"]


@runtime_checkable
class Shardable(Protocol):
    """A network that says how it may be taken apart."""

    def shard_units(self) -> Sequence[Unit]:
        """List the units, those inside others first."""
        ...

    forward_methods: tuple[str, ...]
    """Methods other than `forward` that are called from outside."""
