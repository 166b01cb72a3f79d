"""`redraft train` and `redraft sft`."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from redraft.rl.config.schema import RunConfig

Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe, e.g. recipes/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Changes, e.g. trainer.learning_rate=1e-4, or further recipes."),
]


def train(
    recipe: Recipe,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option(help="Continue from the newest complete checkpoint.")] = False,
) -> None:
    """Train a policy with RL; makes the warm start first when its checkpoint is not there yet."""
    import contextlib
    import shlex

    from redraft.rl.cli.display import open_display
    from redraft.rl.files import check_output_folder

    words = [recipe, *(overrides or [])]
    config = read_command(words)
    check_output_folder(config.output_dir)
    with open_display(config) as display:
        from redraft.rl.monitor.trackers import open_trackers
        from redraft.rl.run import run_training
        from redraft.rl.run_folder.recorder import Recorder

        recorder = Recorder(config, display, open_trackers(config))
        try:
            outcome = run_training(config, recorder, resume)
        finally:
            recorder.close()
    with contextlib.suppress(OSError):  # nobody may be there to read it: a closed terminal stops a run too
        display.summary(recorder.run)
        if outcome.stopped:
            typer.echo(f"stopped after step {outcome.steps}; continue with: redraft train {shlex.join(words)} --resume")
    if outcome.stopped:
        raise typer.Exit(130)


def sft(recipe: Recipe, overrides: Overrides = None) -> None:
    """Run only the supervised warm start of a recipe."""
    from redraft.rl.cli.display import open_display
    from redraft.rl.files import check_output_folder

    config = read_command([recipe, *(overrides or [])])
    check_output_folder(config.output_dir)
    with open_display(config) as display:
        from redraft.rl.run import run_sft
        from redraft.rl.run_folder.recorder import Recorder

        folder = run_sft(config, Recorder(config, display))
    typer.echo(f"policy written to {folder}")


def read_command(words: list[str]) -> "RunConfig":
    """The recipe of a command line: YAML files merged left to right, then the `key.sub=value` words."""
    import os

    from redraft.rl.config.recipe import load_recipe

    further = [word for word in words[1:] if word.endswith((".yaml", ".yml"))]
    files = [word for word in further if "=" not in word or os.path.isfile(word)]
    return load_recipe([words[0], *files], [word for word in words[1:] if word not in files])
