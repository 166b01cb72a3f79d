"""`redraft plan`: what a recipe needs, before anything runs."""

from typing import Annotated

import typer

from redraft.rl.cli.train import Overrides, Recipe


def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs, on all nodes; default: those of this machine.")] = None,
    card_gib: Annotated[
        float | None, typer.Option(min=1, help="Memory of one GPU, in GiB; default: 79.6, a card sold as 80 GB.")
    ] = None,
    gpus_per_node: Annotated[int | None, typer.Option(min=1, help="GPUs that NVLink joins; default: 8.")] = None,
    bandwidth: Annotated[float, typer.Option(min=0.001, help="GB/s that a GPU sends inside its node.")] = 450.0,
    network_bandwidth: Annotated[float, typer.Option(min=0.001, help="GB/s that a GPU sends to other nodes.")] = 50.0,
    memory_bandwidth: Annotated[float, typer.Option(min=0.001, help="GB/s between a GPU and its memory.")] = 3350.0,
    tflops: Annotated[float, typer.Option(min=0.001, help="Tflop/s that a GPU reaches in bfloat16.")] = 400.0,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Mean tokens of a prompt.")] = 256,
    completion_tokens: Annotated[
        int | None, typer.Option(min=1, help="Mean tokens of a completion; default: the longest that is allowed.")
    ] = None,
    tokens_per_forward: Annotated[
        float, typer.Option(min=0.01, help="Tokens that a forward of the decoder writes.")
    ] = 3.0,
    imbalance: Annotated[
        float | None, typer.Option(min=1, help="Rows of the busiest expert-parallel rank over the mean; default: 2.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, see docs/scale.md.")] = False,
) -> None:
    """Compute memory, placement, batch and step time of a recipe; exit with 1 if it does not fit."""
    import json
    from dataclasses import replace

    from redraft.rl.config.recipe import load_words
    from redraft.rl.models.shape import find_shape
    from redraft.rl.plan import report
    from redraft.rl.plan.machine import choose_machine
    from redraft.rl.plan.plan import make_plan
    from redraft.rl.plan.setup import Assumptions

    words = [recipe, *(overrides or [])]
    config = load_words(words)
    rates = {
        "node_rate": bandwidth * 1e9,
        "network_rate": network_bandwidth * 1e9,
        "memory_rate": memory_bandwidth * 1e9,
        "flops": tflops * 1e12,
    }
    machine = replace(choose_machine(gpus, card_gib, gpus_per_node), **rates)
    assumed = Assumptions(prompt_tokens, completion_tokens, tokens_per_forward, imbalance)
    made = make_plan(config, find_shape(config.model.path, config.model.init, config.model.revision), machine, assumed)
    if as_json:
        typer.echo(json.dumps(report.as_json(made, words), indent=1))
    else:
        from redraft.rl.monitor.display import text_table

        typer.echo(report.heading(made, config.model.path or f"the policy of {recipe}"))
        for table in report.tables(made):
            text_table(table.title, table.header, table.rows, table.left)
        for line in report.closing(made):
            typer.echo(line)
    if not made.fits:
        raise typer.Exit(1)
