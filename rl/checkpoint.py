"""Checkpoints of a run: complete or absent, never half.

    checkpoints/step_000100/{hf/, state/, data.json, trainer.json, MANIFEST.json}    checkpoints/latest

A checkpoint is written into a temporary folder, its manifest last, forced to the disk, then renamed. Whatever fails
before leaves the earlier checkpoints as they were, and a power loss afterwards finds the new one whole. There is no
generator state to keep: every draw is a pure function of (seed, step).
"""

import json
import os
import re
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
        step: Steps done.
        write_learner: Writes `hf/` and `state/` into the folder it is given.
        state: Small files beside them: name -> content, e.g. `trainer.json`.
        keep: Complete checkpoints to keep, at least 1.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: The checkpoint cannot be written, e.g. on a full disk; earlier checkpoints are intact.
    """
    final = run / "checkpoints" / f"step_{step:06d}"
    partial = final.with_name(f".{final.name}.partial")
    for leftover in final.parent.glob(".step_*.partial"):  # of killed saves, also of other steps
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write_learner(str(partial))
        for name, content in state.items():
            (partial / name).write_text(json.dumps(content, indent=1))
        sizes = {str(p.relative_to(partial)): p.stat().st_size for p in sorted(partial.rglob("*")) if p.is_file()}
        (partial / MANIFEST).write_text(json.dumps({"step": step, "files": sizes}, indent=1))
        for path in (*partial.rglob("*"), partial):
            _sync(path)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        _sync(final.parent)
        _write_synced(final.parent / "latest", final.name)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not _is_write_error(error):
            raise
        reason = getattr(error, "strerror", None) or error
        kept = ", ".join(folder.name for folder in complete_checkpoints(run)) or "none"
        raise OSError(f"cannot write checkpoint {final}: {reason}; complete checkpoints: {kept}") from error
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


def _is_write_error(error: BaseException) -> bool:
    """Python's own, and those of Rust writers (tokenizers, safetensors), which only say so in their text."""
    return isinstance(error, OSError) or re.search(r"\(os error \d+\)", str(error)) is not None


def _write_synced(path: Path, text: str) -> None:
    """Write a small file so that it is either the old or the new one after a crash."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    _sync(partial)
    os.replace(partial, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Force a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
