"""The worker process's side of `rewards.processes.process`, and the frames that both sides speak.

A frame is eight bytes of length and a payload. A request is a pickle; a reply is JSON, so nothing that a worker says is
ever unpickled by its parent.
"""

import fcntl
import json
import os
import pickle
import pkgutil
import signal
import socket
import struct
import sys
import time
import traceback

_HEADER = struct.Struct("!Q")
_MAX_FRAME_BYTES = 1 << 32


def serve(descriptor: int) -> None:
    """Answer calls on an inherited socket until the parent closes it; the main loop of a worker process."""
    _die_with_parent()
    connection = socket.socket(fileno=descriptor)
    while True:
        try:
            request = receive_frame(connection, None)
        except (EOFError, OSError):
            os._exit(0)
        reply = _answer(request)
        sys.stdout.flush()
        send_frame(connection, reply, None)


def _answer(request: bytes) -> bytes:
    try:
        target, args = pickle.loads(request)
        return json.dumps({"value": pkgutil.resolve_name(target)(*args)}).encode()
    except BaseException as error:  # noqa: BLE001 - the boundary: also sys.exit() is reported, not obeyed
        summary = traceback.format_exception_only(error)[-1].strip()
        return json.dumps({"error": [type(error).__name__, summary, traceback.format_exc()]}).encode()


def _die_with_parent() -> None:
    """Have the kernel kill this process group once the parent's end of our stdin closes.

    Not PR_SET_PDEATHSIG: that fires when the *thread* that started us ends. Not a watching thread either: C code that
    holds the interpreter lock (a power of huge integers) would starve it.
    """
    lifeline = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if hasattr(fcntl, "F_SETSIG"):  # Linux; elsewhere an orphan ends when it next reads its socket
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def send_frame(connection: socket.socket, payload: bytes, deadline: float | None) -> None:
    """Send one frame; TimeoutError past the deadline (on the monotonic clock, None for no limit)."""
    connection.settimeout(_remaining(deadline))
    connection.sendall(_HEADER.pack(len(payload)) + payload)


def receive_frame(connection: socket.socket, deadline: float | None, most: int = _MAX_FRAME_BYTES) -> bytes:
    """Receive one frame; TimeoutError past the deadline, EOFError when the other side is gone."""
    (size,) = _HEADER.unpack(_receive_exactly(connection, _HEADER.size, deadline))
    if size > most:
        raise ValueError(f"a frame of {size} bytes: the stream is corrupt")
    return _receive_exactly(connection, size, deadline)


def _receive_exactly(connection: socket.socket, size: int, deadline: float | None) -> bytes:
    received = bytearray()
    while len(received) < size:
        connection.settimeout(_remaining(deadline))
        chunk = connection.recv(min(size - len(received), 1 << 20))
        if not chunk:
            raise EOFError("the other side closed the connection")
        received += chunk
    return bytes(received)


def _remaining(deadline: float | None) -> float | None:
    """Seconds left, None for no limit; raises TimeoutError past the deadline."""
    if deadline is None:
        return None
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining
