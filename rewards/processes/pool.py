"""Several equal worker processes behind one call."""

import os
import queue
from typing import Any

from redraft.rewards.processes.worker import Worker


class WorkerPool:
    """Up to ``size`` equal workers behind one thread-safe ``call``; each is started when first needed.

    Args:
        size: Most processes alive at once.
        startup_target: See `Worker`.
        startup_args: See `Worker`.
    """

    def __init__(self, size: int, startup_target: str | None = None, startup_args: tuple[Any, ...] = ()) -> None:
        """Prepare the workers; no process is started before the first call."""
        self.workers = tuple(Worker(startup_target, startup_args) for _ in range(size))
        # Entries are (has no process, index of the worker), so that a warm worker comes before one that has to start.
        self._idle: queue.PriorityQueue[tuple[bool, int]] = queue.PriorityQueue()
        for index in range(size):
            self._idle.put((True, index))

    def call(self, target: str, args: tuple[Any, ...], timeout_s: float) -> Any:
        """Wait for an idle worker, a warm one if there is one, and run the call on it; see `Worker.call`."""
        # Read before the wait: a close that happens during it ends this call too.
        closings = [worker.closings for worker in self.workers]
        _, index = self._idle.get()
        worker = self.workers[index]
        try:
            return worker.call(target, args, timeout_s, closings[index])
        finally:
            self._idle.put((worker.pid is None, index))

    def close(self) -> None:
        """Kill all processes of the pool; see `Worker.close`."""
        for worker in self.workers:
            worker.close()


def usable_cores() -> int:
    """Return the number of cores that this process may run on, at most 4: the default size of a reward's pool."""
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
