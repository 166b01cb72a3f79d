"""Files and folders that are whole or not there.

**Guarantees**

* Until the block of `atomic_write` ends well, the earlier file or folder stands untouched under its name.
* A block that raises leaves the earlier one and nothing else: what was begun beside it is removed.
* With `durable`, the new content is on the disk before it gets its name, and the name before the call returns.

**Assumes**

* One writer per path, unless each gives a `partial` of its own.
* A process that is killed outright may leave the partial beside the path; the next write to that path removes it.
* A folder that is replaced is first renamed to `.NAME.old`. A process that is killed right then leaves it under that
  name, and the new one as the partial.

**Rejected alternatives**

* Swapping two folders at once (`renameat2`): Linux only, and not on network file systems.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: Path, durable: bool = False, partial: Path | None = None) -> Iterator[Path]:
    """Yield a path beside `path`; the file or folder that the block makes there takes the name `path` afterwards.

    Args:
        path: Where the result belongs. Its folder must be there.
        durable: The result must survive a power loss too.
        partial: Where the block writes, in the same folder; `.NAME.partial` unless given.

    Raises:
        OSError: It cannot be written; what stood at `path` is as it was.
    """
    partial = partial or path.with_name(f".{path.name}.partial")
    _remove(partial)
    try:
        yield partial
        if durable:
            for made in (*partial.rglob("*"), partial):
                sync(made)
        _replace(partial, path)
    except BaseException:
        _remove(partial)
        raise
    if durable:
        sync(path.parent)


def sync(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(partial: Path, path: Path) -> None:
    """Give `partial` the name `path`. The system replaces a file in one call, but no folder that holds something."""
    if not (partial.is_dir() and path.is_dir()) or path.is_symlink():
        os.replace(partial, path)
        return
    old = path.with_name(f".{path.name}.old")
    _remove(old)
    os.replace(path, old)
    try:
        os.replace(partial, path)
    except BaseException:
        os.replace(old, path)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):  # not there, or an error that the write itself will meet and name
        path.unlink()
