"""Where the time of a decode goes: by operator of torch and by Python function."""

import cProfile
import pstats
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.common.policies import decode
from benchmarks.common.report import Section
from benchmarks.decode.workload import Workload
from redraft.rollout.engine.torch_engine import TorchEngine

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
        Section(
            f"Operators: {what}, S = {slots}", "torch.profiler, own time.", _HEAD, _table(costs_of(run, engine.device))
        ),
        Section(f"Functions: {what}, S = {slots}", "cProfile, own time.", _HEAD, _functions(run)),
    ]


_HEAD = ("", "ms", "share", "calls")


class Cost(NamedTuple):
    """What one kernel, operator or function took: its own seconds, in so many calls."""

    name: str
    seconds: float
    calls: int


def costs_of(run: Callable[[], Any], device: torch.device) -> list[Cost]:
    """All costs of a call, the largest first: kernels by name on a GPU, operators of torch elsewhere.

    On a GPU torch books a kernel's time under the operator that launched it and under the kernel's own name; and a
    kernel that a graph launched under its name alone. Hence only kernels count.
    """
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as recorded:
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
    events: list[Any] = list(recorded.key_averages())
    if on_gpu:
        found = [
            Cost(event.key, event.self_device_time_total / 1e6, event.count)
            for event in events
            if event.device_type == DeviceType.CUDA
        ]
    else:
        found = [Cost(event.key, event.self_cpu_time_total / 1e6, event.count) for event in events]
    return _largest(found)


def _functions(run: Callable[[], None]) -> list[list[str]]:
    recorded = cProfile.Profile()
    recorded.runcall(run)
    stats: dict[tuple[str, int, str], Any] = pstats.Stats(recorded).stats  # pyright: ignore[reportAttributeAccessIssue]
    return _table(_largest([Cost(_name(where), own, calls) for where, (_, calls, own, _, _) in stats.items()]))


def _name(where: tuple[str, int, str]) -> str:
    path, line, function = where
    return function if path == "~" else f"{'/'.join(Path(path).parts[-2:])}:{line} {function}"


def _largest(costs: list[Cost]) -> list[Cost]:
    return sorted(costs, key=lambda cost: -cost.seconds)


def _table(costs: list[Cost]) -> list[list[str]]:
    """The largest costs, in ms, with their share of all."""
    total = sum(cost.seconds for cost in costs)
    return [
        [cost.name, f"{1000 * cost.seconds:.1f}", f"{cost.seconds / total:.1%}", str(cost.calls)]
        for cost in costs[:COSTS]
    ]
