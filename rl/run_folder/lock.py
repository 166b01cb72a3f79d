"""One run per folder: `run.lock` says who writes into an output_dir, and keeps everybody else out."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from redraft.rl.run_folder.files import WriteError, writing

LOCK = "run.lock"
_SAME_START_S = 2.0  # the start of a process is counted from the machine's, which clocks place differently
_HELD: set[Path] = set()  # by this process, whose own kernel locks never stand in its way


class RunLockedError(RuntimeError):
    """Another process works in this output_dir; the message says which."""


@contextlib.contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold a run folder, made if need be, while a command writes into it.

    Two things keep others out. The file says who holds it (host, process id, start of the process), which anybody on
    any host can read; it is believed as long as that process lives, and always where it is on another host. And the
    kernel holds a lock on the file until this process ends, however it ends; that decides between two commands that
    start at the same moment, and also sees a process that another container hides. The lock is one of `lockf`, which,
    unlike that of `flock`, does not pass to child processes that outlive a killed run, and which network file systems
    know.

    Args:
        run: The output_dir. Left as it was, if nothing was written into it.

    Raises:
        RunLockedError: Another process holds it.
        WriteError: The folder or the lock cannot be written.
    """
    path = run.resolve() / LOCK
    if path in _HELD:
        raise RunLockedError(f"{run} is in use by this very process ({os.getpid()})")
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _take(path)
    _HELD.add(path)
    try:
        yield
    finally:
        _HELD.remove(path)
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)
        for folder in made:  # a run that was refused leaves no empty folder
            with contextlib.suppress(OSError):
                folder.rmdir()


def _take(path: Path) -> int:
    """A descriptor that holds the lock, once the file says that we have it."""
    while True:
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _lock(descriptor):
                raise RunLockedError(_refusal(path, _read(descriptor)))
            if _is_still(path, descriptor):  # the one before may have removed it as it left
                owner = _read(descriptor)
                if owner and _is_alive(owner):
                    raise RunLockedError(_refusal(path, owner))
                with writing(path):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, json.dumps(_ourselves()).encode(), 0)
                    os.fsync(descriptor)
                return descriptor
        except (RunLockedError, WriteError):
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Take the kernel's lock; a file system without locks leaves the decision to what the file says."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in {errno.EACCES, errno.EAGAIN}
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> dict[str, Any] | None:
    """Who the file names; None for an empty or a torn one, which its writer did not live to finish."""
    try:
        owner = json.loads(os.pread(descriptor, 1 << 16, 0))
        is_whole = {"host", "pid", "started", "since"} <= owner.keys() and isinstance(owner["pid"], int)
        return owner if is_whole else None
    except (ValueError, AttributeError):
        return None


def _ourselves() -> dict[str, Any]:
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    started = psutil.Process().create_time()
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started, "since": since}


def _is_alive(owner: dict[str, Any]) -> bool:
    """Whether the process that a lock names may still be at work: another one with its number is not."""
    if owner["host"] != socket.gethostname():
        return True
    try:
        process = psutil.Process(owner["pid"])
        same = abs(process.create_time() - owner["started"]) < _SAME_START_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _refusal(path: Path, owner: dict[str, Any] | None) -> str:
    if owner is None:  # between the kernel's lock and the first line there is a moment
        return f"{path.parent} is being taken by another process; wait for it, or choose another output_dir=FOLDER"
    told = f"{path.parent} is in use by process {owner['pid']} on {owner['host']}, since {owner['since']}"
    if owner["host"] == socket.gethostname():
        return f"{told}; wait for it, stop it with kill {owner['pid']}, or choose another output_dir=FOLDER"
    return f"{told}; if that process is gone, remove {path}; or choose another output_dir=FOLDER"
