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
from typing import Any

import torch

Action = Callable[[], Any]


def median_seconds(action: Action, repeats: int, device: str = "cpu") -> float:
    """Median after one run to warm up: wall time on a GPU, on a CPU the time that this process computed.

    So other work on the machine does not count; with several threads their times add up.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds = []
    for _ in range(repeats + 1):
        started = clock()
        action()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(clock() - started)
    return statistics.median(seconds[1:])


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
