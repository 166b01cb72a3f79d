"""Continuing a run: which checkpoint, what of the recipe may differ, and what the loop carries beside the policy."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl.alarm import AlarmConfig, CollapseAlarm
from rl.checkpoint import complete_checkpoints, newest_checkpoint, read_state
from rl.config import RunConfig
from rl.recipe import RecipeError
from rl.reward_metrics import MaskedSteps

TRAINER = "trainer.json"  # of a checkpoint
# What a resumed run may change; everything else would make it another experiment.
MAY_CHANGE = {
    "output_dir",
    "model.path",  # these three name what has a fingerprint
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
    "trainer.total_steps",
    "trainer.save_steps",
    "trainer.save_total_limit",
    "trainer.collapse_alarm",
    "reward_test",
    "evaluation.eval_steps",
}


@dataclass
class Progress:
    """What the loop carries from step to step beside the learner; a checkpoint keeps all of it.

    Attributes:
        step: Steps done.
        alarm: With the steps that it looks back on.
        masked: With the steps without a score so far, in a row.
        unwritten: Rows of metrics.jsonl for which there was no room: (stage, step, values).
    """

    step: int = 0
    alarm: CollapseAlarm = field(default_factory=lambda: CollapseAlarm(AlarmConfig()))
    masked: MaskedSteps = field(default_factory=MaskedSteps)
    unwritten: Sequence[tuple[str, int, dict[str, float]]] = ()

    def saved(self) -> dict[str, Any]:
        """As content of `TRAINER`."""
        return {
            "step": self.step,
            "alarm": list(self.alarm.steps),
            "masked_steps": self.masked.count,
            "unwritten": [list(row) for row in self.unwritten],
        }

    @classmethod
    def of(cls, checkpoint: Path | None) -> "Progress":
        """What a checkpoint keeps; without one, the start."""
        if checkpoint is None:
            return cls()
        saved = read_state(checkpoint, TRAINER)
        return cls(
            step=saved["step"],
            alarm=CollapseAlarm(AlarmConfig(), saved.get("alarm", ())),
            masked=MaskedSteps(count=saved.get("masked_steps", 0)),
            unwritten=[(stage, step, values) for stage, step, values in saved.get("unwritten", ())],
        )


def find_start(config: RunConfig, run: Path, resume: bool) -> Path | None:
    """The checkpoint that a run starts from; None for a new one.

    Raises:
        RecipeError: There is nothing left to do, or another experiment's results would be mixed with this one's.
        CheckpointNotFoundError: There is none to resume from.
    """
    if not resume:
        if complete_checkpoints(run):
            raise RecipeError(
                f"{run} already holds checkpoints; continue with --resume, or choose another output_dir=FOLDER"
            )
        return None
    checkpoint = newest_checkpoint(run)
    done = read_state(checkpoint, TRAINER)["step"]
    if done >= config.trainer.total_steps:
        raise RecipeError(
            f"{checkpoint} has done {done} of trainer.total_steps={config.trainer.total_steps} steps: nothing to"
            f" resume; raise it, e.g. trainer.total_steps={2 * done}"
        )
    saved, now = _flat(read_state(checkpoint, "config.json")), _flat(config.model_dump(mode="json"))
    changed = [key for key in sorted(saved.keys() | now.keys()) if saved.get(key) != now.get(key)]
    other = [key for key in changed if not any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE)]
    if other:
        told = ", ".join(f"{key} was {saved.get(key)!r}, now {now.get(key)!r}" for key in other[:5])
        raise RecipeError(f"{checkpoint} belongs to another recipe: {told}; resume with the same, or start anew")
    return checkpoint


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {k: v for key, part in value.items() for k, v in _flat(part, f"{prefix}.{key}".lstrip(".")).items()}
