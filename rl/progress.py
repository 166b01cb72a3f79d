"""What the loop carries from step to step beside the policy."""

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
    def of(cls, checkpoint: Path | None) -> "RunProgress":
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
