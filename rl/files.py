"""Read paths as users write them, and write users' output files whole or not at all."""

import contextlib
import errno
import os
import re
import secrets
import shutil
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from redraft.rl.atomic import atomic_write

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}
_DESCRIPTOR = re.compile(r"/dev/(?:fd/(\d+)|(stdout)|(stderr))|/proc/self/fd/(\d+)")


def expand(path: str | Path) -> Path:
    """Replace `~` and `~user` by the home folder; nothing else is replaced.

    Raises:
        ValueError: There is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        name = Path(path).parts[0]
        raise ValueError(f"{path}: no home folder of {name!r}; write ./{name} for a folder of that name") from None


def check_output_file(path: str | Path) -> Path:
    """Refuse a place that cannot be written, before any work is done. Makes no file and no folder.

    Returns:
        The path with `~` expanded.

    Raises:
        OSError: It is a folder, its folder is a file, or it may not be written.
        ValueError: The path is empty.
    """
    path = _given(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; give the name of a file in it")
    if _target(path).is_symlink():
        raise OSError(f"{path}: is a link that leads back to itself")
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(f"{path}: may not be written")
    if not path.exists() or path.is_file():
        check_output_folder(_target(path).parent)
    return path


def check_output_folder(path: str | Path) -> Path:
    """Refuse a folder that cannot be made or written, as `check_output_file` does.

    Raises:
        OSError: A file stands in its place or above it, or it may not be written.
        ValueError: The path is empty.
    """
    path = _given(path)
    above = next(folder for folder in (path, *path.absolute().parents) if folder.exists() or folder.is_symlink())
    if not above.is_dir():
        raise NotADirectoryError(f"{path}: cannot be made, {above} is no folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: cannot be written, {above} may not be changed")
    return path


def _given(path: str | Path) -> Path:
    """Expand a path, and refuse an empty one, e.g. of an unset variable: it would mean the working directory."""
    if not str(path).strip():
        raise ValueError("the path to write is empty; write . for the working directory")
    return expand(path)


@contextlib.contextmanager
def output_file(path: str | Path) -> Iterator[TextIO]:
    """Open a text file to write, which gets its name only when the block ends well.

    A link is followed. A pipe, a device or `/dev/stdout` is written directly and never replaced.

    Raises:
        OSError: As `check_output_file`, or a full disk; an earlier file is as it was.
    """
    path = check_output_file(path)
    straight = _open_straight(path)
    if straight is not None:
        with _named(path, "what was written before stays written"), straight as file:
            yield file
        return
    target = _target(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Two commands may write the same file; the one that ends last wins, and neither sees a half of the other.
    partial = target.with_name(f".{secrets.token_hex(4)}.partial")
    whole = atomic_write(target, partial=partial)
    with (
        signals_unwind(),
        whole,
        _named(path, "nothing was written or replaced"),
        partial.open("x", encoding="utf-8") as file,
    ):
        if target.exists():
            shutil.copymode(target, partial)
        yield file


@contextlib.contextmanager
def signals_unwind() -> Iterator[None]:
    """Make SIGTERM and a closed terminal end the block as Ctrl-C does, so that what it has begun is removed."""
    owner = os.getpid()

    def end(signum: int, frame: object) -> None:
        if os.getpid() == owner:
            raise SystemExit(128 + signum)
        signal.signal(signum, signal.SIG_DFL)  # a forked child must not remove what its parent has begun
        os.kill(os.getpid(), signum)

    numbers = (signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    # Under nohup SIGHUP is ignored, and stays so.
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def _named(path: Path, kept: str) -> Iterator[None]:
    """Name the file in the error of a full disk; errors of the work inside the block pass unchanged."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in _FULL:
            raise
        raise OSError(error.errno, f"{error.strerror}; {kept}", str(path)) from error


def is_stdout(path: str | Path) -> bool:
    """Tell whether a file is where this process prints. Messages belong on stderr then."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(1))
    except OSError:
        return False


def _open_straight(path: Path) -> TextIO | None:
    """Open what is no regular file. A descriptor is duplicated: opening it by path would truncate a file behind it."""
    match = _DESCRIPTOR.fullmatch(str(path))
    if match:
        number = int(match[1] or match[4] or (1 if match[2] else 2))
        return open(os.dup(number), "w", buffering=1, encoding="utf-8")
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        return path.open("w", buffering=1, encoding="utf-8")
    return None


def _target(path: Path) -> Path:
    return Path(os.path.realpath(path))
