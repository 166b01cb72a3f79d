"""What the verbs of the command and the functions of `redraft` share: from a checked recipe to the result."""

import contextlib
from pathlib import Path

from redraft.rl.cluster.backend import local_pipeline
from redraft.rl.config.recipe import RecipeError
from redraft.rl.config.schema import RunConfig
from redraft.rl.data.codec import Codec
from redraft.rl.data.held_out import load_held_out
from redraft.rl.files import check_output_folder, expand
from redraft.rl.models.registry import load_policy, load_text_side
from redraft.rl.monitor.trackers import open_trackers
from redraft.rl.preflight.checks import check_evaluation
from redraft.rl.run import RunOutcome, run_sft, run_training
from redraft.rl.run_folder.checkpoint import complete_checkpoints, find_policy
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


def evaluate_policy(
    config: RunConfig, policy: str | Path | None = None, recipe: str = "the recipe"
) -> tuple[Path, dict[str, float]]:
    """Measure a policy on the held-out rows with the recipe's evaluation settings, in this process.

    Args:
        config: The recipe.
        policy: A policy folder, or a run folder for its newest policy; without it the newest policy of the recipe.
        recipe: What errors call the recipe.

    Returns:
        The policy's folder, and metrics as in `rl.stages.evaluate.evaluate_rows`.

    Raises:
        RecipeError: The recipe has no evaluation section.
        FileNotFoundError: There is no policy.
    """
    if config.evaluation is None:
        raise RecipeError(f"{recipe}: no evaluation section; add one with at least evaluation.data")
    folder = _policy_to_evaluate(config) if policy is None else find_policy(expand(policy))
    tokenizer, tokens = load_text_side(str(folder))
    rows = load_held_out(config)
    check_evaluation(config, rows, folder)
    network = store_by_input(load_policy(str(folder), config.model.dtype, config.model.device))
    with local_pipeline(config, network, tokens, Codec(tokenizer, config.seed)) as pipeline:
        return folder, evaluate_rows(pipeline, rows, config.evaluation.decode)


def _policy_to_evaluate(config: RunConfig) -> Path:
    """Find the newest policy of the run; before its first checkpoint the one that it starts from."""
    run = Path(config.output_dir)
    if complete_checkpoints(run):
        return find_policy(run)
    first = policy_folder(config, "all")
    if first.is_dir():
        return first
    raise FileNotFoundError(
        f"{first}: no policy there; make it with redraft sft or train, or name one with --model (in Python policy=)"
    )
