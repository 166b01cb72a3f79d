"""What the decoder needs from a policy: forwards over blocks whose keys and values live in pages."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int, Int16
from torch import Tensor

from redraft.rollout.engine.scores import Scores


class Pass(NamedTuple):
    """One forward: entries of whole blocks, all of them with as many tokens.

    Attributes:
        tokens: Token ids.
        positions: Absolute positions.
        write: Page that takes the keys and values of each block of the entry.
        table: Pages of the entry's row in the order of positions, from position 0 on; behind its reach any page.
        reach: Tokens at the beginning of the table that each query of the entry may attend to, or all of them.
    """

    tokens: Int[Tensor, "entries queries"]
    positions: Int[Tensor, "entries queries"]
    write: Int[Tensor, "entries blocks"]
    table: Int[Tensor, "entries pages"]
    reach: Int[Tensor, "entries #queries"]


class Outcome(NamedTuple):
    """What a forward says about its active blocks.

    Attributes:
        scores: Their logits; the row of a position predicts that position (no shift).
        routes: Experts that their tokens visited, if asked for.
    """

    scores: Scores
    routes: Int16[Tensor, "active layers block k"] | None


@runtime_checkable
class DecodeSession(Protocol):
    """Pages of keys and values, filled by one version of the weights.

    In a pass every entry writes its pages before any entry reads, layer by layer: entries of one pass see each
    other's blocks.
    """

    def forward(self, batch: Pass, num_active: int, record: bool) -> Outcome:
        """Runs a pass whose first `num_active` entries are active blocks, one block each.

        Args:
            batch: The pass.
            num_active: Entries that scores are wanted of.
            record: Note the routes too.

        Raises:
            TypeError: If routes are asked of a policy that has none.
        """
        ...

    def prefill(self, batch: Pass) -> None:
        """Runs a pass for its keys and values alone."""
        ...


@runtime_checkable
class Engine(Protocol):
    """A policy that decodes blocks."""

    @property
    def device(self) -> torch.device:
        """Where passes live."""
        ...

    @property
    def max_length(self) -> int:
        """Positions that the policy can address, in tokens."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    def max_pages(self, block_length: int) -> int | None:
        """Pages that the memory set aside for them holds; None if none was set aside: as many as are asked for."""
        ...

    def open(self, num_pages: int, block_length: int, mask: int) -> DecodeSession:
        """A session with empty pages.

        Args:
            num_pages: Pages that can be handed out; one more, page 0, takes what nobody reads.
            block_length: Tokens per page.
            mask: The mask token, which no slot is given.
        """
        ...
