"""Checkpoints of a run: complete or absent, never half.

    checkpoints/step_000100/{hf/, state/, data.json, trainer.json, MANIFEST.json}    checkpoints/latest

A checkpoint is written into a temporary folder, its manifest last, forced to the disk, then renamed. Whatever fails
before leaves the earlier checkpoints as they were, and a power loss afterwards finds the new one whole. There is no
generator state to keep: every draw is a pure function of (seed, step).

Only folders named `step_<digits>` whose manifest says the same step are the run's, in the order of their numbers; a
copy that somebody keeps beside them is never read, counted or removed.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redraft.rl.atomic import atomic_write
from redraft.rl.run_folder.files import is_write_error, read_json, step_number, write_whole

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
    for leftover in final.parent.glob(".step_*.partial"):  # of killed saves, also of other steps
        if step_number(leftover.name.removeprefix("."), ".partial") is not None:
            shutil.rmtree(leftover, ignore_errors=True)
    try:
        with atomic_write(final, durable=True) as partial:
            partial.mkdir(parents=True)
            write_learner(str(partial))
            for name, content in state.items():
                (partial / name).write_text(json.dumps(content, indent=1))
            sizes = {str(p.relative_to(partial)): p.stat().st_size for p in sorted(partial.rglob("*")) if p.is_file()}
            (partial / MANIFEST).write_text(json.dumps({"step": step, "files": sizes}, indent=1))
        write_whole(final.parent / "latest", final.name)
    except Exception as error:
        if not is_write_error(error):
            raise
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"cannot write checkpoint {final}: {reason}; {what_is_kept(run)}") from error
    for old in complete_checkpoints(run)[:-keep]:
        with contextlib.suppress(OSError):  # by another name first: a removal that is cut short is taken up again
            doomed = old.with_name(f".{old.name}.partial")
            os.replace(old, doomed)
            shutil.rmtree(doomed, ignore_errors=True)
    return final


def complete_checkpoints(run: Path) -> list[Path]:
    """Checkpoints whose manifest is there and whose files have the sizes it says, oldest first."""
    return [folder for folder in _step_folders(run) if _is_complete(folder)]


def newest_checkpoint(run: Path) -> Path:
    """The checkpoint to resume from.

    Raises:
        CheckpointNotFoundError: There is none; names incomplete ones.
    """
    complete = complete_checkpoints(run)
    if complete:
        return complete[-1]
    raise CheckpointNotFoundError(f"{run}: no complete checkpoint to resume from{_broken(run)}; start without --resume")


def what_is_kept(run: Path) -> str:
    """The end of an error that a full disk caused: what of the run is safe, and how to go on."""
    names = ", ".join(folder.name for folder in complete_checkpoints(run))
    if not names:
        return "complete checkpoints: none; make room, then start again"
    return f"complete checkpoints: {names}; make room, then continue with --resume"


def policy_to_export(source: Path, step: int) -> Path:
    """The policy folder that is wanted.

    Args:
        source: A run folder, one of its checkpoints, or a policy folder.
        step: Steps done, of a run; 0: the newest.

    Raises:
        CheckpointNotFoundError: The checkpoint is not there; says what is.
        ValueError: A step of what is no run.
    """
    is_checkpoint = (source / MANIFEST).is_file()
    is_policy = (source / "config.json").is_file() and not (source / "checkpoints").is_dir()
    if not (is_checkpoint or is_policy):
        return _checkpoint_to_export(source, step) / "hf"
    if step:
        raise ValueError(f"{source}: is one policy, without steps to choose from; name the run folder, or no step")
    return source / "hf" if is_checkpoint else source


def _checkpoint_to_export(run: Path, step: int) -> Path:
    complete = complete_checkpoints(run)
    chosen = [folder for folder in complete if not step or step_number(folder.name) == step]
    if chosen:
        return chosen[-1]
    if complete:
        there = ", ".join(str(step_number(folder.name)) for folder in complete)
        raise CheckpointNotFoundError(f"{run}: no complete checkpoint of step {step}; there are those of {there}")
    first = run / "sft" / "hf"
    instead = f"its warm start is {first}" if first.is_dir() else "train first, or name a folder with config.json"
    raise CheckpointNotFoundError(f"{run}: no complete checkpoint to export{_broken(run)}; {instead}")


def read_state(checkpoint: Path, name: str) -> dict[str, Any]:
    """One of the small files of a checkpoint; a damaged one is named."""
    return read_json(checkpoint / name, f"remove {checkpoint} to resume from an earlier one")


def _step_folders(run: Path) -> list[Path]:
    """The run's own folders, complete or not, by number: as text, 1000000 would come before 999999."""
    found = ((step_number(folder.name), folder) for folder in (run / "checkpoints").glob("step_*"))
    return [folder for step, folder in sorted((step, folder) for step, folder in found if step is not None)]


def _broken(run: Path) -> str:
    partial = (run / "checkpoints").glob(".step_*.partial")
    names = [folder.name for folder in (*_step_folders(run), *partial)]
    return f"; incomplete: {', '.join(names)}" if names else ""


def _is_complete(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        sizes_fit = all((folder / name).stat().st_size == size for name, size in manifest["files"].items())
        return sizes_fit and manifest["step"] == step_number(folder.name)
    except (OSError, ValueError, KeyError, TypeError):
        return False
