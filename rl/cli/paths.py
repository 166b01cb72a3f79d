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
