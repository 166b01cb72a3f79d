"""What the steps on a block did, kept on the device until the block is final and then taken out of it."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int16
from numpy.typing import NDArray
from torch import Tensor

from redraft.rollout.decoding.editing import Step
from redraft.rollout.trajectory import DecodeTrace


class _Table(NamedTuple):
    """Columns of actions: `[slots, capacity, block]`, by slot, forward on the block, and position in the block."""

    acted: Tensor
    old: Tensor
    new: Tensor
    log_prob: Tensor
    log_prob_raw: Tensor

    @classmethod
    def empty(cls, size: tuple[int, int, int], step: Step) -> "_Table":
        device, real = step.tokens.device, step.proposal.log_prob_raw.dtype
        kinds = [torch.bool, torch.int64, torch.int64, step.proposal.log_prob.dtype, real]
        return cls(*(torch.zeros(size, dtype=kind, device=device) for kind in kinds))


class BlockActions(NamedTuple):
    """Actions on one block, in the order of forwards and positions; the columns of `DecodeTrace`."""

    forward: NDArray[np.int64]
    position: NDArray[np.int64]
    old: NDArray[np.int64]
    new: NDArray[np.int64]
    log_prob: NDArray[np.floating]
    log_prob_raw: NDArray[np.floating]


class ActionRecorder:
    """Notes of the denoising steps of all slots, for as many forwards as a block may take; so memory is bounded."""

    def __init__(self, num_slots: int, block_length: int) -> None:
        """Start empty; memory is taken when the first step shows its types."""
        self._size = (num_slots, 0, block_length)
        self._table: _Table | None = None
        self._routes: Int16[Tensor, "slots capacity layers block k"] | None = None

    def reserve(self, capacity: int) -> None:
        """Make room for blocks that take up to `capacity` forwards."""
        num_slots, before, block_length = self._size
        if capacity <= before:
            return
        self._size = (num_slots, capacity, block_length)
        if self._table is not None:
            self._table = _Table(*(_longer(kept, capacity) for kept in self._table))
        if self._routes is not None:
            self._routes = _longer(self._routes, capacity)

    def note(
        self,
        slots: Int[Tensor, " sequences"],
        age: Int[Tensor, " sequences"],
        before: Int[Tensor, "sequences block"],
        step: Step,
        routes: Int16[Tensor, "sequences layers block k"] | None,
    ) -> None:
        """Keep one denoising step.

        Args:
            slots: Slot of each sequence.
            age: Forwards that the active block had taken before.
            before: Tokens of the active block before the step.
            step: What was done.
            routes: Experts that the tokens visited.
        """
        if self._table is None:
            self._table = _Table.empty(self._size, step)
        acted = step.unmasked | step.edited
        columns = (acted, before, step.tokens, step.proposal.log_prob, step.proposal.log_prob_raw)
        for kept, column in zip(self._table, columns, strict=True):
            kept[slots, age] = column
        if routes is not None:
            if self._routes is None:
                self._routes = routes.new_zeros((*self._size[:2], *routes.shape[1:]))
            self._routes[slots, age] = routes

    def take(self, slots: list[int], ages: list[int]) -> list[tuple[BlockActions, NDArray[np.int16] | None]]:
        """Take out the actions, and the routes if there are any, of blocks that took `ages` forwards.

        `forward` and `position` count from the block's first.
        """
        assert self._table is not None
        index = torch.tensor(slots, device=self._table.acted.device)
        longest = max(ages)
        acted, *columns = (kept[index, :longest].cpu().numpy() for kept in self._table)
        routes = None if self._routes is None else self._routes[index, :longest].cpu().numpy()
        taken = []
        for entry, age in enumerate(ages):
            forward, position = acted[entry, :age].nonzero()
            actions = BlockActions(forward, position, *(column[entry, forward, position] for column in columns))
            taken.append((actions, None if routes is None else routes[entry, :age].copy()))
        return taken


def _longer(kept: Tensor, capacity: int) -> Tensor:
    return torch.cat([kept, kept.new_zeros((len(kept), capacity - kept.shape[1], *kept.shape[2:]))], dim=1)


class SequenceRecord:
    """The actions of one sequence in its final blocks."""

    def __init__(self) -> None:
        self._blocks: list[BlockActions] = []
        self._routes: list[NDArray[np.int16]] = []

    def add(self, actions: BlockActions, routes: NDArray[np.int16] | None, forwards: int, offset: int) -> None:
        """Add a final block.

        Args:
            actions: Counted from the block's first forward and position.
            routes: Of the block's forwards.
            forwards: Forwards that the sequence took before the block.
            offset: Position of the block, counted from the first completion token.
        """
        self._blocks.append(actions._replace(forward=actions.forward + forwards, position=actions.position + offset))
        if routes is not None:
            self._routes.append(routes)

    def trace(self, mask: int, num_forwards: int) -> DecodeTrace:
        """Return the trace of all blocks."""
        columns: list[Any] = [tuple(np.concatenate(parts).tolist()) for parts in zip(*self._blocks, strict=True)]
        routes = np.concatenate(self._routes) if self._routes else None
        return DecodeTrace(mask, num_forwards, *columns, routes=routes)
