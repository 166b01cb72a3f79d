"""Where the time of a decode goes: by operator of torch and by Python function."""

import cProfile
import pstats
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from rl.bench.decode_workload import Workload
from rl.bench.report import Section
from rollout.decoder import decode
from rollout.torch_engine import TorchEngine

COSTS = 15


def profile_decode(workload: Workload, slots: int) -> list[Section]:
    """The top costs of decoding the workload in S slots.

    Args:
        workload: Few prompts and short completions: profilers are slow.
        slots: S.
    """
    engine = TorchEngine(workload.model)

    def run() -> None:
        decode(engine, workload.prompts, workload.config, workload.tokens, slots)

    run()
    what = f"{workload.name}, {len(workload.prompts)} prompts, {workload.config.max_completion_length} new tokens"
    return [
        Section(f"Operators: {what}, S = {slots}", "torch.profiler, own time.", _HEAD, _operators(run, engine.device)),
        Section(f"Functions: {what}, S = {slots}", "cProfile, own time.", _HEAD, _functions(run)),
    ]


_HEAD = ("", "ms", "share", "calls")


def _operators(run: Callable[[], None], device: torch.device) -> list[list[str]]:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as recorded:
        run()

    def own_us(event: Any) -> float:
        return event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total

    return _table([(event.key, own_us(event) / 1e6, event.count) for event in recorded.key_averages()])


def _functions(run: Callable[[], None]) -> list[list[str]]:
    recorded = cProfile.Profile()
    recorded.runcall(run)
    stats: dict[tuple[str, int, str], Any] = pstats.Stats(recorded).stats  # pyright: ignore[reportAttributeAccessIssue]
    return _table([(_name(where), own_s, calls) for where, (_, calls, own_s, _, _) in stats.items()])


def _name(where: tuple[str, int, str]) -> str:
    path, line, function = where
    return function if path == "~" else f"{'/'.join(Path(path).parts[-2:])}:{line} {function}"


def _table(costs: list[tuple[str, float, int]]) -> list[list[str]]:
    """The largest costs, in seconds, with their share of all."""
    total = sum(seconds for _, seconds, _ in costs)
    largest = sorted(costs, key=lambda cost: -cost[1])[:COSTS]
    return [[name, f"{1000 * own:.1f}", f"{own / total:.1%}", str(calls)] for name, own, calls in largest]
