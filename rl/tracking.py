"""Experiment trackers as mirrors of metrics.jsonl. An outage of a tracker never stops a run."""

import importlib.util
import logging
from typing import Any

from rl.config import RunConfig
from rl.recorder import Tracker

logger = logging.getLogger(__name__)


class Mirror:
    """One of accelerate's trackers, fenced: the first failure is reported and ends the mirroring.

    It starts with the first row, so a run that is refused before makes none in the tracker.
    """

    def __init__(self, name: str, tracker: Any) -> None:
        self.name, self.tracker, self.started = name, tracker, False

    def log(self, values: dict[str, float], step: int) -> None:
        """Send one row."""
        if not self.started:
            self.started = True
            self._call("start")
        self._call("log", values, step)

    def close(self) -> None:
        """Send what is left."""
        if self.started:
            self._call("finish")
        self.tracker = None

    def _call(self, method: str, *arguments: object) -> None:
        if self.tracker is None:
            return
        try:
            getattr(self.tracker, method)(*arguments)
        except Exception as error:  # noqa: BLE001 - any client, any network: the run goes on with metrics.jsonl
            logger.warning("tracker %s failed and is left out from here on: %s", self.name, error)
            self.tracker = None


def open_trackers(config: RunConfig) -> list[Tracker]:
    """The trackers that `report_to` names.

    Raises:
        ValueError: One is not installed.
    """
    if not config.report_to:
        return []
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # accelerate's trackers ask it whether they are the main process
    opened: list[Tracker] = []
    for name in config.report_to:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"report_to: {name} is not installed; pip install 'redraft[trackers]'")
        kind = LOGGER_TYPE_TO_CLASS[name]
        place = {"logging_dir": config.output_dir} if kind.requires_logging_directory else {}
        opened.append(Mirror(name, kind("redraft", **place)))
    return opened
