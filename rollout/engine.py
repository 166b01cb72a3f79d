"""What the decoder needs from a policy: logits of active blocks, given a canvas and how much of it is committed."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Int16
from torch import Tensor


@runtime_checkable
class DecodeSession(Protocol):
    """The state of one decode call, such as its key-value cache; never used again after it."""

    def forward(
        self,
        canvas: Int[Tensor, "rows length"],
        rows: Int[Tensor, " live"],
        committed: Int[Tensor, " live"],
        active: Int[Tensor, " live"],
    ) -> Float[Tensor, "live block vocab"]:
        """Runs the blocks of each live row from its first uncommitted one to its active one, in one pass.

        The caller promises that tokens before `active` are final, and that tokens before `committed` were final in
        an earlier forward of this session that ran them.

        Args:
            canvas: Token ids of every row of the session.
            rows: Canvas rows that take part, ascending.
            committed: Tokens of each row whose keys and values are final, in whole blocks.
            active: First position of each row's active block.

        Returns:
            Logits of the active blocks; the row of a position predicts that position (no shift).
        """
        ...


@runtime_checkable
class Engine(Protocol):
    """A policy that decodes blocks."""

    @property
    def device(self) -> torch.device:
        """Where the canvas lives."""
        ...

    @property
    def max_length(self) -> int:
        """Positions that the policy can address, in tokens."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    def open(self, num_rows: int, length: int, block_length: int) -> DecodeSession:
        """Starts a decode of `num_rows` rows on canvases of `length` tokens (whole blocks)."""
        ...


@runtime_checkable
class RecordingSession(DecodeSession, Protocol):
    """A decode call that also tells which experts its tokens visited."""

    def routes(self) -> Int16[Tensor, "live layers block k"]:
        """Experts of the last forward at the slots of the active blocks, in the order of its `rows`."""
        ...


@runtime_checkable
class RecordingEngine(Engine, Protocol):
    """A policy with a mixture of experts that can record its routes."""

    def open_recording(self, num_rows: int, length: int, block_length: int) -> RecordingSession:
        """Starts a decode as `open` does, with routes.

        Raises:
            TypeError: If the policy's network has no routes to record.
        """
        ...
