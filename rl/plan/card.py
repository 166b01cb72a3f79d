"""Lines of memory, and the card that they must fit."""

from dataclasses import dataclass
from typing import Literal

from redraft.rl.plan.machine import FRAGMENTATION, RESERVED_BYTES

Phase = Literal["always", "learning", "rolling_out"]

_ROUNDING = 1e-9  # a cache fills a card to its last byte


@dataclass(frozen=True)
class Line:
    """One term.

    Attributes:
        role: Whose memory it is.
        name: As in docs/scale.md.
        size: Bytes on one GPU.
        phase: When it is taken.
        why: What it holds.
    """

    role: Literal["learner", "rollout"]
    name: str
    size: float
    phase: Phase
    why: str


@dataclass(frozen=True)
class Card:
    """Memory of one GPU of a role, or of the host.

    Attributes:
        role: What runs on it.
        count: GPUs with this memory.
        lines: Its terms.
        card_bytes: What it has.
    """

    role: str
    count: int
    lines: tuple[Line, ...]
    card_bytes: float

    @property
    def used_bytes(self) -> float:
        """Bytes of tensors at the fullest moment: what is always there, and the larger of the two phases."""
        always, learning, rolling_out = (self._sum(phase) for phase in ("always", "learning", "rolling_out"))
        return always + max(learning, rolling_out)

    @property
    def needed_bytes(self) -> float:
        """Bytes that the card must have: tensors, what the allocator loses between them, and what CUDA reserves."""
        return self.used_bytes * FRAGMENTATION + RESERVED_BYTES

    @property
    def fits(self) -> bool:
        """Tell whether the card has room for it."""
        return self.needed_bytes <= self.card_bytes * (1 + _ROUNDING)

    @property
    def largest(self) -> Line:
        """The largest term of the fullest moment."""
        fuller = max(("learning", "rolling_out"), key=self._sum)
        return max((line for line in self.lines if line.phase in {"always", fuller}), key=lambda line: line.size)

    def _sum(self, phase: str) -> float:
        return sum(line.size for line in self.lines if line.phase == phase)
