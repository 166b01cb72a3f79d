"""Experiment trackers as mirrors of metrics.jsonl. An outage of a tracker never stops a run."""

import logging
from typing import Any

from rl.config import RunConfig
from rl.recorder import Tracker

logger = logging.getLogger(__name__)


class Mirror:
    """One of accelerate's trackers, fenced: the first failure is reported and ends the mirroring."""

    def __init__(self, name: str, tracker: Any) -> None:
        self.name, self.tracker = name, tracker

    def log(self, values: dict[str, float], step: int) -> None:
        """Send one row."""
        if self.tracker is None:
            return
        try:
            self.tracker.log(values, step=step)
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

    PartialState()
    opened: list[Tracker] = []
    for name in config.report_to:
        kind = LOGGER_TYPE_TO_CLASS[name]
        try:
            place = {"logging_dir": config.output_dir} if kind.requires_logging_directory else {}
            tracker = kind("redraft", **place)
            tracker.start()
        except ImportError as error:
            raise ValueError(f"report_to: {name} is not installed ({error}); pip install 'redraft[trackers]'") from None
        opened.append(Mirror(name, tracker))
    return opened
