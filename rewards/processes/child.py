"""One worker process as its parent sees it: started, asked, killed, reaped."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from typing import Any

from redraft.rewards.processes.errors import RemoteError
from redraft.rewards.processes.frames import receive_frame, send_frame

_LAST_WORDS_S = 1.0  # how long a process that closed its connection may take to end


class Child:
    """A live process that answers one request at a time. It starts when the object is made.

    One thread at a time may call `ask`, `bury` and `end`. `kill` may come from any thread, also during an `ask`, which
    then ends at once with EOFError. The process is also killed when the object is collected, when this interpreter
    exits, and (by `serve`) when this process dies in any other way.

    Attributes:
        pid: Of the process, which leads its own process group.
        is_ours: Whether this process started it. A fork of this process has a copy of the object, and must neither
            use nor kill what it stands for.
    """

    def __init__(self) -> None:
        """Start an interpreter with this one's import path."""
        ours, theirs = socket.socketpair()
        search_path = [entry or os.getcwd() for entry in sys.path]
        program = (
            f"import sys; sys.path[:] = {search_path!r}\n"
            f"from redraft.rewards.processes.serve import answer_parent; answer_parent({theirs.fileno()})"
        )
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.PIPE,  # never written to: its other end closes when we die, however we die
                stdout=2,  # what a reward prints belongs with the log, not in the protocol
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal reaches us only; a kill reaches all it started
            )
            undo.pop_all()
        self._connection, self._owner_pid = ours, os.getpid()
        self._finalizer = weakref.finalize(self, _end, self._process, ours, self._owner_pid)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_ours(self) -> bool:
        """Whether this process started it; False in a fork."""
        return self._owner_pid == os.getpid()

    def ask(self, request: bytes, timeout_s: float) -> Any:
        """Send a request and return the value of its reply.

        Raises:
            RemoteError: The function raised; the process can be asked again.
            TimeoutError: There was no whole reply in time.
            EOFError, OSError: The process is gone.
            ValueError: What came is no reply.
        """
        deadline = time.monotonic() + timeout_s
        send_frame(self._connection, request, deadline)
        reply = json.loads(receive_frame(self._connection, deadline))
        if "error" in reply:
            raise RemoteError(*reply["error"])
        return reply["value"]

    def kill(self) -> None:
        """Kill the process with all that it started, and reap it. The connection stays open for a thread that reads."""
        if not self.is_ours:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # A child of the process may have left the group and hold the other end: then only this wakes the reader.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._process.wait()

    def bury(self) -> str:
        """End a process that closed its connection; return how it ended, in words."""
        try:
            code = self._process.wait(timeout=_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        finally:
            self.end()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def end(self) -> None:
        """Kill and reap the process and close the connection; a second call does nothing."""
        self._finalizer()


def _end(process: subprocess.Popen[bytes], connection: socket.socket, owner_pid: int) -> None:
    connection.close()
    assert process.stdin is not None
    process.stdin.close()
    if os.getpid() != owner_pid:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
