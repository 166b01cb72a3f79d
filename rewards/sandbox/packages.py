"""Packages of ours that programs may import: named one by one, read-only, and no others.

A folder of links to their files goes on the program's path. Packages with compiled parts fit one version of Python, so
the interpreter that runs programs must be of the same version.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from redraft.rewards.sandbox.program import Program, ProgramLimits, Sandbox, SandboxError

INSIDE = "/packages"
_LIMITS = ProgramLimits(cpu_s=20, wall_s=60.0)
# More than one thread would use up address space and tasks, which are limited.
_TEXT = """\
import sys, os
os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
sys.path.append({place!r})
"""


class Packages:
    """The files of some installed packages; a context that gives back its folder.

    Args:
        names: As they are imported, ``numpy``.

    Raises:
        SandboxError: One of them is not installed, or cannot be found by its name.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        found = [place for name in self.names for place in _places(name)]
        self._folder = tempfile.TemporaryDirectory(prefix="redraft-packages-") if found else None
        self.places = {place.name: place if _is_open(place) else self._copied(place) for place in found}

    @property
    def folders(self) -> list[str]:
        """Folders that a program has to read."""
        return [str(place) for place in self.places.values()]

    def _copied(self, place: Path) -> Path:
        """Make a copy that every user may read."""
        assert self._folder is not None
        folder = Path(self._folder.name)
        copies = folder / "copies"
        copies.mkdir(exist_ok=True)
        copy = shutil.copytree(place, copies / place.name) if place.is_dir() else shutil.copy(place, copies)
        for path in (folder, copies, Path(copy), *Path(copy).rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return Path(copy)

    def linked(self) -> str:
        """Return a folder that every user may read, with a link to each package."""
        assert self._folder is not None
        folder = Path(self._folder.name)
        folder.chmod(0o755)
        for name, place in self.places.items():
            with contextlib.suppress(FileExistsError):
                (folder / name).symlink_to(place)
        return str(folder)

    def text(self, place: str) -> str:
        """Return Python text that puts them on the import path; "" where there are none.

        Args:
            place: Folder in which the program sees them.
        """
        return _TEXT.format(place=place) if self.names else ""

    def close(self) -> None:
        """Remove the folder of links."""
        if self._folder is not None:
            self._folder.cleanup()


def _is_open(place: Path) -> bool:
    """Tell whether a sandbox's user may read it; an environment of root often lies where other users may not look."""
    if os.geteuid() != 0:
        return True
    return bool(place.stat().st_mode & 0o4) and all(folder.stat().st_mode & 0o1 for folder in place.parents)


def _places(name: str) -> list[Path]:
    """Return the package itself and the shared objects that its distribution keeps beside it."""
    distributions = metadata.packages_distributions().get(name)
    if not distributions:
        raise SandboxError(f"packages: {name!r} is not installed here; run `pip install {name}`, or leave it out")
    found = []
    for distribution in distributions:
        files = metadata.files(distribution) or []
        # Beside the package: its shared objects, and what says its version.
        tops = {top for top in (file.parts[0] for file in files) if re.match(rf"{name}\b|.*\.dist-info$", top)}
        found += [Path(str(metadata.distribution(distribution).locate_file(top))) for top in sorted(tops)]
    return [place.resolve() for place in found if place.exists()]


NONE = Packages(())


def check_packages(sandbox: Sandbox, packages: Packages) -> None:
    """Import every package once inside.

    Raises:
        SandboxError: It cannot be imported there; says why.
    """
    for name in packages.names:
        program = sandbox.start(f"import {name}\n", _LIMITS, pipes=True)
        said = _said(program)
        if said is not None:
            raise SandboxError(
                f"packages: programs of the {sandbox.name} layer cannot import {name}: {said}. Their Python must be of "
                f"version {sys.version_info.major}.{sys.version_info.minor}, as ours is, and their user must be able "
                f"to read {', '.join(packages.folders)}"
            )


def _said(program: Program) -> str | None:
    """Return the last line of a program's errors; None if it ended well."""
    try:
        _, errors = program.process.communicate(timeout=_LIMITS.wall_s)
    except subprocess.TimeoutExpired:
        errors = b"it took too long"
    ended = program.end()
    return None if ended.code == 0 else errors.decode(errors="replace").strip().rpartition("\n")[2] or str(ended)
