"""Checkpoints of a run: complete or absent, never half.

    checkpoints/step_000100/{hf/, state/, data.json, trainer.json, MANIFEST.json}    checkpoints/latest

A checkpoint is written into a temporary folder, its manifest last, then renamed. Whatever fails before leaves the
earlier checkpoints as they were. There is no generator state to keep: every draw is a pure function of (seed, step).
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

MANIFEST = "MANIFEST.json"


class CheckpointNotFoundError(FileNotFoundError):
    """There is no complete checkpoint to continue from."""


def save_checkpoint(
    run: Path, step: int, write_learner: Callable[[str], None], state: dict[str, dict[str, Any]], keep: int
) -> Path:
    """Write one checkpoint and drop the oldest beyond `keep`.

    Args:
        run: The run folder.
        step: Optimizer steps done.
        write_learner: Writes `hf/` and `state/` into the folder it is given.
        state: Small files beside them: name -> content, e.g. `trainer.json`.
        keep: Complete checkpoints to keep, at least 1.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: The disk is full or not writable; earlier checkpoints are intact.
    """
    final = run / "checkpoints" / f"step_{step:06d}"
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write_learner(str(partial))
        for name, content in state.items():
            (partial / name).write_text(json.dumps(content, indent=1))
        sizes = {str(p.relative_to(partial)): p.stat().st_size for p in sorted(partial.rglob("*")) if p.is_file()}
        _write_synced(partial / MANIFEST, json.dumps({"step": step, "files": sizes}, indent=1))
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        kept = ", ".join(folder.name for folder in complete_checkpoints(run)) or "none"
        raise OSError(
            error.errno, f"cannot write checkpoint {final}: {error.strerror or error}; complete checkpoints: {kept}"
        ) from error
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    _write_synced(run / "checkpoints" / "latest", final.name)
    for old in complete_checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def complete_checkpoints(run: Path) -> list[Path]:
    """Checkpoints whose manifest is there and whose files have the sizes it says, oldest first."""
    return [folder for folder in sorted((run / "checkpoints").glob("step_*")) if _is_complete(folder)]


def newest_checkpoint(run: Path) -> Path:
    """The checkpoint to resume from.

    Raises:
        CheckpointNotFoundError: There is none; names incomplete ones.
    """
    complete = complete_checkpoints(run)
    if complete:
        return complete[-1]
    broken = [folder.name for folder in sorted((run / "checkpoints").glob("*step_*"))]
    found = f"; incomplete: {', '.join(broken)}" if broken else ""
    raise CheckpointNotFoundError(f"{run}: no complete checkpoint to resume from{found}; start without --resume")


def read_state(checkpoint: Path, name: str) -> dict[str, Any]:
    """One of the small files of a checkpoint."""
    return json.loads((checkpoint / name).read_text())


def _is_complete(folder: Path) -> bool:
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _write_synced(path: Path, text: str) -> None:
    """Write a small file so that it is either the old or the new one after a crash."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
