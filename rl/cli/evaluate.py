"""`redraft eval`."""

from typing import Annotated

import typer

from redraft.rl.cli.paths import home
from redraft.rl.cli.train import Overrides, Recipe


def evaluate(
    recipe: Recipe,
    overrides: Overrides = None,
    model: Annotated[
        str,
        typer.Option(
            parser=home,
            metavar="MODEL",
            help="Policy folder, run folder (its newest policy), or owner/name of a model on the hub (@revision);"
            " default: that of the recipe's own run.",
        ),
    ] = "",
) -> None:
    """Measure the held-out accuracy of a policy with the recipe's evaluation settings."""
    from redraft.rl.config.recipe import load_words
    from redraft.rl.monitor.display import metrics_table
    from redraft.rl.verbs import evaluate_policy

    config = load_words([recipe, *(overrides or [])])
    policy, metrics = evaluate_policy(config, model or None, recipe)
    assert config.evaluation is not None  # refused above
    metrics_table(f"{policy} on {config.evaluation.data.path} ({config.evaluation.data.split})", metrics)
