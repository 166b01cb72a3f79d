"""A queue of samples in front of one or more scorers, each served by a thread: a lane.

An idle lane takes a completion at once. While all lanes are busy completions gather, and the next free lane takes its
share of them in one call.

**Guarantees**

* Samples of one `submit` are scored in one call, and their scores come back in order.
* Older samples are taken first.
* Whatever a scorer raises, SystemExit included, reaches the futures of its own call; the lane goes on.
* After `close` every future is done or belongs to a call under way, and `submit` is refused.

**Assumes**

* A score does not depend on what else is in the call: how completions are cut into calls depends on timing.
* A scorer need not bear two calls at a time; a lane makes one after the other.

**Rejected alternatives**

* One call per `submit`: the fixed cost of a call (a remote call, a worker process) would be paid for each prompt.
* A thread pool of calls that are put together at `submit`: a slow call would hold samples that another lane could take.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from redraft.rewards.result import RewardError, SampleScore
from redraft.rewards.scoring.mixture import Sample

MAX_BATCH = 64  # samples in one call: what one missed deadline, or one death of a worker, can cost
CLOSE_TIMEOUT_S = 5.0
Score = Callable[[Sequence[Sample]], list[SampleScore]]


@dataclass(frozen=True)
class _Job:
    samples: Sequence[Sample]
    future: Future[list[SampleScore]] = field(default_factory=Future)


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

    def submit(self, samples: Sequence[Sample]) -> Future[list[SampleScore]]:
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
        """Fail what still waits and end the threads; wait up to `timeout_s` seconds for calls under way."""
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
        """Take and score until the dispatcher is closed; runs in a lane's thread."""
        while (jobs := self._take()) is not None:
            _score_jobs(score, [job for job in jobs if job.future.set_running_or_notify_cancel()])

    def _take(self) -> list[_Job] | None:
        """Wait for work and take this lane's share of it, oldest first; None once the dispatcher is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            share = math.ceil(len(self._waiting) / len(self._lanes))
            jobs = [self._waiting.popleft()]  # the first is taken even if it alone is larger than a call may be
            room = self._max_batch - len(jobs[0].samples)
            while len(jobs) < share and len(self._waiting[0].samples) <= room:
                jobs.append(self._waiting.popleft())
                room -= len(jobs[-1].samples)
            return jobs


def _score_jobs(score: Score, jobs: Sequence[_Job]) -> None:
    """Score all jobs in one call and give each its part."""
    samples = [sample for job in jobs for sample in job.samples]
    if not samples:  # all cancelled, or empty to begin with
        for job in jobs:
            job.future.set_result([])
        return
    try:
        scored = score(samples)
        if len(scored) != len(samples):
            raise RewardError(f"got {len(scored)} scores for {len(samples)} completions")
    except BaseException as error:  # noqa: BLE001 - it goes to the threads that wait, whatever it is
        for job in jobs:
            job.future.set_exception(error)
        return
    begin = 0
    for job in jobs:
        end = begin + len(job.samples)
        job.future.set_result(scored[begin:end])
        begin = end
