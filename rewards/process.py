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

from rewards.serve import receive_frame, send_frame

STARTUP_TIMEOUT_S = 120.0
_Value = TypeVar("_Value")


class WorkerError(Exception):
    """A call to a worker process did not return a value."""


class WorkerTimeoutError(WorkerError):
    """The call passed its deadline; the worker was killed."""


class WorkerDiedError(WorkerError):
    """The worker ended in the middle of the call, and so did its replacement."""


class WorkerStartError(WorkerError):
    """The worker did not become ready."""


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
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize | None = None
        self._owner_pid = os.getpid()
        self._startup_value: Any = None

    @property
    def pid(self) -> int | None:
        """Process id of the live worker, None before the first call and after a kill."""
        return self._process.pid if self._process is not None else None

    def start(self) -> Any:
        """Start the process if there is none, and return the value of its startup function."""
        with self._lock:
            self._ensure_started()
            return self._startup_value

    def call(self, target: str, args: tuple[Any, ...], timeout_s: float) -> Any:
        """Run ``target(*args)`` in the worker and return its value.

        A worker that dies is replaced and the call repeated once, with a fresh deadline.

        Args:
            target: ``module:function``, imported by the worker.
            args: Picklable positional arguments.
            timeout_s: Seconds from sending the request to having the whole reply.

        Returns:
            The function's value, which must be JSON-serialisable.

        Raises:
            WorkerTimeoutError: The deadline passed.
            WorkerDiedError: The worker died twice.
            WorkerStartError: A fresh process did not become ready.
            RemoteError: The function raised.
        """
        request = pickle.dumps((target, args))
        with self._lock:
            return _twice(lambda: self._attempt(request, timeout_s))

    def close(self) -> None:
        """Kill the process, if there is one, and reap it."""
        with self._lock:
            self._stop()

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
            raise WorkerDiedError(f"the worker process died ({self._bury()})") from error
        except BaseException:
            self._stop()  # interrupted half-way (Ctrl-C): the next reply would answer this request
            raise
        if "error" in reply:
            raise RemoteError(*reply["error"])
        return reply["value"]

    def _ensure_started(self) -> None:
        if self._process is not None and self._owner_pid == os.getpid():
            return
        try:
            _twice(self._launch)
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
            f"import sys; sys.path[:] = {search_path!r}\nfrom rewards.serve import serve; serve({theirs.fileno()})"
        )
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.PIPE,  # never written to: its other end closes when we die, however we die
                stdout=2,  # what a reward prints belongs with the log, not in the protocol
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal reaches us only; a kill reaches all it started
            )
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
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # last in, first out: prefer a warm worker
        for worker in self.workers:
            self._idle.put(worker)

    def call(self, target: str, args: tuple[Any, ...], timeout_s: float) -> Any:
        """Wait for an idle worker and run the call on it; see `Worker.call`."""
        worker = self._idle.get()
        try:
            return worker.call(target, args, timeout_s)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Kill all processes of the pool."""
        for worker in self.workers:
            worker.close()


def _twice(action: Callable[[], _Value]) -> _Value:
    """Repeat once after a death: an out-of-memory kill may have been the machine's doing, not the call's."""
    try:
        return action()
    except WorkerDiedError:
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
