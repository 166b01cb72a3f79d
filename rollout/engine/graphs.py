"""Forwards replayed from CUDA graphs: one launch instead of some thousand kernels, at a few fixed sizes.

A graph has fixed shapes, so a pass is padded to the next size that has one. Padding entries write to the spare page,
and what they return is cut off.
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
"""Makes a function repeatable: it reads and writes fixed memory, and the returned call does the same again."""


class CudaCapture:
    """Capture CUDA graphs. All graphs of a session share a memory pool, as no two of them run at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Capture `function` as a graph; return its replay."""
        # The current device belongs to a thread, and a watchdog calls from its own.
        with torch.cuda.device(self._device):
            return self._capture(function)

    def _capture(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        # Libraries set themselves up at their first call, which must not be part of a graph.
        with torch.cuda.stream(side):
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
    """How the passes of one session ran, so that a measurement shows whether graphs were used at all.

    Attributes:
        captured: Graphs that exist.
        replayed: Passes that ran from one.
        plain: Passes that ran without: those with several blocks of a sequence, and all of them once a capture failed.
        broken: Why a capture failed, if one did.
    """

    captured: int = 0
    replayed: int = 0
    plain: int = 0
    broken: str | None = None


class _Captured(NamedTuple):
    inputs: Pass
    replay: Callable[[], Tensor]


class GraphedBody:
    """Run passes of single blocks from graphs, captured at the first pass of each size.

    The result is overwritten by the next pass.
    """

    def __init__(self, body: Body, capture: Capture) -> None:
        """Capture nothing yet.

        Args:
            body: Runs a pass on the session's pages; must not ask the device for anything.
            capture: Makes the body repeatable.
        """
        self._body, self._capture = body, capture
        self._captured: dict[tuple[int, int], _Captured] = {}
        self.use = GraphUse()

    def __call__(self, batch: Pass) -> Float[Tensor, "entries queries hidden"]:
        """Run a pass; the next one overwrites the result."""
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
    """Round up to a number of entries that graphs are made for: 1, 2, 4, 8, 16, 24 to 64, then 4 per doubling."""
    if entries <= 8:
        return 1 << (entries - 1).bit_length()
    step = max(8, 1 << ((entries - 1).bit_length() - 3))
    return -(-entries // step) * step


def table_size(pages: int) -> int:
    """Round up to a number of pages per sequence that graphs are made for: powers of two, and those times 1.5."""
    power = 1 << (pages - 1).bit_length()
    return power // 4 * 3 if power >= 4 and pages <= power // 4 * 3 else power


def _blank(size: tuple[int, int], block_length: int, device: torch.device) -> Pass:
    """Make a pass whose entries see one page, the spare one."""
    entries, pages = size

    def spare(*shape: int) -> Tensor:
        return torch.full(shape, SPARE_PAGE, device=device)

    blocks = spare(entries, block_length)
    return Pass(blocks, blocks.clone(), spare(entries, 1), spare(entries, pages), spare(entries, 1) + block_length)


def _fill(inputs: Pass, batch: Pass) -> None:
    """Copy a pass into fixed memory, and set the entries behind it back to blank."""
    entries, pages = batch.table.shape
    for fixed, given in zip(inputs, batch, strict=True):
        fixed[:entries, : given.shape[1]] = given
    inputs.tokens[entries:] = 0
    inputs.positions[entries:] = 0
    inputs.write[entries:] = SPARE_PAGE
    inputs.table[entries:] = SPARE_PAGE
    inputs.table[:, pages:] = SPARE_PAGE
    inputs.reach[entries:] = inputs.tokens.shape[1]
