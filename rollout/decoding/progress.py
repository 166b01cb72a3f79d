"""Where the requests of a decoder stand, and where a denoising step takes them: host numbers, one entry per slot.

An example with blocks of 4, `max_post_steps` 16 and a prompt of 6 tokens: `first`, `active` and `frontier` start at 4,
the block that holds the prompt's tail. A step that leaves no mask and changed a token keeps the block; the next step,
whose input has no mask and which changes nothing, makes it final: `active` and `frontier` go to 8, `age` to 0.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from redraft.rollout.decoding.layout import Numbers, Place
from redraft.rollout.request import Request

Flags = NDArray[np.bool_]


class StepFlags(NamedTuple):
    """What the host must know of a denoising step, per request.

    Attributes:
        changed: The step changed a token.
        was_full: The forward's input held no mask.
        has_masks: The step left a mask.
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
        first: First position of the first active block.
        end: Position behind the last block.
        prompt: Tokens of the prompt.
        forwards: Forwards that the request took.
        age: Forwards on the active block since it was opened.
    """

    def __init__(self, num_slots: int, block_length: int) -> None:
        self.block_length = block_length
        numbers = np.zeros((10, num_slots), dtype=np.int64)
        self.active, self.frontier, self.committed, self.first, self.end, self.prompt = numbers[:6]
        self.forwards, self.age, self._post, self._post_limit = numbers[6:]

    def start(self, slot: int, request: Request, committed: int) -> None:
        """Put a request at its first block."""
        size = len(request.prompt.token_ids)
        self.first[slot] = self.active[slot] = self.frontier[slot] = size // self.block_length * self.block_length
        self.committed[slot], self.end[slot], self.prompt[slot] = committed, request.length, size
        self.forwards[slot] = self.age[slot] = self._post[slot] = 0
        self._post_limit[slot] = request.config.post_steps

    def place(self, index: Numbers) -> Place:
        """Return where some requests stand."""
        return Place(self.active[index], self.frontier[index], self.committed[index])

    def take_step(self, index: Numbers, flags: StepFlags) -> Flags:
        """Count a denoising step; return True where it left the active block final.

        A block is final when it holds no mask, and either the step found none and changed nothing, or the block's
        mask-free forwards are spent.
        """
        self.forwards[index] += 1
        self.age[index] += 1
        self._post[index] += flags.was_full
        spent = self._post[index] >= self._post_limit[index]
        final = ~flags.has_masks & ((flags.was_full & ~flags.changed) | spent)
        self._commit(index, final, flags.changed)
        return final

    def end_block(self, slot: int, window: int) -> bool:
        """Move a request whose active block is final on to the next block.

        Args:
            slot: Of the request.
            window: `DecodeConfig.editing_window`.

        Returns:
            True if the next block is a new one, so that the newest block is final for good. False if it is an earlier
            block of the window, opened again: those before the newest, from left to right.
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

    def _commit(self, index: Numbers, final: Flags, changed: Flags) -> None:
        """Note which keys the forward left final.

        It ran every block before the active one as that block is now. It ran the active one so too if the step changed
        nothing, and then also the blocks behind an active block that was opened again.
        """
        active, frontier = self.active[index], self.frontier[index]
        kept = np.where(active < frontier, frontier + self.block_length, active + final * self.block_length)
        self.committed[index] = np.where(changed, active, kept)
