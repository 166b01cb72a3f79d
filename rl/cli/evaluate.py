"""`redraft eval`."""

from typing import Annotated

import typer

from redraft.rl.cli.paths import home
from redraft.rl.cli.train import Overrides, Recipe, read_command


def evaluate(
    recipe: Recipe,
    overrides: Overrides = None,
    model: Annotated[
        str,
        typer.Option(
            parser=home,
            metavar="FOLDER",
            help="Policy folder; default: the run's newest checkpoint, or its first policy.",
        ),
    ] = "",
) -> None:
    """Held-out accuracy of a policy with the recipe's evaluation settings."""
    import contextlib
    from pathlib import Path

    from redraft.rewards.worker import LocalRewards
    from redraft.rl.cli.display import metrics_table
    from redraft.rl.config.recipe import RecipeError
    from redraft.rl.data.codec import Codec
    from redraft.rl.data.held_out import load_held_out
    from redraft.rl.experience.pipeline import Pipeline
    from redraft.rl.models.registry import load_rollout_policy, load_text_side
    from redraft.rl.preflight.checks import check_evaluation
    from redraft.rl.run_folder.checkpoint import complete_checkpoints
    from redraft.rl.stages.evaluate import evaluate as run_evaluation
    from redraft.rl.stages.warm_start import policy_folder
    from redraft.rollout.worker import RolloutWorker

    config = read_command([recipe, *(overrides or [])])
    if config.evaluation is None:
        raise RecipeError(f"{recipe}: no evaluation section; add one with at least evaluation.data")
    saved, first = complete_checkpoints(Path(config.output_dir)), policy_folder(config)
    if not (model or saved or first.is_dir()):
        raise FileNotFoundError(
            f"{first}: no policy there; make it with redraft sft or train, or name one with --model"
        )
    path = model or str(saved[-1] / "hf" if saved else first)
    tokenizer, tokens = load_text_side(path)
    rows = load_held_out(config)
    check_evaluation(config, rows, Path(path))
    policy = load_rollout_policy(path, config.model.dtype, config.model.device)
    policy.version = 0
    rollouts = RolloutWorker(lambda: policy, tokens, config.rollout.limits)
    with contextlib.closing(LocalRewards(config.rewards)) as rewards:
        pipeline = Pipeline.of(config, rollouts, rewards, Codec(tokenizer, config.seed))
        metrics = run_evaluation(pipeline, rows, config.evaluation.decode)
    metrics_table(f"{path} on {config.evaluation.data.path} ({config.evaluation.data.split})", metrics)
