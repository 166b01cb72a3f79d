"""Write and find the checkpoints of a run.

    checkpoints/step_000100/{hf/, state/, config.json, data.json, trainer.json, MANIFEST.json}    checkpoints/latest

**Guarantees**

* A checkpoint is complete or absent. It is written beside its place, its manifest last, forced to the disk, then
  renamed; a failure before leaves the earlier checkpoints as they were, and a power loss afterwards the new one whole.
* Only folders named `step_<digits>` whose manifest says the same step are the run's, in the order of their numbers. A
  copy that a user keeps beside them (`step_000100_best`) is never read, counted or removed.

**Assumes**

* This process holds the lock of the run folder.

**Rejected alternatives**

* Saving the state of random generators: every draw is a pure function of (seed, step), so there is none.
* Trusting `latest`: a copied or pruned folder would leave it pointing nowhere. It is there for people and scripts.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redraft.rl.atomic import atomic_write
from redraft.rl.models.hub import find_model, is_hub_name
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
        write_learner: Writes `hf/` and `state/` into the folder that it is called with.
        state: Content of the small files beside them, by name.
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
    except BaseException as error:  # a panic in Rust, as of the tokenizer on a full disk, is no Exception
        if not is_write_error(error):
            raise
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"cannot write checkpoint {final}: {reason}; {what_is_kept(run)}") from error
    for old in complete_checkpoints(run)[:-keep]:
        # A removal that is interrupted leaves the other name, which the next save removes.
        with contextlib.suppress(OSError):
            doomed = old.with_name(f".{old.name}.partial")
            os.replace(old, doomed)
            shutil.rmtree(doomed, ignore_errors=True)
    return final


def complete_checkpoints(run: Path) -> list[Path]:
    """Find the checkpoints whose files have the sizes that their manifest says, oldest first."""
    return [folder for folder in _step_folders(run) if _is_complete(folder)]


def newest_checkpoint(run: Path) -> Path:
    """Find the checkpoint to resume from.

    Raises:
        CheckpointNotFoundError: There is none; names incomplete ones.
    """
    complete = complete_checkpoints(run)
    if complete:
        return complete[-1]
    raise CheckpointNotFoundError(
        f"{run}: no complete checkpoint to resume from{_broken(run)}; start without --resume"
        " (in Python without resume=True)"
    )


def what_is_kept(run: Path) -> str:
    """Say which checkpoints are safe and how to go on, for the end of an error about a full disk."""
    names = ", ".join(folder.name for folder in complete_checkpoints(run))
    if not names:
        return "complete checkpoints: none; make room, then start again"
    return f"complete checkpoints: {names}; make room, then continue with --resume (in Python resume=True)"


def warm_start_policy(run: Path) -> Path:
    """Say where the policy of a run's warm start lies, or will lie."""
    return run / "sft" / "hf"


def find_policy(source: Path, step: int = 0) -> Path:
    """Find the policy that a path names: a policy folder, a checkpoint's, the newest one of a run, or one on the hub.

    The newest policy of a run is that of its newest complete checkpoint, and before the first checkpoint that of its
    warm start. Where all checkpoints are incomplete, the warm start is not taken in their place.

    Args:
        source: A run folder, one of its checkpoints, a policy folder, or `owner/name` or `owner/name@revision` on the
            hub, which is downloaded.
        step: Which checkpoint of a run; 0 takes the newest policy.

    Raises:
        CheckpointNotFoundError: There is no such policy; says what there is.
        FileNotFoundError: There is no such folder, and no such model on the hub.
        HubError: The hub does not give it.
        ValueError: A step is asked of a single policy.
    """
    if not source.is_dir():
        name, _, revision = str(source).partition("@")
        if not is_hub_name(name):
            raise FileNotFoundError(f"{source}: no such run or policy folder; a model on the hub is written owner/name")
        if step:
            raise ValueError(f"{source}: is a model on the hub, without steps to choose from; name no step")
        return find_model(name, revision or None).folder
    is_checkpoint = (source / MANIFEST).is_file()
    is_policy = (source / "config.json").is_file() and not (source / "checkpoints").is_dir()
    if not (is_checkpoint or is_policy):
        return _policy_of_run(source, step)
    if step:
        raise ValueError(f"{source}: is one policy, without steps to choose from; name the run folder, or no step")
    return source / "hf" if is_checkpoint else source


def _policy_of_run(run: Path, step: int) -> Path:
    complete, first = complete_checkpoints(run), warm_start_policy(run)
    chosen = [folder for folder in complete if not step or step_number(folder.name) == step]
    if chosen:
        return chosen[-1] / "hf"
    if complete:
        there = ", ".join(str(step_number(folder.name)) for folder in complete)
        raise CheckpointNotFoundError(f"{run}: no complete checkpoint of step {step}; there are those of {there}")
    if first.is_dir() and not step and not _step_folders(run):
        return first
    instead = f"its warm start is {first}" if first.is_dir() else "train first, or name a folder with config.json"
    raise CheckpointNotFoundError(f"{run}: no complete checkpoint{_broken(run)}; {instead}")


def read_state(checkpoint: Path, name: str) -> dict[str, Any]:
    """Read one of the small files of a checkpoint.

    Raises:
        ValueError: It is missing or damaged; names it.
    """
    return read_json(checkpoint / name, f"remove {checkpoint} to resume from an earlier one")


def _step_folders(run: Path) -> list[Path]:
    """Find the run's own folders, complete or not, by number: sorted as text, 1000000 would come before 999999."""
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
