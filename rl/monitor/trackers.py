"""Open the experiment trackers that `report_to` names, by way of accelerate."""

import importlib.util
from pathlib import Path
from typing import Any

from redraft.rl.config.recipe import dump_recipe
from redraft.rl.config.schema import RunConfig
from redraft.rl.run_folder.mirror import Mirror, Start


def open_trackers(config: RunConfig) -> list[Mirror]:
    """Make a mirror for each tracker that `report_to` names.

    Raises:
        ValueError: One is not installed.
    """
    if not config.report_to:
        return []
    from accelerate.state import PartialState

    # Accelerate's trackers ask this object whether they run in the main process, and fail if it was never made.
    PartialState()
    for name in config.report_to:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"report_to: {name} is not installed; pip install 'redraft[trackers]'")
    makers = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
    run = Path(config.output_dir)
    return [Mirror(name, run, lambda start, make=makers[name]: make(config, start)) for name in config.report_to]


def _tensorboard(config: RunConfig, start: Start) -> Any:
    from accelerate.tracking import TensorBoardTracker

    class WithRecipe(TensorBoardTracker):
        def start(self) -> None:
            super().start()
            self.writer.add_text("recipe", f"```yaml\n{dump_recipe(config)}```", global_step=start.step)

    return WithRecipe("redraft", logging_dir=config.output_dir, purge_step=start.step)


def _wandb(config: RunConfig, start: Start) -> Any:
    from accelerate.tracking import WandBTracker

    return WandBTracker("redraft", id=start.id, resume="allow", allow_val_change=True, **_identity(config))


def _trackio(config: RunConfig, start: Start) -> Any:
    from accelerate.tracking import TrackioTracker

    identity = _identity(config)
    # Trackio finds a run again by its name, which two output_dirs may share.
    return TrackioTracker("redraft", resume="allow", **identity | {"name": f"{identity['name']}-{start.id[:6]}"})


def _identity(config: RunConfig) -> dict[str, Any]:
    return {"name": Path(config.output_dir).resolve().name, "config": config.model_dump(mode="json")}
