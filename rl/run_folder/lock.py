"""Let one process at a time write into a run folder, by way of `run.lock`.

**Guarantees**

* The file says who holds the folder (host, process id, start of the process), which a user on any host can read. It is
  believed as long as that process lives, and always where the process is on another host.
* The kernel holds a lock on the file until this process ends, however it ends. The lock decides between two commands
  that start at the same moment, and also sees a process that another container hides.
* A run that is refused leaves the folder as it was; a folder that was made for it is removed again.

**Assumes**

* Clocks agree on the start of a process to 2 seconds. A process id that was given to a new process is told apart by it.

**Rejected alternatives**

* `flock`: its lock passes to child processes that outlive a killed run, and network file systems may ignore it.
* A file without the kernel's lock: two commands that start at the same moment would both find it absent.
"""

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
# The kernel never refuses a lock to the process that holds it already, so this set does.
_HELD: set[Path] = set()


class RunLockedError(RuntimeError):
    """Another process works in this output_dir; the message says which."""


@contextlib.contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold a run folder while a command writes into it, and make it if it is not there.

    Args:
        run: The output_dir.

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
    """Lock the file, write our name into it, and return the descriptor that holds the lock."""
    while True:
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _lock(descriptor):
                raise RunLockedError(_refusal(path, _read(descriptor)))
            # The process before us may have removed the file after we opened it; then we lock a new one.
            if _is_still(path, descriptor):
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
    """Take the kernel's lock; where the file system has no locks, return True and let the file's content decide."""
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
    """Read whom the file names, or None where its writer was killed before it was complete."""
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
    """Tell whether the process that a lock names may still be at work. A later process with its id does not count."""
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
    if owner is None:  # it has the kernel's lock, and has not written its name yet
        return f"{path.parent} is being taken by another process; wait for it, or choose another output_dir=FOLDER"
    told = f"{path.parent} is in use by process {owner['pid']} on {owner['host']}, since {owner['since']}"
    if owner["host"] == socket.gethostname():
        return f"{told}; wait for it, stop it with kill {owner['pid']}, or choose another output_dir=FOLDER"
    return f"{told}; if that process is gone, remove {path}; or choose another output_dir=FOLDER"
