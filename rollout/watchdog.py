"""A deadline for calls that may hang in native code, where nothing can interrupt them."""

import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch

T = TypeVar("T")


class StepTimeout(TimeoutError):
    """A call did not return in time; the thread that it hangs in is abandoned."""


class _Answer(NamedTuple):
    value: Any
    error: BaseException | None


class Watchdog:
    """Run calls in a thread of its own and wait for each up to a deadline."""

    def __init__(self, timeout_s: float | None) -> None:
        """Start no thread before the first call.

        Args:
            timeout_s: For each call. None makes calls directly, without a deadline.
        """
        self.timeout_s = timeout_s
        self._calls: queue.SimpleQueue[Callable[[], Any] | None] | None = None
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()

    def run(self, call: Callable[[], T], what: Callable[[], str]) -> T:
        """Make a call and return its result.

        Args:
            call: What to run.
            what: Names the call in the error.

        Raises:
            StepTimeout: The call did not return in time.
        """
        if self.timeout_s is None:
            return call()
        if self._calls is None:
            self._calls, self._answers = queue.SimpleQueue(), queue.SimpleQueue()
            threading.Thread(
                target=_serve, args=(self._calls, self._answers, torch.get_num_threads()), daemon=True
            ).start()
        self._calls.put(call)
        try:
            answer = self._answers.get(timeout=self.timeout_s)
        except BaseException as stop:
            # Late or interrupted: the call may still answer, and that answer must not be taken for the next call's.
            self.close()
            if isinstance(stop, queue.Empty):
                raise StepTimeout(f"{what()} did not end within {self.timeout_s:g} s") from None
            raise
        try:
            if answer.error is not None:
                raise answer.error
            return answer.value
        finally:
            # Otherwise the traceback of the error holds this frame, which holds the error, and nothing is freed.
            del answer

    def close(self) -> None:
        """Let the thread end; the next call starts another."""
        if self._calls is not None:
            self._calls.put(None)
            self._calls = None


def _serve(
    calls: "queue.SimpleQueue[Callable[[], Any] | None]", answers: "queue.SimpleQueue[_Answer]", threads: int
) -> None:
    torch.set_num_threads(threads)  # OpenMP keeps this number per thread
    while (call := calls.get()) is not None:
        try:
            answer = _Answer(call(), None)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
            answer = _Answer(None, error)
        del call
        answers.put(answer)
        del answer
