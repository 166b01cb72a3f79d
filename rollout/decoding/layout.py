"""Which blocks a forward runs: the active block of every sequence, and the blocks whose keys are not final.

Plain numpy on the host: what a pass looks like follows from where the sequences are, never from what the policy says.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from redraft.rollout.engine.protocol import Pass

Numbers = NDArray[np.int64]


class Place(NamedTuple):
    """Where sequences are, in tokens; all in whole blocks.

    Attributes:
        active: First position of the active block.
        frontier: First position of the newest block: the active one, unless earlier blocks are open again.
        committed: Tokens whose keys and values are final.
    """

    active: Numbers
    frontier: Numbers
    committed: Numbers

    def pending(self, block_length: int) -> tuple[Numbers, Numbers]:
        """Return begin and end of the blocks that have to be run besides the active one.

        A block that is open again is run twice where its own keys are stale: once as later blocks may see it, and once
        with all of the window in sight, for the edits.
        """
        reopened = self.active < self.frontier
        return self.committed, np.where(reopened, self.frontier + block_length, self.active)


class Layout(NamedTuple):
    """The entries of a pass, active blocks first.

    Attributes:
        owner: Index of the entry's sequence.
        start: First position of its block.
        reach: Tokens that it may attend to.
        write: Page of its keys and values.
        table: Pages of its sequence.
    """

    owner: Numbers
    start: Numbers
    reach: Numbers
    write: Numbers
    table: NDArray[np.int64]


def lay_out(place: Place, tables: NDArray[np.int64], block_length: int) -> Layout:
    """Lay out the entries of one forward of all sequences.

    With blocks of 4, a sequence whose active block begins at 8 and whose keys are final up to 4 gives two entries: the
    active block (start 8, reach 12), and the block before it (start 4, reach 8), run again for its final keys.

    Args:
        place: Where the sequences are.
        tables: Pages of each sequence in the order of positions. The last column holds its spare page, which takes the
            keys of a block that is open again: they depend on later blocks, which no final key may.
        block_length: Tokens per block.
    """
    count = len(place.active)
    begin, end = place.pending(block_length)
    blocks = np.maximum(end - begin, 0) // block_length
    owner = np.repeat(np.arange(count), blocks)
    index = np.arange(len(owner)) - np.repeat(blocks.cumsum() - blocks, blocks)
    pending = begin[owner] + index * block_length
    start = np.concatenate([place.active, pending])
    reach = np.concatenate([place.frontier, pending]) + block_length
    owner = np.concatenate([np.arange(count), owner])
    table = tables[owner, : int(reach.max()) // block_length]
    write = table[np.arange(len(owner)), start // block_length]
    reopened = np.flatnonzero(place.active < place.frontier)
    write[reopened] = tables[reopened, -1]
    table[reopened, place.active[reopened] // block_length] = write[reopened]
    return Layout(owner, start, reach, write, table)


def upload(columns: list[Numbers], device: torch.device) -> list[Int[Tensor, "..."]]:
    """Copy several arrays to the device in one transfer."""
    flat = torch.from_numpy(np.concatenate([column.ravel() for column in columns])).to(device)
    parts = flat.split([column.size for column in columns])
    return [part.view(column.shape) for part, column in zip(parts, columns, strict=True)]


def run_of_blocks(tokens: Int[Tensor, " canvas"], begin: int, end: int, pages: Numbers, block_length: int) -> Pass:
    """Make a pass over consecutive blocks of one sequence, from `begin` to `end`: one entry, causal by blocks."""
    positions = torch.arange(begin, end, device=tokens.device)[None]
    reach = (positions // block_length + 1) * block_length
    if end - begin == block_length:
        # The mask of a single block is one row for all of its queries, the cheapest form of attention.
        reach = reach[:, :1]
    (table,) = upload([pages[None, : end // block_length]], tokens.device)
    return Pass(tokens[None, begin:end], positions, table[:, begin // block_length :], table, reach)
