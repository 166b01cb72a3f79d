"""How far a run is: what the loop carries from batch to batch beside the policy, and how checkpoints keep it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redraft.rl.experience.metrics import MaskedSteps
from redraft.rl.monitor.alarm import AlarmConfig, CollapseAlarm
from redraft.rl.run_folder.checkpoint import read_state

TRAINER = "trainer.json"  # of a checkpoint


@dataclass
class RunProgress:
    """Where a run stands; a checkpoint keeps all of it.

    Attributes:
        step: Batches learned from, as `trainer.total_steps` counts them.
        alarm: The collapse alarm, with the batches that it looks back on.
        masked: How many batches in succession had no score.
        unwritten: Metrics that are not yet in metrics.jsonl, e.g. on a full disk: (stage, step, values).
    """

    step: int = 0
    alarm: CollapseAlarm = field(default_factory=lambda: CollapseAlarm(AlarmConfig()))
    masked: MaskedSteps = field(default_factory=MaskedSteps)
    unwritten: Sequence[tuple[str, int, dict[str, float]]] = ()

    def saved(self) -> dict[str, Any]:
        """Return the content of `TRAINER`."""
        return {
            "step": self.step,
            "alarm": list(self.alarm.steps),
            "masked_steps": self.masked.count,
            "unwritten": [list(entry) for entry in self.unwritten],
        }

    @classmethod
    def of(cls, checkpoint: Path | None) -> "RunProgress":
        """Read where a checkpoint left the run; without a checkpoint, the start."""
        if checkpoint is None:
            return cls()
        saved = read_state(checkpoint, TRAINER)
        return cls(
            step=saved["step"],
            alarm=CollapseAlarm(AlarmConfig(), saved.get("alarm", ())),
            masked=MaskedSteps(count=saved.get("masked_steps", 0)),
            unwritten=[(stage, step, values) for stage, step, values in saved.get("unwritten", ())],
        )
