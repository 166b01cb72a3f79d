"""`python -m benchmarks learning`: choose the grid, run it, write what it says."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.common.report import write_report
from benchmarks.learning.algorithms import algorithms, read_variants
from benchmarks.learning.figure import draw
from benchmarks.learning.grid import Grid, Record, run_grid
from benchmarks.learning.report import markdown, record
from benchmarks.learning.run import MODES
from benchmarks.learning.tasks import TASKS
from benchmarks.learning.warm import WarmStart

RATES = (3e-4, 1e-3, 3e-3)
SHORT_SEEDS, LONG_SEEDS = 5, 8


@dataclass(frozen=True)
class Comparison:
    """What to compare and where to put it; an empty choice is all there is.

    Attributes:
        presets: Names of algorithms.
        tasks: Names of tasks.
        modes: Names of decode modes.
        rates: Learning rates.
        seeds: Per preset, task, mode and rate.
        steps: Batches of rollouts per run.
        forwards: Composite forwards per completion and update, for presets that let one choose.
        warm_steps: Optimizer steps of the warm starts.
        workers: Processes.
        runs: Folder of warm starts and finished runs.
        out: Folder of the report.
        variants: File of more algorithms, see `read_variants`; with it, only the presets that are named take part.
        name: Of the report's files.
    """

    presets: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    rates: tuple[float, ...] = ()
    seeds: int = SHORT_SEEDS
    steps: int = 50
    forwards: int = 2
    warm_steps: int = 1500
    workers: int = 2
    runs: Path = Path("runs/bench_learning")
    out: Path = Path("benchmarks/results")
    variants: Path | None = None
    name: str = "learning"


def compare(comparison: Comparison, advance: Callable[[int, int], None]) -> list[Record]:
    """Run the grid and write its report: NAME.json, NAME.md and NAME.png.

    Args:
        comparison: The choice.
        advance: Called with runs done and runs in total.

    Returns:
        The records of all runs of the grid.

    Raises:
        ValueError: A name is unknown.
    """
    own = read_variants(comparison.variants) if comparison.variants else {}
    known = own | algorithms(comparison.forwards)
    wanted = (*comparison.presets, *own) if own else comparison.presets
    grid = Grid(
        presets=_choose("preset", wanted, known),
        tasks=_choose("task", comparison.tasks, TASKS),
        modes=_choose("mode", comparison.modes, MODES),
        rates=tuple(sorted(set(comparison.rates or RATES))),
        seeds=comparison.seeds,
        steps=comparison.steps,
    )
    starts = {task: WarmStart(task, steps=comparison.warm_steps) for task in grid.tasks}
    records = run_grid(grid, known, starts, comparison.runs, comparison.workers, advance)
    cells = record(records)
    comparison.out.mkdir(parents=True, exist_ok=True)
    draw(cells, comparison.out / f"{comparison.name}.png")
    title = (
        f"Learning: {len(grid.presets)} algorithms, {grid.steps} steps of {grid.prompts} prompts x"
        f" {grid.generations} completions, {comparison.forwards} forwards per completion, {grid.seeds} seeds"
    )
    settings = {name: known[name].model_dump(mode="json") for name in grid.presets}
    seconds = sum(one["seconds"] for one in records)
    whole = {"grid": asdict(grid), "algorithms": settings, "cells": cells, "seconds_of_all_runs": round(seconds, 1)}
    write_report(comparison.out, comparison.name, whole, markdown(records, title, f"{comparison.name}.png"))
    return records


def _choose(kind: str, wanted: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    names = tuple(known)
    for name in wanted:
        if name not in names:
            raise ValueError(f"unknown {kind} {name!r}; valid: {', '.join(names)}")
    return tuple(dict.fromkeys(wanted)) or names
