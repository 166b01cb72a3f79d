"""Forwards replayed from CUDA graphs: one launch instead of some thousand kernels, at a few fixed sizes.

A graph has fixed shapes, so a pass is padded to the next size that has one. Padding entries write to the spare page
and nobody reads what they say.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.rollout.engine.pages import SPARE_PAGE
from redraft.rollout.engine.protocol import Pass

logger = logging.getLogger(__name__)

Body = Callable[[Pass], Float[Tensor, "entries queries hidden"]]
Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""Takes a function that reads and writes fixed memory; returns a call that does the same again, result in place."""


class CudaCapture:
    """Captures CUDA graphs; all of one session share a memory pool, since no two of them run at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Capture `function` as a graph; return its replay."""
        with torch.cuda.device(self._device):  # whatever thread asks
            return self._capture(function)

    def _capture(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up at their first call, which no graph may hold
            function()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = function()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


@dataclass
class GraphUse:
    """What became of the passes of one session: whoever times them must know whether graphs were used at all.

    Attributes:
        captured: Graphs that exist.
        replayed: Passes that ran from one.
        plain: Passes that did not: several blocks of a row at a time, or all of them once a capture failed.
        broken: Why a capture failed; None: none did.
    """

    captured: int = 0
    replayed: int = 0
    plain: int = 0
    broken: str | None = None


class _Captured(NamedTuple):
    inputs: Pass
    replay: Callable[[], Tensor]


class GraphedBody:
    """Runs passes of single blocks from graphs, captured at the first pass of each size.

    The result is overwritten by the next pass.
    """

    def __init__(self, body: Body, capture: Capture) -> None:
        """Captures nothing yet.

        Args:
            body: Runs a pass on the session's pages; must not ask the device for anything.
            capture: How.
        """
        self._body, self._capture = body, capture
        self._captured: dict[tuple[int, int], _Captured] = {}
        self.use = GraphUse()

    def __call__(self, batch: Pass) -> Float[Tensor, "entries queries hidden"]:
        """Runs a pass."""
        entries, block_length = batch.tokens.shape
        size = entry_size(entries), table_size(batch.table.shape[1])
        captured = None
        if self.use.broken is None and batch.write.shape[1] == 1:
            captured = self._captured.get(size) or self._add(size, block_length, batch)
        if captured is None:
            self.use.plain += 1
            return self._body(batch)
        self.use.replayed += 1
        _fill(captured.inputs, batch)
        return captured.replay()[:entries]

    def _add(self, size: tuple[int, int], block_length: int, batch: Pass) -> _Captured | None:
        inputs = _blank(size, block_length, batch.tokens.device)
        _fill(inputs, batch)
        try:
            replay = self._capture(lambda: self._body(inputs))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.use.broken = f"{type(error).__name__}: {error}"
            logger.warning("no CUDA graph could be captured (%s); decoding goes on without, more slowly", error)
            return None
        self._captured[size] = _Captured(inputs, replay)
        self.use.captured += 1
        return self._captured[size]


def entry_size(entries: int) -> int:
    """The next number of entries that graphs are made for: 1, 2, 4, multiples of 8, and of a quarter of the octave."""
    if entries <= 8:
        return 1 << (entries - 1).bit_length()
    step = max(8, 1 << ((entries - 1).bit_length() - 3))
    return -(-entries // step) * step


def table_size(pages: int) -> int:
    """The next number of pages per row that graphs are made for: powers of two, and those times 1.5."""
    power = 1 << (pages - 1).bit_length()
    return power // 4 * 3 if power >= 4 and pages <= power // 4 * 3 else power


def _blank(size: tuple[int, int], block_length: int, device: torch.device) -> Pass:
    """Entries that see one page, the spare one."""
    entries, pages = size

    def spare(*shape: int) -> Tensor:
        return torch.full(shape, SPARE_PAGE, device=device)

    blocks = spare(entries, block_length)
    return Pass(blocks, blocks.clone(), spare(entries, 1), spare(entries, pages), spare(entries, 1) + block_length)


def _fill(inputs: Pass, batch: Pass) -> None:
    """Puts a pass into fixed memory; what lies behind it there goes back to blank."""
    entries, pages = batch.table.shape
    for fixed, given in zip(inputs, batch, strict=True):
        fixed[:entries, : given.shape[1]] = given
    inputs.tokens[entries:] = 0
    inputs.positions[entries:] = 0
    inputs.write[entries:] = SPARE_PAGE
    inputs.table[entries:] = SPARE_PAGE
    inputs.table[:, pages:] = SPARE_PAGE
    inputs.reach[entries:] = inputs.tokens.shape[1]
