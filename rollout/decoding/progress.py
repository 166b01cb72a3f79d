"""Where the rows of a decoder are, and where a step takes them: host numbers, one entry per slot, no device."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from redraft.rollout.decoding.layout import Numbers, Place
from redraft.rollout.request import Request

Flags = NDArray[np.bool_]


class StepFlags(NamedTuple):
    """What the host must know of a step, per row.

    Attributes:
        changed: It changed a token.
        was_full: The forward's input held no mask.
        has_masks: A mask is left after it.
    """

    changed: Flags
    was_full: Flags
    has_masks: Flags


class Progress:
    """Positions and counts of every slot.

    Attributes:
        active: First position of the active block.
        frontier: First position of the newest block: the active one, unless earlier blocks are open again.
        committed: Tokens whose keys and values are final.
        first: First position of the row's first active block.
        end: Position behind its last block.
        prompt: Tokens of its prompt.
        forwards: Forwards that the row took.
        age: Those of them on its active block, since that was opened.
    """

    def __init__(self, num_slots: int, block_length: int) -> None:
        self.block_length = block_length
        numbers = np.zeros((10, num_slots), dtype=np.int64)
        self.active, self.frontier, self.committed, self.first, self.end, self.prompt = numbers[:6]
        self.forwards, self.age, self._post, self._post_limit = numbers[6:]

    def start(self, slot: int, request: Request, committed: int) -> None:
        """Puts a row at its first block."""
        size = len(request.prompt.token_ids)
        self.first[slot] = self.active[slot] = self.frontier[slot] = size // self.block_length * self.block_length
        self.committed[slot], self.end[slot], self.prompt[slot] = committed, request.length, size
        self.forwards[slot] = self.age[slot] = self._post[slot] = 0
        self._post_limit[slot] = request.config.post_steps

    def place(self, rows: Numbers) -> Place:
        """Where some rows are."""
        return Place(self.active[rows], self.frontier[rows], self.committed[rows])

    def take_step(self, rows: Numbers, flags: StepFlags) -> Flags:
        """Counts a step; True where it left the active block final.

        A block is final when the step found no mask in it and changed nothing, or when its mask-free forwards are
        spent.
        """
        self.forwards[rows] += 1
        self.age[rows] += 1
        self._post[rows] += flags.was_full
        spent = self._post[rows] >= self._post_limit[rows]
        final = ~flags.has_masks & ((flags.was_full & ~flags.changed) | spent)
        self._commit(rows, final, flags.changed)
        return final

    def end_block(self, slot: int, window: int) -> bool:
        """Moves a row whose active block is final on; True if that is to a new block, so that those before are final.

        Otherwise it is to a block that is opened again: those of the window before the newest, from left to right.
        """
        active, frontier = int(self.active[slot]), int(self.frontier[slot])
        self.age[slot] = self._post[slot] = 0
        opened = max(int(self.first[slot]), frontier - (window - 1) * self.block_length)
        following = opened if active == frontier else active + self.block_length
        if following < frontier:
            self.active[slot] = following
            return False
        self.active[slot] = self.frontier[slot] = frontier + self.block_length
        return True

    def _commit(self, rows: Numbers, final: Flags, changed: Flags) -> None:
        """Notes which keys the forward left final.

        It ran every block before the active one as it is, and the active one too if the step left it as it was. The
        blocks behind an open one were run with it as it was before the step.
        """
        active, frontier = self.active[rows], self.frontier[rows]
        kept = np.where(active < frontier, frontier + self.block_length, active + final * self.block_length)
        self.committed[rows] = np.where(changed, active, kept)
