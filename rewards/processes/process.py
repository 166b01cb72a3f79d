"""Warm worker processes with a deadline kept by the parent.

A worker is a fresh interpreter that answers calls over a private socket until it is closed. The parent alone keeps
time: past the deadline the worker's whole process group is killed and the next call starts a new one. Nothing here uses
a signal handler, an alarm or ``fork``, so calls work from the main thread, from plain threads and from asyncio actors.

Why not ``multiprocessing``: ``spawn`` imports the parent's ``__main__`` again, which under a console script or a Ray
worker runs somebody else's program.
"""

import contextlib
import json
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from redraft.rewards.processes.serve import receive_frame, send_frame
from redraft.rewards.result import RewardError

STARTUP_TIMEOUT_S = 120.0
CALL_ATTEMPTS = 3
START_ATTEMPTS = 5  # what dies before it has the call died of something else
_Value = TypeVar("_Value")


class WorkerError(Exception):
    """A call to a worker process did not return a value."""


class WorkerTimeoutError(WorkerError):
    """The call passed its deadline; the worker was killed."""


class WorkerDiedError(WorkerError):
    """The worker ended in the middle of the call, and so did its replacements."""


class WorkerStartError(WorkerError):
    """The worker did not become ready."""


class WorkerClosedError(RewardError):
    """The worker was closed before the call was done.

    No `WorkerError`: it is no failure of the call, to be masked and followed by the next call, but the end of it all.
    """


class RemoteError(WorkerError):
    """The called function raised inside the worker.

    Attributes:
        type_name: Class name of the exception, ``ValueError``.
        summary: Its last traceback line, ``ValueError: bad row``.
    """

    def __init__(self, type_name: str, summary: str, traceback_text: str) -> None:
        """Keep the pieces; the text shown is the worker's own traceback."""
        super().__init__(f"{summary}\n\n--- in the worker process ---\n{traceback_text}")
        self.type_name = type_name
        self.summary = summary


class Worker:
    """One warm process that runs module-level functions by name; thread-safe, one call at a time.

    Args:
        startup_target: ``module:function`` run once in every fresh process before its first call; its time is not
            counted against that call.
        startup_args: Positional arguments of the startup function.
        startup_timeout_s: Seconds a fresh process may take to become ready.

    Attributes:
        closings: How often it was closed; a call belongs to the time between two of them.
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
        self._lock = threading.Lock()  # held for a whole call
        self._guard = threading.Lock()  # held while a process is made or ended, never while one is waited for
        self._begun = 0  # what `closings` was when the call that holds the lock was asked for
        self.closings = 0
        self._connection: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize | None = None
        self._owner_pid = os.getpid()
        self._startup_value: Any = None

    @property
    def pid(self) -> int | None:
        """Process id of the live worker, None before the first call and after a kill."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def start(self) -> Any:
        """Start the process if there is none, and return the value of its startup function."""
        closings = self.closings
        with self._lock:
            self._begin(closings)
            self._ensure_started()
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
        with self._lock:
            self._begin(closings)
            return _repeatedly(lambda: self._attempt(request, timeout_s), CALL_ATTEMPTS)

    def close(self) -> None:
        """Kill the process, if there is one, and reap it; calls under way fail at once, later ones start a new one."""
        with self._guard:
            self.closings += 1
            process = self._process
            if process is not None and self._owner_pid == os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                assert self._connection is not None
                with contextlib.suppress(OSError):  # wakes the caller even if a runaway child holds the other end
                    self._connection.shutdown(socket.SHUT_RDWR)
        if self._lock.acquire(blocking=False):
            try:
                if self._process is process:
                    self._stop()
            finally:
                self._lock.release()
        elif process is not None and self._owner_pid == os.getpid():
            process.wait()  # the rest is up to the caller, who may still be reading from the connection

    def _begin(self, closings: int) -> None:
        self._begun = closings
        self._check_open()

    def _check_open(self) -> None:
        if self.closings != self._begun:
            raise WorkerClosedError("the worker process was closed before the call was done")

    def _attempt(self, request: bytes, timeout_s: float) -> Any:
        self._ensure_started()
        return self._exchange(request, timeout_s)

    def _exchange(self, request: bytes, timeout_s: float) -> Any:
        assert self._connection is not None
        deadline = time.monotonic() + timeout_s
        try:
            send_frame(self._connection, request, deadline)
            reply = json.loads(receive_frame(self._connection, deadline))
        except TimeoutError:
            self._stop()
            raise WorkerTimeoutError(f"no reply within {timeout_s:g} s; the worker process was killed") from None
        except (EOFError, OSError, ValueError) as error:
            how = self._bury()
            self._check_open()
            raise WorkerDiedError(f"the worker process died ({how})") from error
        except BaseException:
            self._stop()  # interrupted half-way (Ctrl-C): the next reply would answer this request
            raise
        if "error" in reply:
            raise RemoteError(*reply["error"])
        return reply["value"]

    def _ensure_started(self) -> None:
        if self._process is not None and self._owner_pid == os.getpid():
            if self._process.returncode is None:
                return
            self._stop()  # closed just as its last call ended
        try:
            _repeatedly(self._launch, START_ATTEMPTS)
        except (WorkerTimeoutError, WorkerDiedError) as error:
            raise WorkerStartError(f"a fresh worker process did not become ready: {error}") from error

    def _launch(self) -> None:
        self._spawn()
        if self._startup_target is None:
            return
        try:
            request = pickle.dumps((self._startup_target, self._startup_args))
            self._startup_value = self._exchange(request, self._startup_timeout_s)
        except RemoteError:
            self._stop()  # the next call must not find a process that is not ready
            raise

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        search_path = [entry or os.getcwd() for entry in sys.path]
        program = (
            f"import sys; sys.path[:] = {search_path!r}\n"
            f"from redraft.rewards.processes.serve import serve; serve({theirs.fileno()})"
        )
        with theirs, contextlib.ExitStack() as undo, self._guard:  # so that `close` sees the process, or prevents it
            undo.callback(ours.close)
            self._check_open()
            process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.PIPE,  # never written to: its other end closes when we die, however we die
                stdout=2,  # what a reward prints belongs with the log, not in the protocol
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal reaches us only; a kill reaches all it started
            )
            undo.pop_all()
            self._process, self._connection, self._owner_pid = process, ours, os.getpid()
            self._finalizer = weakref.finalize(self, _kill, process, ours, self._owner_pid)

    def _bury(self) -> str:
        """Clean up after a process that closed its connection; returns how it ended, in words."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        finally:
            self._stop()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _stop(self) -> None:
        """Kill and reap the process, if there is one."""
        with self._guard:
            self._process = self._connection = None
            if self._finalizer is not None:
                self._finalizer()  # runs once; a second call does nothing


class WorkerPool:
    """Up to ``size`` equal workers behind one thread-safe ``call``; each is started when first needed.

    Args:
        size: Most processes alive at once.
        startup_target: See `Worker`.
        startup_args: See `Worker`.
    """

    def __init__(self, size: int, startup_target: str | None = None, startup_args: tuple[Any, ...] = ()) -> None:
        """Create the slots; no process is started before the first call."""
        self.workers = tuple(Worker(startup_target, startup_args) for _ in range(size))
        self._idle: queue.PriorityQueue[tuple[bool, int]] = (
            queue.PriorityQueue()
        )  # (no live process, index): warm first
        for index in range(size):
            self._idle.put((True, index))

    def call(self, target: str, args: tuple[Any, ...], timeout_s: float) -> Any:
        """Wait for an idle worker, a warm one if there is one, and run the call on it; see `Worker.call`."""
        closings = [worker.closings for worker in self.workers]  # who waits for a worker is closed, too
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
    """Cores that this process may run on, at most 4: what a pool of a reward takes unless told otherwise."""
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _repeatedly(action: Callable[[], _Value], attempts: int) -> _Value:
    """Repeat after a death: an out-of-memory kill may have been the machine's doing, not the call's."""
    for _ in range(attempts - 1):
        with contextlib.suppress(WorkerDiedError):
            return action()
    return action()


def _kill(process: subprocess.Popen[bytes], connection: socket.socket, owner_pid: int) -> None:
    """Kill a worker's process group and reap it; also runs when the Worker is collected and at interpreter exit."""
    connection.close()
    assert process.stdin is not None
    process.stdin.close()
    if os.getpid() != owner_pid:  # a fork of the parent must not end its parent's workers
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
