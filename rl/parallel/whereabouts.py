"""What a rank is doing right now, for the error of a wait that ended without it."""

import faulthandler
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

Result = TypeVar("Result")


@dataclass
class Whereabouts:
    """The phase of one rank. Its own thread writes it; another one reads it when somebody asks.

    While the third of eight views is sent backward: `backward, call 3 of 8, for 12.1 s`.

    Attributes:
        phase: What it does; empty between two calls.
        number: Of the call inside the phase, from 1; 0 where the phase is not counted.
        calls: That the phase has on this rank.
        since: Monotonic clock in seconds, at the start of the phase's current call.
    """

    phase: str = ""
    number: int = 0
    calls: int = 0
    since: float = field(default_factory=time.monotonic)

    def enter(self, phase: str, number: int = 0, calls: int = 0) -> None:
        """Note that a phase, or the next call of it, begins."""
        self.phase, self.number, self.calls, self.since = phase, number, calls, time.monotonic()

    def noted(self, phase: str, calls: Sequence[Callable[[], Result]]) -> list[Callable[[], Result]]:
        """Wrap the calls of a phase, so that each is noted when it begins."""

        def note(number: int, call: Callable[[], Result]) -> Result:
            self.enter(phase, number, len(calls))
            return call()

        return [partial(note, number, call) for number, call in enumerate(calls, 1)]

    def describe(self) -> str:
        """Say in a few words where this rank stands."""
        seconds = f"for {time.monotonic() - self.since:.1f} s"
        if not self.phase:
            return f"waiting for its next call, {seconds}"
        counted = f", call {self.number} of {self.calls}" if self.number else ""
        return f"{self.phase}{counted}, {seconds}"


def stacks() -> str:
    """Print the Python stacks of all threads of this process; the latest call of each comes first."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
