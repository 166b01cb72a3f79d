"""Find the checkpoint that a run continues from, and refuse a recipe that differs in more than it may."""

from pathlib import Path
from typing import Any

from redraft.rl.config.choices import Choices
from redraft.rl.config.moved import MOVED
from redraft.rl.config.recipe import RecipeError
from redraft.rl.config.schema import RunConfig
from redraft.rl.config.sections import RolloutConfig, TrainerConfig
from redraft.rl.progress import TRAINER
from redraft.rl.run_folder.checkpoint import complete_checkpoints, newest_checkpoint, read_state

# Keys and sections that a resumed run may change. Any other change would make it another experiment.
MAY_CHANGE = {
    "output_dir",
    # These may move: checkpoints keep fingerprints of what they name.
    "model.path",
    "model.revision",
    "data.path",
    "evaluation.data.path",
    "report_to",
    "cluster",
    "rollout.engine",
    "rollout.num_actors",
    "rollout.slots",
    "rollout.cache_gib",
    "rollout.logits_mib",
    "rollout.forward_timeout_s",
    # The result does not depend on them.
    "trainer.parallel",
    "trainer.activation_checkpointing",
    "trainer.total_steps",
    "trainer.save_steps",
    "trainer.save_total_limit",
    "trainer.collapse_alarm",
    "reward_test",
    "evaluation.eval_steps",
}


def find_start(config: RunConfig, run: Path, resume: bool) -> Path | None:
    """Find the checkpoint to start from; return None for a new run.

    Raises:
        RecipeError: There is nothing left to do, or another experiment's results would be mixed with this one's.
        CheckpointNotFoundError: There is no checkpoint to resume from.
    """
    if not resume:
        if complete_checkpoints(run):
            raise RecipeError(
                f"{run} already holds checkpoints; continue with --resume (in Python resume=True), or choose another"
                " output_dir=FOLDER"
            )
        return None
    checkpoint = newest_checkpoint(run)
    done = read_state(checkpoint, TRAINER)["step"]
    if done >= config.trainer.total_steps:
        raise RecipeError(
            f"{checkpoint} has done {done} of trainer.total_steps={config.trainer.total_steps} steps: nothing to"
            f" resume; raise it, e.g. trainer.total_steps={2 * done}"
        )
    saved, now = _flat(_with_later_keys(read_state(checkpoint, "config.json"))), _flat(config.model_dump(mode="json"))
    if any(f"algorithm.{key}" in saved for key in _GONE):
        raise RecipeError(
            f"{checkpoint} was written by an earlier Redraft, whose algorithm section was flat: a resume could not tell"
            " whether the recipe is the same; start anew with another output_dir=FOLDER"
        )
    other = _changed(saved, now)
    if other:
        differing = ", ".join(f"{key} was {saved.get(key)!r}, now {now.get(key)!r}" for key in other[:5])
        raise RecipeError(f"{checkpoint} belongs to another recipe: {differing}; resume with the same, or start anew")
    return checkpoint


_GONE = {"overlong_buffer", *MOVED} - Choices.model_fields.keys()


def _with_later_keys(saved: dict[str, Any]) -> dict[str, Any]:
    """Fill in keys that came after the checkpoint was written, which ran as their defaults say."""
    later = {"trainer": TrainerConfig(), "rollout": RolloutConfig()}
    filled = {name: {**section.model_dump(mode="json"), **saved.get(name, {})} for name, section in later.items()}
    return {**saved, **filled}


def _changed(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """List the keys that changed and may not. Of a section with another kind only the kind: its keys follow from it."""
    changed = [key for key in sorted(saved.keys() | now.keys()) if saved.get(key) != now.get(key)]
    other = [key for key in changed if not any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE)]
    sections = [key.removesuffix("kind") for key in other if key.endswith(".kind")]
    return [key for key in other if all(key == f"{at}kind" or not key.startswith(at) for at in sections)]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into one with dotted keys."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {k: v for key, part in value.items() for k, v in _flat(part, f"{prefix}.{key}".lstrip(".")).items()}
