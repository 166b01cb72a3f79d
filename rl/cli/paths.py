"""Paths on the command line."""

from pathlib import Path

import typer


def home(text: str) -> str:
    """`~` and `~user` as home folders: shells leave them alone in `--out=~/x`."""
    from redraft.rl.files import expand

    try:
        return str(expand(text)) if text.startswith("~") else text
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def home_path(path: str | Path) -> Path:
    """As `home`; defaults come as paths."""
    return Path(home(str(path)))


def tell(text: str, out: str | Path) -> None:
    """The closing sentence of a verb: on stderr where its output goes to stdout."""
    from redraft.rl.files import is_stdout

    typer.echo(text, err=is_stdout(out))
