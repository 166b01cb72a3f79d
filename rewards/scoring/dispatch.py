"""Scores each completion as soon as somebody is free to do so: a queue, and lanes that serve it.

A lane is a thread around one blocking scorer, such as a reward worker on another machine. An idle lane takes a
completion at once; while all lanes are busy the rest gathers, and the next free lane takes its share of it in one call.
How completions are cut into calls therefore depends on timing: a reward must not.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from redraft.rewards.result import RewardError, Scored
from redraft.rewards.scoring.mixture import Sample

MAX_BATCH = 64  # samples in one call: bounds how much a deadline, or a death, can cost
CLOSE_TIMEOUT_S = 5.0
Score = Callable[[Sequence[Sample]], list[Scored]]


@dataclass(frozen=True)
class _Job:
    samples: Sequence[Sample]
    future: Future[list[Scored]] = field(default_factory=Future)


class Dispatcher:
    """A queue of samples in front of one or more scorers; thread-safe.

    Args:
        lanes: Blocking scorers; each is called from a thread of its own, one call at a time.
        max_batch: Most samples in one call, unless one `submit` already holds more.
    """

    def __init__(self, lanes: Sequence[Score], max_batch: int = MAX_BATCH) -> None:
        """Prepare the lanes; their threads start with the first `submit`."""
        if not lanes or max_batch < 1:
            raise ValueError(f"need at least one lane and a max_batch of at least 1, got {len(lanes)} and {max_batch}")
        self._lanes, self._max_batch = tuple(lanes), max_batch
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, samples: Sequence[Sample]) -> Future[list[Scored]]:
        """Queue samples that belong together: they are scored in one call.

        Returns:
            Their scores, in order, or what the scorer raised. Cancelling it takes them out of the queue.

        Raises:
            RewardError: The dispatcher is closed.
        """
        job = _Job(tuple(samples))
        with self._changed:
            if self._closed:
                raise RewardError("asked for scores after the rewards were closed")
            if not self._threads:
                self._start()
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Fail what still waits and end the threads; one in the middle of a call is given `timeout_s` to end it."""
        with self._changed:
            self._closed = True
            left = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for job in left:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(RewardError("the rewards were closed before they scored this completion"))
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start(self) -> None:
        # Daemons: a scorer that never returns must not keep the interpreter from ending.
        self._threads = [
            threading.Thread(target=self._serve, args=(score,), name=f"reward-lane-{number}", daemon=True)
            for number, score in enumerate(self._lanes)
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self, score: Score) -> None:
        while (jobs := self._take()) is not None:
            _answer(score, [job for job in jobs if job.future.set_running_or_notify_cancel()])

    def _take(self) -> list[_Job] | None:
        """Wait for work; a lane's share of all that waits, oldest first. None: closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            share = -(-len(self._waiting) // len(self._lanes))
            jobs = [self._waiting.popleft()]
            room = self._max_batch - len(jobs[0].samples)
            while len(jobs) < share and len(self._waiting[0].samples) <= room:
                jobs.append(self._waiting.popleft())
                room -= len(jobs[-1].samples)
            return jobs


def _answer(score: Score, jobs: Sequence[_Job]) -> None:
    """Score all jobs in one call and hand each its part."""
    samples = [sample for job in jobs for sample in job.samples]
    if not samples:  # all cancelled, or empty to begin with
        for job in jobs:
            job.future.set_result([])
        return
    try:
        scored = score(samples)
        if len(scored) != len(samples):
            raise RewardError(f"got {len(scored)} scores for {len(samples)} completions")
    except BaseException as error:  # noqa: BLE001 - whatever it is belongs to those who wait, not to this thread
        for job in jobs:
            job.future.set_exception(error)
        return
    begin = 0
    for job in jobs:
        end = begin + len(job.samples)
        job.future.set_result(scored[begin:end])
        begin = end
