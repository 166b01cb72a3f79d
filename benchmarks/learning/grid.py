"""Many runs over many processes; each finished run is one line of a file, and is not run again."""

import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning.run import RunSpec, run_one
from benchmarks.learning.warm import WarmStart, ensure_warm_start
from redraft.rl.config.algorithm import AlgorithmConfig

Record = dict[str, Any]
FILE = "runs.jsonl"


@dataclass(frozen=True)
class Grid:
    """What is compared: every combination of these."""

    presets: tuple[str, ...]
    tasks: tuple[str, ...]
    modes: tuple[str, ...]
    rates: tuple[float, ...]
    seeds: int
    steps: int
    prompts: int = 8
    generations: int = 8

    def specs(self) -> list[RunSpec]:
        """The runs, seed by seed: an interrupted grid has every cell with fewer seeds, not some cells only."""
        return [
            RunSpec(preset, task, mode, rate, seed, self.steps, self.prompts, self.generations)
            for seed, rate, task, mode, preset in itertools.product(
                range(self.seeds), self.rates, self.tasks, self.modes, self.presets
            )
        ]


def run_grid(
    grid: Grid,
    algorithms: Mapping[str, AlgorithmConfig],
    starts: Mapping[str, WarmStart],
    runs: Path,
    workers: int,
    advance: Callable[[int, int], None],
) -> list[Record]:
    """Run what is not finished yet.

    Args:
        grid: The comparison.
        algorithms: What the grid's presets stand for.
        starts: Warm start of every task of the grid.
        runs: Folder of warm starts and finished runs.
        workers: Processes, one torch thread each.
        advance: Called with runs done and runs in total.

    Returns:
        The records of all runs of the grid, in its order.
    """
    runs.mkdir(parents=True, exist_ok=True)
    specs = grid.specs()
    done = _finished(specs, algorithms, starts, runs)
    advance(len(done), len(specs))
    waiting = [spec for spec in specs if spec not in done]
    if waiting:
        with _one_thread(), ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _prepare) as pool:
            tasks = dict.fromkeys(spec.task for spec in waiting)
            ready = {task: pool.submit(ensure_warm_start, starts[task], runs) for task in tasks}
            folders = {task: future.result() for task, future in ready.items()}
            jobs = {pool.submit(run_one, spec, algorithms[spec.preset], folders[spec.task]): spec for spec in waiting}
            for future in _as_they_finish(jobs):
                done[jobs[future]] = _keep(future.result(), folders, runs)
                advance(len(done), len(specs))
    return [done[spec] for spec in specs]


def _finished(
    specs: Sequence[RunSpec],
    algorithms: Mapping[str, AlgorithmConfig],
    starts: Mapping[str, WarmStart],
    runs: Path,
) -> dict[RunSpec, Record]:
    """Records of earlier runs with the same spec, warm start and algorithm; of several, the newest."""
    wanted = set(specs)
    policies = {task: start.folder(runs).name for task, start in starts.items()}
    done: dict[RunSpec, Record] = {}
    for record in read_records(runs):
        spec = RunSpec(**record["spec"])
        if spec not in wanted or record["warm_start"] != policies[spec.task]:
            continue
        if _is_same(record["algorithm"], algorithms[spec.preset].model_dump(mode="json")):
            done[spec] = record
    return done


def _is_same(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Settings that exist now and existed then are equal; one added since is taken to have a neutral default."""
    shared = [(then[name], now[name]) for name in then.keys() & now.keys()]
    return all(
        _is_same(before, after) if isinstance(before, Mapping) and isinstance(after, Mapping) else before == after
        for before, after in shared
    )


def read_records(runs: Path) -> list[Record]:
    """All finished runs in a folder, oldest first; the line that a kill cut short is left out."""
    path = runs / FILE
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def _keep(record: Record, folders: Mapping[str, Path], runs: Path) -> Record:
    kept = {**record, "warm_start": folders[record["spec"]["task"]].name}
    with (runs / FILE).open("a") as file:
        file.write(json.dumps(kept) + "\n")
    return kept


def _as_they_finish(jobs: Mapping[Future[Record], RunSpec]) -> Iterator[Future[Record]]:
    """Finished jobs; the first one that fails ends the rest."""
    pending = set(jobs)
    try:
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from finished
    finally:
        for job in pending:
            job.cancel()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that start in here have one OpenMP thread: more would wait for each other."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)


def _prepare() -> None:
    torch.set_num_threads(1)
