"""What the verbs of the command and the functions of `redraft` share: from a checked recipe to the result."""

import contextlib
from pathlib import Path

from redraft.rl.cluster.backend import local_pipeline
from redraft.rl.config.recipe import RecipeError
from redraft.rl.config.schema import RunConfig
from redraft.rl.data.codec import Codec
from redraft.rl.data.held_out import load_held_out
from redraft.rl.files import check_output_folder
from redraft.rl.models.registry import load_policy, load_text_side
from redraft.rl.monitor.trackers import open_trackers
from redraft.rl.preflight.checks import check_evaluation
from redraft.rl.run import RunOutcome, run_sft, run_training
from redraft.rl.run_folder.checkpoint import complete_checkpoints
from redraft.rl.run_folder.recorder import Display, Recorder
from redraft.rl.stages.evaluate import evaluate_rows
from redraft.rl.stages.warm_start import policy_folder
from redraft.rollout.engine.torch_engine import store_by_input


def train_recipe(config: RunConfig, display: Display, resume: bool) -> RunOutcome:
    """Train as the recipe says, with its trackers.

    Args:
        config: The recipe.
        display: Shows the progress.
        resume: Continue from the newest complete checkpoint of `output_dir`.

    Raises:
        OSError: The run folder cannot be made.
        Exception: As `rl.run.run_training`.
    """
    check_output_folder(config.output_dir)
    with contextlib.closing(Recorder(config, display, open_trackers(config))) as recorder:
        return run_training(config, recorder, resume)


def warm_start_recipe(config: RunConfig, display: Display) -> Path:
    """Run only the recipe's warm start.

    Returns:
        The folder of its policy.
    """
    check_output_folder(config.output_dir)
    return run_sft(config, Recorder(config, display))


def policy_to_evaluate(config: RunConfig) -> Path:
    """Find the run's newest policy: that of the newest complete checkpoint, else the first one.

    Raises:
        FileNotFoundError: There is none yet.
    """
    saved, first = complete_checkpoints(Path(config.output_dir)), policy_folder(config)
    if not (saved or first.is_dir()):
        raise FileNotFoundError(
            f"{first}: no policy there; make it with redraft sft or train, or name one with --model"
        )
    return saved[-1] / "hf" if saved else first


def evaluate_policy(config: RunConfig, policy: str | Path) -> dict[str, float]:
    """Measure a policy on the held-out rows with the recipe's evaluation settings, in this process.

    Args:
        config: The recipe.
        policy: A policy folder.

    Returns:
        Metrics as in `rl.stages.evaluate.evaluate_rows`.

    Raises:
        RecipeError: The recipe has no evaluation section.
    """
    check_has_evaluation(config)
    assert config.evaluation is not None
    tokenizer, tokens = load_text_side(str(policy))
    rows = load_held_out(config)
    check_evaluation(config, rows, Path(policy))
    network = store_by_input(load_policy(str(policy), config.model.dtype, config.model.device))
    with local_pipeline(config, network, tokens, Codec(tokenizer, config.seed)) as pipeline:
        return evaluate_rows(pipeline, rows, config.evaluation.decode)


def check_has_evaluation(config: RunConfig, recipe: str = "the recipe") -> None:
    """Refuse a recipe that says nothing about evaluation; `recipe` is what the error calls it."""
    if config.evaluation is None:
        raise RecipeError(f"{recipe}: no evaluation section; add one with at least evaluation.data")
