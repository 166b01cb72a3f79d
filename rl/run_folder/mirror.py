"""Mirrors of metrics.jsonl in experiment trackers. An outage of a tracker never stops a run.

A run folder is one run of every tracker, however often it is resumed. `trackers.json` keeps that run's id and what was
sent to it, so that no step is sent twice and a tracker that joins later gets the earlier steps.
"""

import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redraft.rl.run_folder.files import write_whole

logger = logging.getLogger(__name__)

STATE = "trackers.json"


@dataclass(frozen=True)
class Start:
    """How a tracker's run begins or goes on.

    Attributes:
        id: Of the tracker's run, the same for all starts of a run folder.
        step: First step whose rows are sent again; what the tracker holds of it and of later ones is void.
        sent: Last row that it was sent, as `_order` counts; it gets none up to this one.
    """

    id: str
    step: int = 0
    sent: tuple[int, int] = (-1, 0)


class Mirror:
    """One of accelerate's trackers, fenced: the first failure is reported and ends the mirroring.

    It starts with the first row, so a run that is refused before makes none in the tracker.
    """

    def __init__(self, name: str, run: Path, make: Callable[[Start], Any]) -> None:
        self.name, self.run, self.make = name, run, make
        self.purges = name == "tensorboard"  # can void rows; the others must not be sent any twice
        self.start = Start(uuid.uuid4().hex[:12])
        self.again: list[Mapping[str, Any]] = []
        self.tracker: Any = None
        self.failed = False

    def rewind(self, step: int, seen: Sequence[Mapping[str, Any]], kept: Sequence[Mapping[str, Any]]) -> None:
        """Take up the tracker's run of this folder where the run itself goes on."""
        self._fenced(lambda: self._rewind(step, seen, kept))

    def log(self, stage: str, values: dict[str, float], step: int) -> None:
        """Send one row."""
        self._fenced(lambda: self._log(stage, values, step))

    def close(self) -> None:
        """Send what is left."""
        if self.tracker is not None:
            self._fenced(lambda: self.tracker.finish())
        self.failed = True  # nothing comes after

    def _rewind(self, step: int, seen: Sequence[Mapping[str, Any]], kept: Sequence[Mapping[str, Any]]) -> None:
        path = self.run / STATE
        states = json.loads(path.read_text()) if path.is_file() else {}
        if step and self.name in states:
            state = states[self.name]
            orders = [_order(row["stage"], row["step"]) for row in seen if row["stage"] != "sft"]
            sent = (-1, 0) if self.purges else max([tuple(state["sent"]), *orders])
            self.start = Start(state["id"], step if self.purges else 0, sent)
        self.again = [row for row in kept if row["stage"] != "sft" and row["step"] >= self.start.step]
        write_whole(path, json.dumps({**states, self.name: asdict(self.start)}, indent=1))

    def _log(self, stage: str, values: dict[str, float], step: int) -> None:
        if self.tracker is None:
            tracker = self.make(self.start)
            tracker.start()
            self.tracker = tracker
            for row in self.again:
                old = {key: value for key, value in row.items() if key not in {"stage", "step"}}
                self._send(row["stage"], old, row["step"])
        self._send(stage, values, step)

    def _send(self, stage: str, values: dict[str, float], step: int) -> None:
        if _order(stage, step) > self.start.sent:
            self.tracker.log(values, step)

    def _fenced(self, work: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 - any client, any network: the run goes on with metrics.jsonl
            logger.warning("tracker %s failed and is left out from here on: %s", self.name, error)
            self.failed = True


def _order(stage: str, step: int) -> tuple[int, int]:
    """Rows in the order in which they are logged: a step's evaluation comes after it."""
    return step, int(stage == "eval")
