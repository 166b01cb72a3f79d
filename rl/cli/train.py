"""`redraft train` and `redraft sft`."""

from typing import Annotated

import typer

from redraft.rl.cli.paths import complete_recipe

Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        autocompletion=complete_recipe,
        help="A built-in recipe by its name, e.g. quickstart (`redraft recipes list` shows all), or a YAML file, e.g."
        " ./mine.yaml.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY.SUB=VALUE", help="Changes, e.g. trainer.learning_rate=1e-4, or further recipes to merge."
    ),
]


def train(
    recipe: Recipe,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest complete checkpoint.")] = False,
) -> None:
    """Train a policy with RL; makes the warm start first when its checkpoint is not there yet."""
    import contextlib
    import shlex
    from pathlib import Path

    from redraft.rl.config.recipe import load_words
    from redraft.rl.monitor.display import open_display

    words = [recipe, *(overrides or [])]
    config = load_words(words)
    with open_display(config) as display:
        from redraft.rl.verbs import train_recipe

        outcome = train_recipe(config, display, resume)
    with contextlib.suppress(OSError):  # a closed terminal stops a run too, and then there is no place to print to
        display.summary(Path(config.output_dir))
        if outcome.stopped:
            typer.echo(f"stopped after step {outcome.steps}; continue with: redraft train {shlex.join(words)} --resume")
    if outcome.stopped:
        raise typer.Exit(130)


def sft(recipe: Recipe, overrides: Overrides = None) -> None:
    """Run only the supervised warm start of a recipe."""
    from redraft.rl.config.recipe import load_words
    from redraft.rl.monitor.display import open_display

    config = load_words([recipe, *(overrides or [])])
    with open_display(config) as display:
        from redraft.rl.verbs import warm_start_recipe

        folder = warm_start_recipe(config, display)
    typer.echo(f"policy written to {folder}")
