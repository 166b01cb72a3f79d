"""Seconds and peak memory of an action."""

import gc
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

Action = Callable[[], Any]


class Timing(NamedTuple):
    """Seconds of an action.

    Attributes:
        first: Of the first run: compilation, allocation, libraries that set themselves up.
        median: Of the runs after it.
    """

    first: float
    median: float


def time_runs(action: Action, repeats: int, device: str = "cpu") -> Timing:
    """Runs an action once to warm up and then `repeats` times: wall time on a GPU, on a CPU what this process computed.

    So other work on a CPU does not count; with several threads their times add up. On a GPU the peak of memory is
    counted from the second run on.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds = []
    for run in range(repeats + 1):
        if run == 1 and device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        started = clock()
        action()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(clock() - started)
    return Timing(seconds[0], statistics.median(seconds[1:]))


def median_seconds(action: Action, repeats: int, device: str = "cpu") -> float:
    """The median of `time_runs`."""
    return time_runs(action, repeats, device).median


def peak_mib(prepare: Callable[..., Action], *arguments: Any) -> float:
    """How far the resident memory of a fresh process rises in the second run of `prepare(*arguments)`, in MiB.

    The first run leaves behind what is made once (gradients, optimizer state, library buffers). The allocator returns
    every larger piece at once, so resident memory is what is live.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 16)  # read by the child's allocator as it starts
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as child:
        return child.submit(_measure_peak, prepare, arguments).result()


def _measure_peak(prepare: Callable[..., Action], arguments: tuple[Any, ...]) -> float:
    action = prepare(*arguments)
    action()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to the present size
    before = _status_kib("VmRSS")
    action()
    return round((_status_kib("VmHWM") - before) / 1024, 1)


def _status_kib(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, f"/proc/self/status has no {name}: peak memory is measured on Linux only"
    return int(found[1])
