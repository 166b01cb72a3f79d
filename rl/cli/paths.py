"""Paths on the command line."""

from pathlib import Path

import typer


def home(text: str) -> str:
    """Replace `~` and `~user` with the home folder, which shells do not do in `--out=~/x`."""
    from redraft.rl.files import expand

    try:
        return str(expand(text)) if text.startswith("~") else text
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def home_path(path: str | Path) -> Path:
    """Do as `home`, for an option whose default is a path."""
    return Path(home(str(path)))


def tell(text: str, out: str | Path) -> None:
    """Print the closing sentence of a verb: on stderr where the rows go to stdout."""
    from redraft.rl.files import is_stdout

    typer.echo(text, err=is_stdout(out))


def complete_recipe(incomplete: str) -> list[str]:
    """Find the built-in recipes that a word on the command line may become; without one, shells complete files."""
    from redraft.rl.config.places import GROUPS, built_in

    return [name for group in GROUPS for name in built_in(group) if name.startswith(incomplete)]
