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
            metavar="FOLDER",
            help="Policy folder; default: the run's newest checkpoint, or its first policy.",
        ),
    ] = "",
) -> None:
    """Held-out accuracy of a policy with the recipe's evaluation settings."""
    from redraft.rl.config.recipe import load_words
    from redraft.rl.monitor.display import metrics_table
    from redraft.rl.verbs import check_has_evaluation, evaluate_policy, policy_to_evaluate

    config = load_words([recipe, *(overrides or [])])
    check_has_evaluation(config, recipe)
    assert config.evaluation is not None
    path = model or str(policy_to_evaluate(config))
    metrics = evaluate_policy(config, path)
    metrics_table(f"{path} on {config.evaluation.data.path} ({config.evaluation.data.split})", metrics)
