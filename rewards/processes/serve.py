"""What runs in a worker process: a loop that answers the calls of its parent.

A request is a pickle. A reply is JSON, so the parent never unpickles anything that a worker says.
"""

import fcntl
import json
import os
import pickle
import pkgutil
import signal
import socket
import sys
import traceback

from redraft.rewards.processes.frames import receive_frame, send_frame


def answer_parent(descriptor: int) -> None:
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

    PR_SET_PDEATHSIG would not do: it fires when the *thread* that started us ends. A thread that watches would not do
    either: C code that holds the interpreter lock (a power of huge integers) would starve it.
    """
    lifeline = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if hasattr(fcntl, "F_SETSIG"):  # Linux; elsewhere an orphan ends when it next reads its socket
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
