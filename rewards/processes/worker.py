"""A warm worker process whose deadlines its parent keeps.

States of a `Worker`, and what moves it from one to another:

    ABSENT    a call or `start` begins                                          -> STARTING
    STARTING  the startup function has returned                                 -> READY
              it raised (RemoteError) or passed its deadline (WorkerStartError) -> ABSENT
              the process died: START_ATTEMPTS processes are tried,             -> STARTING
              after them (WorkerStartError)                                     -> ABSENT
    READY     a call begins                                                     -> BUSY
    BUSY      the function returned or raised (RemoteError)                     -> READY
              the deadline passed (WorkerTimeoutError)                          -> ABSENT
              the process died: the call is tried CALL_ATTEMPTS times,          -> STARTING
              after them (WorkerDiedError)                                      -> ABSENT
    any       `close`, or Ctrl-C in the calling thread                          -> ABSENT

**Guarantees**

* A call ends by its deadline, however the function hangs: the whole process group is killed.
* `close` ends the call under way, a start under way and the calls that wait behind them, all with WorkerClosedError,
  and no process is left when it returns. A call that is asked for later starts a new process.
* A reply belongs to its own request: after a call that ended before its reply came, the process is replaced.
* No process outlives its parent, whether the parent returns, exits, is killed, or drops the `Worker`.

**Assumes**

* Functions are importable by name in a fresh interpreter, arguments can be pickled, values are JSON.
* A repeated call does no harm: one whose process dies is run again.

**Rejected alternatives**

* Signal handlers and alarms: they work in a main thread only, and C code can hold them off. Calls here work from
  plain threads and from asyncio actors.
* ``fork``: it copies locks that other threads hold.
* ``multiprocessing`` with ``spawn``: it imports the parent's ``__main__`` again, which under a console script or a Ray
  worker runs another program.
"""

import pickle
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

from redraft.rewards.processes.child import Child
from redraft.rewards.processes.errors import (
    RemoteError,
    WorkerClosedError,
    WorkerDiedError,
    WorkerStartError,
    WorkerTimeoutError,
)

STARTUP_TIMEOUT_S = 120.0
CALL_ATTEMPTS = 3
START_ATTEMPTS = 5  # more than for calls: what kills a process before its first call is not the call
_Value = TypeVar("_Value")


class State(StrEnum):
    """Where a worker stands; the table above says what moves it."""

    ABSENT = "absent"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"


class Worker:
    """One warm process that runs module-level functions by name; thread-safe, one call at a time.

    Args:
        startup_target: ``module:function`` run once in every fresh process before its first call; its time is not
            counted against that call.
        startup_args: Positional arguments of the startup function.
        startup_timeout_s: Seconds a fresh process may take to become ready.

    Attributes:
        closings: How often it was closed. A call fails if this number changes between its request and its reply.
        state: Where it stands. Only a process in the state READY gets a call; any other is replaced first.
    """

    def __init__(
        self,
        startup_target: str | None = None,
        startup_args: tuple[Any, ...] = (),
        startup_timeout_s: float = STARTUP_TIMEOUT_S,
    ) -> None:
        """Store the recipe; no process is started before the first call."""
        self._startup_target = startup_target
        self._startup_args = startup_args
        self._startup_timeout_s = startup_timeout_s
        self._startup_value: Any = None
        self._turn = threading.Lock()  # held by the one thread whose call is under way, for the whole of it
        self._begun = 0  # `closings` when that call was asked for
        # Held while the three attributes below change, and while a process is made; never while one is waited for.
        self._guard = threading.Lock()
        self.closings = 0
        self.state = State.ABSENT
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the live worker; None where it is absent."""
        child = self._child
        return None if child is None else child.pid

    def start(self) -> Any:
        """Start the process if there is none, and return the value of its startup function."""
        closings = self.closings
        with self._turn:
            self._begin(closings)
            self._ready_child()
            return self._startup_value

    def call(self, target: str, args: tuple[Any, ...], timeout_s: float, closings: int | None = None) -> Any:
        """Run ``target(*args)`` in the worker and return its value.

        A worker that dies is replaced and the call repeated, with a fresh deadline, up to `CALL_ATTEMPTS` times in all.

        Args:
            target: ``module:function``, imported by the worker.
            args: Picklable positional arguments.
            timeout_s: Seconds from sending the request to having the whole reply.
            closings: What `closings` was when the call was asked for; by default it is asked for now.

        Returns:
            The function's value, which must be JSON-serialisable.

        Raises:
            WorkerTimeoutError: The deadline passed.
            WorkerDiedError: The worker died at every attempt.
            WorkerStartError: A fresh process did not become ready.
            WorkerClosedError: `close` was called after the call was asked for; it is not repeated.
            RemoteError: The function raised.
        """
        closings = self.closings if closings is None else closings
        request = pickle.dumps((target, args))
        with self._turn:
            self._begin(closings)
            return _repeatedly(lambda: self._attempt(request, timeout_s), CALL_ATTEMPTS)

    def close(self) -> None:
        """Kill and reap the process, if there is one; calls under way fail at once, later ones start a new one."""
        with self._guard:
            self.closings += 1
            child, self._child, self.state = self._child, None, State.ABSENT
        if child is None:
            return
        child.kill()
        # The connection may be closed only if no call reads from it; a call under way closes it when it fails.
        if self._turn.acquire(blocking=False):
            try:
                child.end()
            finally:
                self._turn.release()

    def _begin(self, closings: int) -> None:
        self._begun = closings
        self._check_open()

    def _check_open(self) -> None:
        if self.closings != self._begun:
            raise WorkerClosedError("the worker process was closed before the call was done")

    def _attempt(self, request: bytes, timeout_s: float) -> Any:
        child = self._ready_child()
        self._enter(State.BUSY, child)
        try:
            value = self._exchange(child, request, timeout_s)
        except RemoteError:
            self._enter(State.READY, child)
            raise
        self._enter(State.READY, child)
        return value

    def _ready_child(self) -> Child:
        """Return a process that is ready for a call; start one where there is none."""
        child = self._child
        if child is not None:
            if child.is_ours and self.state is State.READY:
                return child
            self._discard(child)  # of a call or start that was interrupted, or of the process that this one forked from
        try:
            return _repeatedly(self._start_child, START_ATTEMPTS)
        except (WorkerTimeoutError, WorkerDiedError) as error:
            raise WorkerStartError(f"a fresh worker process did not become ready: {error}") from error

    def _start_child(self) -> Child:
        target, args = self._startup_target, self._startup_args
        request = None if target is None else pickle.dumps((target, args))  # may raise, so before there is a process
        with self._guard:  # so that a `close` either prevents the process or finds it
            self._check_open()
            child = self._child = Child()
            self.state = State.STARTING
        try:
            if request is not None:
                self._startup_value = self._exchange(child, request, self._startup_timeout_s)
            self._enter(State.READY, child)
        except BaseException:
            self._discard(child)
            raise
        return child

    def _exchange(self, child: Child, request: bytes, timeout_s: float) -> Any:
        """Ask the process and return its value. After any error but RemoteError there is no process."""
        try:
            return child.ask(request, timeout_s)
        except RemoteError:
            raise
        except TimeoutError:
            self._discard(child)
            raise WorkerTimeoutError(f"no reply within {timeout_s:g} s; the worker process was killed") from None
        except (EOFError, OSError, ValueError) as error:
            how = child.bury()
            self._discard(child)
            self._check_open()
            raise WorkerDiedError(f"the worker process died ({how})") from error
        except BaseException:
            self._discard(child)  # interrupted half-way (Ctrl-C): the next reply would answer this request
            raise

    def _enter(self, state: State, child: Child) -> None:
        """Change the state, unless a `close` has taken the process away meanwhile."""
        with self._guard:
            if self._child is child:
                self.state = state

    def _discard(self, child: Child) -> None:
        """End the process; the state is then ABSENT."""
        with self._guard:
            if self._child is child:
                self._child, self.state = None, State.ABSENT
        child.end()


def _repeatedly(action: Callable[[], _Value], attempts: int) -> _Value:
    """Repeat an action after a death: an out-of-memory kill may have been the machine's doing, not the call's."""
    for _ in range(attempts - 1):
        try:
            return action()
        except WorkerDiedError:
            continue
    return action()
