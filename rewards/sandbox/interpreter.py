"""Which Python runs the program: ours where the program's user may read it, else the system's.

Ours often cannot be used: a training run is root and its Python lies under ``/root``, which no other user may enter. So
candidates are tried as the program's user, and the first that runs and is new enough is taken.
"""

import functools
import glob
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from redraft.rewards.sandbox.identity import Identity, claim
from redraft.rewards.sandbox.launch import ENVIRONMENT
from redraft.rewards.sandbox.program import SandboxError

OLDEST = (3, 11)
_SYSTEM = ("/usr/local/bin/python3", "/usr/bin/python3", "/usr/local/bin/python3.1[1-9]", "/usr/bin/python3.1[1-9]")
_ASK = "import sys; print(*sys.version_info[:2], sys.base_prefix, sep='\\n')"


@dataclass(frozen=True)
class Interpreter:
    """A Python without any package: its file, and the folder that its library lies under."""

    file: str
    prefix: str

    def libraries(self) -> list[str]:
        """Return the folders that it reads, its own library and the system's shared objects; links are kept."""
        folders = dict.fromkeys(
            ["/lib", "/lib64", "/usr/lib", "/usr/lib64", f"{self.prefix}/lib", f"{self.prefix}/lib64"]
        )
        return [folder for folder in folders if os.path.isdir(folder)]


def find_interpreter(identity: Identity, python: str | None = None) -> Interpreter:
    """Find the first Python that a user may run.

    Args:
        identity: The user.
        python: Try this one only.

    Raises:
        SandboxError: There is none; the message lists what was tried.
    """
    return _find(identity.uid, python)


@functools.cache
def _find(uid: int | None, python: str | None) -> Interpreter:
    tried = []
    for file in [python] if python else _candidates():
        found = _ask(os.path.realpath(file), Identity(uid))
        if isinstance(found, Interpreter):
            return found
        tried.append(f"{file} ({found})")
    raise SandboxError(
        f"no Python >= {OLDEST[0]}.{OLDEST[1]} that {Identity(uid)} may run; tried {', '.join(tried)}. Install one "
        "where every user may read it: `apt-get install python3`, or `uv python install --install-dir /opt/python` and "
        "name its file"
    )


def _candidates() -> Iterator[str]:
    seen = set()
    # In a virtual environment sys.executable is a link with packages beside it, which programs must not see.
    ours = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for pattern in (ours, *_SYSTEM):
        for file in sorted(glob.glob(pattern), reverse=True):
            if os.path.realpath(file) not in seen:
                seen.add(os.path.realpath(file))
                yield file


def _ask(file: str, identity: Identity) -> Interpreter | str:
    """Return the interpreter at this path, or why it cannot be used."""
    try:
        answer = subprocess.run(
            [file, "-I", "-S", "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=20,
            env=ENVIRONMENT,
            cwd="/",
            user=identity.uid,
            group=identity.uid,
            extra_groups=identity.groups,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if answer.returncode:
        return f"ended with code {answer.returncode}: {answer.stderr.strip()[-200:]}"
    major, minor, prefix = answer.stdout.splitlines()
    if (int(major), int(minor)) < OLDEST:
        return f"is {major}.{minor}"
    return Interpreter(file, str(Path(prefix)))


def claim_lease(python: str | None) -> tuple[Identity, Interpreter]:
    """Take a lease, and find an interpreter that its user may run.

    Args:
        python: The interpreter; None finds one.

    Raises:
        SandboxError: There is no free user id, or no such interpreter.
    """
    identity = claim()
    try:
        return identity, find_interpreter(identity, python)
    except SandboxError:
        identity.release()
        raise
