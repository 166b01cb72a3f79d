"""`python -m benchmarks`: benchmarks of Redraft itself. Each command imports its work when it runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from redraft.rl.cli.main import run_app
from redraft.rl.cli.paths import home_path

app = typer.Typer(
    name="benchmarks",
    help="Benchmarks of Redraft itself.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def bench() -> None:
    """Benchmarks of Redraft itself."""


@app.command()
def estimators(
    long: Annotated[bool, typer.Option("--long", help="More policies, draws and rollouts (half an hour).")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of fixtures, rollouts and noise.")] = 0,
    out: Annotated[
        Path,
        typer.Option(parser=home_path, metavar="FOLDER", help="Folder of estimators.json, .md and the PNGs."),
    ] = Path("benchmarks/results"),
) -> None:
    """Measure bias, variance and aim of every likelihood estimator against exact values."""
    from benchmarks.common.report import write_report
    from benchmarks.estimators.figures import draw_estimators
    from benchmarks.estimators.measure import LONG, SHORT, measure
    from benchmarks.estimators.tables import sections
    from redraft.rl.files import check_output_folder
    from redraft.rl.monitor.display import progress, text_table

    check_output_folder(out)
    with progress("estimators") as advance:
        record = measure(LONG if long else SHORT, seed, advance)
    figures = draw_estimators(record, out)
    tables = sections(record)
    images = "".join(f"![{name}]({name})\n\n" for name in figures)
    write_report(out, "estimators", record, "# Estimators\n\n" + "\n".join([*map(str, tables), images]))
    for table in tables:
        text_table(table.title, table.columns, table.rows)
    typer.echo(f"written to {out}: estimators.json, estimators.md, {', '.join(figures)}")


@app.command()
def learning(
    presets: Annotated[list[str] | None, typer.Option(help="Algorithm, repeatable; default: all.")] = None,
    tasks: Annotated[list[str] | None, typer.Option(help="Task, repeatable; default: all.")] = None,
    modes: Annotated[list[str] | None, typer.Option(help="Decode mode (q, s), repeatable; default: both.")] = None,
    rates: Annotated[list[float] | None, typer.Option(help="Learning rate, repeatable.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs per cell; default: 5, or 8 in the long form.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Batches of rollouts per run.")] = 50,
    forwards: Annotated[int, typer.Option(min=1, help="Composite forwards per completion and update.")] = 2,
    warm_steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of the warm starts.")] = 1500,
    long: Annotated[bool, typer.Option("--long", help="More seeds.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
    variants: Annotated[
        Path | None,
        typer.Option(
            parser=home_path, metavar="FILE", help="YAML file of algorithms of your own, to compare with --presets."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Of the report's files.")] = "learning",
    out: Annotated[
        Path, typer.Option(parser=home_path, metavar="FOLDER", help="Folder of NAME.json, .md and .png.")
    ] = Path("benchmarks/results"),
    runs: Annotated[
        Path,
        typer.Option(parser=home_path, metavar="FOLDER", help="Folder of finished runs; they are not run again."),
    ] = Path("runs/bench_learning"),
) -> None:
    """Compare algorithms by their learning curves at equal rollouts and forwards."""
    from benchmarks.learning.compare import LONG_SEEDS, SHORT_SEEDS, Comparison, compare
    from benchmarks.learning.report import BRIEF, brief_rows, cell_title, rate_rows
    from benchmarks.learning.summary import cells
    from redraft.rl.files import check_output_folder
    from redraft.rl.monitor.display import progress, text_table

    check_output_folder(out)
    check_output_folder(runs)
    comparison = Comparison(
        presets=tuple(presets or ()),
        tasks=tuple(tasks or ()),
        modes=tuple(modes or ()),
        rates=tuple(rates or ()),
        seeds=seeds or (LONG_SEEDS if long else SHORT_SEEDS),
        steps=steps,
        forwards=forwards,
        warm_steps=warm_steps,
        workers=workers,
        runs=runs,
        out=out,
        variants=variants,
        name=name,
    )
    with progress("runs (warm starts first)") as advance:
        records = compare(comparison, advance)
    for cell, found in cells(records).items():
        text_table(cell_title(cell), BRIEF, brief_rows(found))
        text_table("", *rate_rows(found))
    typer.echo(f"written to {out}: {name}.json, {name}.md, {name}.png")


@app.command()
def decode(
    sizes: Annotated[list[str] | None, typer.Option("--size", help="tiny or mid, repeatable; default: both.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="New tokens per prompt; default: 512, mini 256.")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of the cached ways.")] = 32,
    naive_prompts: Annotated[int, typer.Option(min=1, help="The first so many of them, without a cache too.")] = 2,
    slots: Annotated[list[int] | None, typer.Option(min=1, help="S, repeatable; default: 1, 8, 32; mini 64.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, or float64, which demands equal tokens.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    repeats: Annotated[int | None, typer.Option(min=1, help="Runs; medians are reported; default: 1, mini 3.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and prompts.")] = 0,
    profile: Annotated[
        bool, typer.Option("--profile", help="The top costs of a short decode instead; with --random-weights besides.")
    ] = False,
    rates: Annotated[
        list[float] | None,
        typer.Option(help="Of --random-weights: tokens per forward, repeatable; default: 1, 3, 5."),
    ] = None,
    random_weights: Annotated[
        str | None,
        typer.Option(help="mini: LLaDA2.1-mini's shape on a GPU, against memory bandwidth; tiny-mini: without a GPU."),
    ] = None,
    out: Annotated[
        Path, typer.Option(parser=home_path, metavar="FOLDER", help="Folder of the JSON, Markdown and PNG.")
    ] = Path("benchmarks/results"),
) -> None:
    """Measure the speed of every way of decoding on the same weights and prompts."""
    import torch

    from benchmarks.decode.floor import FloorPlan, measure_floor
    from benchmarks.decode.floor_report import keep_floor, publish_floor
    from benchmarks.decode.measure import Plan, measure, profile_size
    from benchmarks.decode.report import keep, publish
    from redraft.rl.files import check_output_folder
    from redraft.rl.models.registry import resolve_device
    from redraft.rl.monitor.display import progress, text_table

    check_output_folder(out)
    torch.set_num_threads(threads)
    note: str | None = None
    if random_weights is not None:
        floor = FloorPlan(
            random_weights,
            slots=tuple(slots or (1, 8, 64)),
            rates=tuple(rates or (1.0, 3.0, 5.0)),
            new_tokens=tokens or 256,
            repeats=repeats or 3,
            seed=seed,
            profile=profile,
        )
        record: dict[str, Any] = {}
        with progress("decodes") as advance:
            for record in measure_floor(floor):
                keep_floor(record, out)
                advance(len(record["cases"]), record["wanted"])
        tables, files, note = publish_floor(record, out)
    else:
        plan = Plan(
            sizes=tuple(sizes or ("tiny", "mid")),
            new_tokens=tokens or 512,
            prompts=prompts,
            naive_prompts=naive_prompts,
            slots=tuple(slots or (1, 8, 32)),
            dtype=dtype,
            device=str(resolve_device(device)),
            repeats=repeats or 1,
            seed=seed,
        )
        if profile:
            tables, files = [table for size in plan.sizes for table in profile_size(plan, size)], []
        else:
            with progress("decodes") as advance:
                record = measure(plan, advance, lambda found: keep(found, out))
            tables, files, note = publish(record, out)
    for table in tables:
        text_table(table.title, table.columns, table.rows)
        if table.note:
            typer.echo(f"{table.note}\n")
    if files:
        typer.echo(f"written to {out}: {', '.join(files)}")
    if note:
        typer.echo(note)


if __name__ == "__main__":
    run_app(app, "python -m benchmarks")
