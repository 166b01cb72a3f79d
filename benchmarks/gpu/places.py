"""Where things are, and whether the carried folder fits: nothing but the standard library."""

import hashlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
CARRIED: Final = HERE / "carried"
NOTE: Final = "packed.json"  # in CARRIED: what it was made for, and of what
_PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
_PYDANTIC: Final = ("pydantic", "pydantic_core")
NEEDED: Final = ("torch", "transformers", "numpy", "yaml", "safetensors", *_PYDANTIC, "jaxtyping", "psutil")


def packed() -> dict[str, Any] | None:
    """What `pack` noted; None: there is no carried folder."""
    note = CARRIED / NOTE
    return json.loads(note.read_text()) if note.is_file() else None


def carried_fits() -> bool:
    """There are carried packages, and they are for this Python."""
    note = packed()
    return note is not None and note["python"] == _PYTHON


def what_is_missing() -> str | None:
    """Why nothing would run here; None: all of it is there."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if not missing:
        return None
    note = packed()
    if note is None:
        how = "run `benchmarks/gpu/pack` where there is a network, and bring the folder benchmarks/gpu/carried along"
    elif note["python"] != _PYTHON:
        how = f"benchmarks/gpu/carried is for Python {note['python']}: run `benchmarks/gpu/pack --python {_PYTHON}`"
    else:
        how = f"benchmarks/gpu/carried holds only {', '.join(note['packages'])}"
    return f"{sys.executable} (Python {_PYTHON}) lacks {', '.join(missing)}: {how}"


def golden_folder(carried: bool = True) -> Path | None:
    """The folder of golden data: as `REDRAFT_GOLDEN` says, carried, or in `shared/` inside, beside or above us.

    Args:
        carried: Also the carried copy.
    """
    named = os.environ.get("REDRAFT_GOLDEN")
    shared = [folder / "shared" / "golden" for folder in (ROOT, *ROOT.parents)]
    places = [Path(named)] if named else [*([CARRIED / "golden"] if carried else []), *shared]
    return next((place for place in places if (place / "llada2_tiny" / "cases.json").is_file()), None)


def commit() -> str:
    """Of this checkout; in a copy without its history, of the one that was packed, if the sources are still those."""
    found = _git("rev-parse", "HEAD")
    if found:
        return found + (" with changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    note = packed()
    if note is None:
        return "unknown (no git checkout, nothing packed)"
    changed = "" if note["sources"] == sources() else ", sources changed since it was packed"
    return f"{note['commit']}{changed}"


def restore_links() -> None:
    """Make the links of `redraft/` again where a copy of the checkout lost them."""
    for name in ("rl", "rollout", "rewards", "recipes", "examples"):
        link = ROOT / "redraft" / name
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(Path("..") / name)


def sources() -> str:
    """A fingerprint of the code that is measured."""
    digest = hashlib.sha256()
    for layer in ("rl", "rollout", "rewards", "benchmarks"):
        for path in sorted((ROOT / layer).rglob("*.py")):
            if CARRIED not in path.parents:
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
