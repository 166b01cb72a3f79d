"""`redraft recipes`: what is installed, how it reads, and a copy to change."""

from typing import Annotated

import typer

from redraft.rl.cli.paths import complete_recipe, home

app = typer.Typer(
    name="recipes", help="List, show and copy the built-in recipes.", no_args_is_help=True, rich_markup_mode=None
)
Name = Annotated[
    str,
    typer.Argument(metavar="NAME", autocompletion=complete_recipe, help="A name that `redraft recipes list` shows."),
]


@app.command(name="list")
def list_recipes() -> None:
    """List the built-in recipes, and the examples that change one: `redraft train quickstart short_answer`."""
    from redraft.rl.config.places import GROUPS, built_in

    for group in GROUPS:
        typer.echo(f"{group}:")
        found = built_in(group)
        width = max(map(len, found), default=0)
        for name, path in found.items():
            typer.echo(f"  {name:<{width}}  {_about(path.read_text())}".rstrip())


@app.command()
def show(name: Name) -> None:
    """Print a built-in recipe."""
    from redraft.rl.config.places import find_built_in

    typer.echo(find_built_in(name).read_text(), nl=False)


@app.command()
def copy(
    name: Name,
    to: Annotated[
        str, typer.Argument(parser=home, metavar="DEST", help="A folder, or a file that ends in .yaml.")
    ] = ".",
) -> None:
    """Copy a built-in recipe and the files that it names, such as its reward; never over a file that is there."""
    from redraft.rl.config.places import copy_recipe, find_built_in

    for path in copy_recipe(find_built_in(name), to):
        typer.echo(f"written: {path}")


def _about(text: str) -> str:
    """Return the first line of the comment at the top of a recipe."""
    first = text.partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
