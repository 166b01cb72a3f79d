"""`redraft doctor`: what is here, what is not, and what to do about it."""

from typing import Annotated

import typer

from redraft.rl.cli.paths import complete_recipe
from redraft.rl.cli.train import Overrides


def doctor(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE", autocompletion=complete_recipe, help="A recipe, to look at what it needs as well."
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: name, state, text and remedy of each.")] = False,
) -> None:
    """Look at packages, GPUs, sandbox, Ray, disk and hub; exit with 1 only if the recipe needs what is missing."""
    import json
    from dataclasses import asdict

    from redraft.rl.config.recipe import load_words
    from redraft.rl.preflight.doctor import examine

    words = [recipe, *(overrides or [])] if recipe else []
    diagnoses = []
    for diagnosis in examine(load_words(words) if words else None):
        diagnoses.append(diagnosis)
        if not as_json:
            typer.echo(f"{diagnosis.state:<8} {diagnosis.name}: {diagnosis.text}")
            if diagnosis.remedy and diagnosis.state != "ok":
                typer.echo(f"         -> {diagnosis.remedy}")
    missing = [diagnosis.name for diagnosis in diagnoses if diagnosis.state == "missing"]
    if as_json:
        found = [asdict(diagnosis) for diagnosis in diagnoses]
        typer.echo(json.dumps({"schema": 1, "recipe": words, "missing": missing, "diagnoses": found}, indent=1))
    elif missing:
        typer.echo(f"{recipe} needs what is missing: {', '.join(missing)}")
    if missing:
        raise typer.Exit(1)
