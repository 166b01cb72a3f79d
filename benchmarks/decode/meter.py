"""Engines that count and time what the decoder asks of them: the decoder itself holds no clock."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from redraft.rollout.engine.protocol import DecodeSession, Engine, Outcome, Pass
from redraft.rollout.engine.scores import Piece, Reading, Scores

Clock = Callable[[], float]


def clock_of(device: torch.device) -> Clock:
    """Seconds: on a GPU of the wall, once it has nothing left to do; on a CPU those that this process computed.

    So other work on the machine does not count; with several threads their times add up.
    """
    if device.type != "cuda":
        return time.process_time

    def wait() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return wait


@dataclass
class Meter:
    """What the sessions of one engine did.

    Attributes:
        passes: Forwards with active blocks.
        active: Their active blocks.
        entries: Their entries: active blocks, and blocks that were run again for their keys and values.
        prefills: Forwards without active blocks.
        body_s: Seconds in `forward`.
        prefill_s: Seconds in `prefill`.
        head_s: Seconds in `read` and `pieces`.
    """

    passes: int = 0
    active: int = 0
    entries: int = 0
    prefills: int = 0
    body_s: float = 0.0
    prefill_s: float = 0.0
    head_s: float = 0.0

    @property
    def model_s(self) -> float:
        """Seconds of the policy's network: what is left of a decode is the decoder's own."""
        return self.body_s + self.prefill_s + self.head_s


class WrappedEngine:
    """Another engine whose sessions are wrapped."""

    def __init__(self, engine: Engine, wrap: Callable[[DecodeSession], DecodeSession]) -> None:
        self._engine, self._wrap = engine, wrap

    @property
    def device(self) -> torch.device:
        """See `Engine`."""
        return self._engine.device

    @property
    def max_length(self) -> int:
        """See `Engine`."""
        return self._engine.max_length

    @property
    def vocab_size(self) -> int:
        """See `Engine`."""
        return self._engine.vocab_size

    def max_pages(self, block_length: int) -> int | None:
        """See `Engine`."""
        return self._engine.max_pages(block_length)

    def open(self, num_pages: int, block_length: int, mask: int) -> DecodeSession:
        """See `Engine`."""
        return self._wrap(self._engine.open(num_pages, block_length, mask))


class KeptEngine(WrappedEngine):
    """Another engine whose last session is used again while it has pages enough, with all that was captured for it.

    What its pages hold is of no use to a new decode, which writes every page before it reads it.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, lambda session: session)
        self._kept: tuple[int, int, int, DecodeSession] | None = None

    @property
    def session(self) -> DecodeSession | None:
        """The one that is kept."""
        return None if self._kept is None else self._kept[3]

    def open(self, num_pages: int, block_length: int, mask: int) -> DecodeSession:
        """See `Engine`."""
        if self._kept is None or self._kept[0] < num_pages or self._kept[1:3] != (block_length, mask):
            self._kept = None  # before there is a new one
            self._kept = num_pages, block_length, mask, super().open(num_pages, block_length, mask)
        return self._kept[3]


def metered(engine: Engine, meter: Meter, clock: Clock) -> Engine:
    """The same engine, whose work is added to a meter."""
    return WrappedEngine(engine, lambda session: metered_session(session, meter, clock))


def metered_session(session: DecodeSession, meter: Meter, clock: Clock) -> DecodeSession:
    """The same session, whose work is added to a meter."""
    return _MeteredSession(session, meter, clock)


class _MeteredSession:
    def __init__(self, session: DecodeSession, meter: Meter, clock: Clock) -> None:
        self._session, self._meter, self._clock = session, meter, clock

    def forward(self, batch: Pass, num_active: int, record: bool) -> Outcome:
        started = self._clock()
        outcome = self._session.forward(batch, num_active, record)
        self._meter.body_s += self._clock() - started
        self._meter.passes += 1
        self._meter.active += num_active
        self._meter.entries += len(batch.tokens)
        return outcome._replace(scores=_MeteredScores(outcome.scores, self._meter, self._clock))

    def prefill(self, batch: Pass) -> None:
        started = self._clock()
        self._session.prefill(batch)
        self._meter.prefill_s += self._clock() - started
        self._meter.prefills += 1


class _MeteredScores:
    def __init__(self, scores: Scores, meter: Meter, clock: Clock) -> None:
        self._scores, self._meter, self._clock = scores, meter, clock

    def read(self, where: Bool[Tensor, "rows slots"]) -> Reading:
        started = self._clock()
        reading = self._scores.read(where)
        self._meter.head_s += self._clock() - started
        return reading

    def pieces(self, where: Bool[Tensor, "rows slots"]) -> Iterator[Piece]:
        """Only the making of a piece is timed, not what is done with it."""
        pieces = iter(self._scores.pieces(where))
        while True:
            started = self._clock()
            piece = next(pieces, None)
            self._meter.head_s += self._clock() - started
            if piece is None:
                return
            yield piece
