"""A deadline for calls that may hang in native code, where nothing can interrupt them."""

import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch

T = TypeVar("T")


class StepTimeout(TimeoutError):
    """A call did not return in time; the thread that it hangs in is given up."""


class _Answer(NamedTuple):
    value: Any
    error: BaseException | None


class Watchdog:
    """Runs calls in a thread of its own and waits for each up to a deadline."""

    def __init__(self, timeout_s: float | None) -> None:
        """Starts no thread before the first call.

        Args:
            timeout_s: For each call; None: calls are made directly, without a deadline.
        """
        self.timeout_s = timeout_s
        self._calls: queue.SimpleQueue[Callable[[], Any] | None] | None = None
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()

    def run(self, call: Callable[[], T], what: Callable[[], str]) -> T:
        """The result of a call.

        Args:
            call: To make.
            what: Names it, should it be late.

        Raises:
            StepTimeout: It did not return in time.
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
            self.close()  # late or interrupted: whatever the call still does, nobody may take it for another's answer
            if isinstance(stop, queue.Empty):
                raise StepTimeout(f"{what()} did not end within {self.timeout_s:g} s") from None
            raise
        try:
            if answer.error is not None:
                raise answer.error
            return answer.value
        finally:
            del answer  # or the error's traceback would hold the error, and all that its frames hold

    def close(self) -> None:
        """Lets the thread end; the next call starts another."""
        if self._calls is not None:
            self._calls.put(None)
            self._calls = None


def _serve(
    calls: "queue.SimpleQueue[Callable[[], Any] | None]", answers: "queue.SimpleQueue[_Answer]", threads: int
) -> None:
    torch.set_num_threads(threads)  # OpenMP keeps this number for every thread separately
    while (call := calls.get()) is not None:
        try:
            answer = _Answer(call(), None)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
            answer = _Answer(None, error)
        del call
        answers.put(answer)
        del answer
