"""Mirror metrics.jsonl in experiment trackers. An outage of a tracker never stops a run.

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
    """Where a tracker takes up its run.

    Attributes:
        id: Of the tracker's run, the same however often the run folder is resumed.
        step: The first step whose metrics are sent again. The tracker discards what it holds of it and of later ones.
        sent: Place of the last metrics that were sent, as `_order` counts. Metrics up to this place are not sent again.
    """

    id: str
    step: int = 0
    sent: tuple[int, int] = (-1, 0)


class Mirror:
    """One of accelerate's trackers. Its first failure is logged and ends the mirroring, and the run goes on.

    The tracker starts with the first metrics, so a run that is refused before them leaves nothing in it.
    """

    def __init__(self, name: str, run: Path, make: Callable[[Start], Any]) -> None:
        self.name, self.run, self.make = name, run, make
        self.purges = name == "tensorboard"  # can discard a step; others must not get one twice
        self.start = Start(uuid.uuid4().hex[:12])
        self.again: list[Mapping[str, Any]] = []
        self.tracker: Any = None
        self.failed = False

    def rewind(self, step: int, seen: Sequence[Mapping[str, Any]], kept: Sequence[Mapping[str, Any]]) -> None:
        """Take up the tracker's run after `step`, where of the metrics `seen` in the file those are `kept`."""
        self._fenced(lambda: self._rewind(step, seen, kept))

    def log(self, stage: str, values: dict[str, float], step: int) -> None:
        """Send the metrics of one batch or evaluation."""
        self._fenced(lambda: self._log(stage, values, step))

    def close(self) -> None:
        """End the tracker's run, which sends what it still holds."""
        if self.tracker is not None:
            self._fenced(lambda: self.tracker.finish())
        self.failed = True  # so that nothing is sent after the end

    def _rewind(self, step: int, seen: Sequence[Mapping[str, Any]], kept: Sequence[Mapping[str, Any]]) -> None:
        path = self.run / STATE
        states = json.loads(path.read_text()) if path.is_file() else {}
        if step and self.name in states:
            state = states[self.name]
            orders = [_order(entry["stage"], entry["step"]) for entry in seen if entry["stage"] != "sft"]
            sent = (-1, 0) if self.purges else max([tuple(state["sent"]), *orders])
            self.start = Start(state["id"], step if self.purges else 0, sent)
        self.again = [entry for entry in kept if entry["stage"] != "sft" and entry["step"] >= self.start.step]
        write_whole(path, json.dumps({**states, self.name: asdict(self.start)}, indent=1))

    def _log(self, stage: str, values: dict[str, float], step: int) -> None:
        if self.tracker is None:
            tracker = self.make(self.start)
            tracker.start()
            self.tracker = tracker
            for entry in self.again:
                old = {key: value for key, value in entry.items() if key not in {"stage", "step"}}
                self._send(entry["stage"], old, entry["step"])
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
    """Return the place of metrics in the order in which they are logged: the evaluation of a step comes after it."""
    return step, int(stage == "eval")
