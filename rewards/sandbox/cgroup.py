"""One control group per sandbox: memory, swap and tasks of everything that a program starts, counted together.

Version 1 (a hierarchy per controller) and version 2 (one) are both in use; either may be read-only, which is normal in
a container and for ordinary users. Then there is no group, and memory is bounded per process only.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS: tuple[str, ...] = ("memory", "pids")


class Group:
    """A control group in one (version 2) or two (version 1) folders.

    Args:
        folders: Folder per controller; twice the same in version 2.
        unified: Whether the folders are version 2.
    """

    def __init__(self, folders: dict[str, Path], unified: bool) -> None:
        """Take over folders that exist."""
        self._folders, self._unified = folders, unified

    def limit(self, memory_bytes: int, tasks: int) -> None:
        """Set what everything in the group may use together; it does not swap.

        Raises:
            OSError: The group's files are not writable.
        """
        memory, pids = (self._folders[controller] for controller in _CONTROLLERS)
        if self._unified:
            _write(memory / "memory.max", memory_bytes)
            # Absent where the kernel does not account for swap.
            with contextlib.suppress(FileNotFoundError):
                _write(memory / "memory.swap.max", 0)
        else:
            _write(memory / "memory.limit_in_bytes", memory_bytes)
            with contextlib.suppress(FileNotFoundError):
                _write(memory / "memory.swappiness", 0)
        _write(pids / "pids.max", tasks)

    def add(self, process: int) -> None:
        """Move a process into the group; what it starts from now on is born there."""
        for folder in set(self._folders.values()):
            _write(folder / "cgroup.procs", process)

    def remove(self) -> None:
        """Remove the group; processes that were just killed may hold it for some milliseconds."""
        for folder in set(self._folders.values()):
            until = time.monotonic() + 0.5
            while not _try(folder.rmdir) and folder.exists():
                if time.monotonic() > until:
                    logger.warning("could not remove the control group %s", folder)
                    break
                time.sleep(0.01)


def open_group(name: str, root: Path = ROOT, own: Path = Path("/proc/self/cgroup")) -> Group | None:
    """Make a group below our own, whose limits stay in force; None where that is not allowed.

    Args:
        name: Of the group; a group of that name that a killed run left is used again.
        root: Where the hierarchies are mounted.
        own: The file that lists our own groups.
    """
    try:
        places = _own_groups(own)
        if (root / "cgroup.controllers").exists():
            return _open_unified(name, root, places.get("", "/"))
        return _open_split(name, root, places)
    except OSError as error:
        logger.debug("no control group for %s: %s", name, error)
        return None


def _own_groups(own: Path) -> dict[str, str]:
    """Our group's path by controller; "" is the key of the version 2 hierarchy."""
    groups = {}
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def _open_split(name: str, root: Path, places: dict[str, str]) -> Group | None:
    folders = {}
    for controller in _CONTROLLERS:
        own = root / controller / places.get(controller, "/").lstrip("/")
        # In a container the path may be the host's, while only the container's own group is mounted.
        base = own if own.is_dir() else root / controller
        if not (base / "cgroup.procs").exists():
            return None
        folders[controller] = base / name
    return _make(Group(folders, unified=False), folders)


def _open_unified(name: str, root: Path, place: str) -> Group | None:
    own = root / place.lstrip("/")
    # A group with processes in it may not hand controllers down, but a sibling of ours gets what our parent hands down.
    for base in (own, own.parent) if own != root else (own,):
        if _hands_down(base) or (base == own and _try(lambda: _write(own / "cgroup.subtree_control", "+memory +pids"))):
            folders = dict.fromkeys(_CONTROLLERS, base / name)
            return _make(Group(folders, unified=True), folders)
    return None


def _hands_down(base: Path) -> bool:
    return set(_CONTROLLERS) <= set((base / "cgroup.subtree_control").read_text().split())


def _make(group: Group, folders: dict[str, Path]) -> Group:
    try:
        for folder in folders.values():
            folder.mkdir(exist_ok=True)
        group.limit(1 << 30, 64)
    except OSError:
        group.remove()
        raise
    return group


def _try(action: Callable[[], None]) -> bool:
    try:
        action()
    except OSError:
        return False
    return True


def _write(file: Path, value: int | str) -> None:
    # The file is never created: the kernel makes the files of a hierarchy, so a missing one is a missing facility.
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_TRUNC), "w") as handle:
        handle.write(str(value))
