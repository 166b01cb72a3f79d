"""Timed decodes of `python -m benchmarks decode`, and the figures that are made of them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.decode.meter import Meter
from benchmarks.decode.naive import Row
from benchmarks.decode.packing import packing
from benchmarks.decode.workload import Workload
from redraft.rollout.trajectory import Prompt


class Run(NamedTuple):
    """One timed decode.

    Attributes:
        rows: What became of the prompts, in their order.
        seconds: All of it.
        meter: What the engine did.
        metered_s: Seconds of the decode that was metered.
    """

    rows: tuple[Row, ...]
    seconds: float
    meter: Meter
    metered_s: float


Way = Callable[[Workload, Sequence[Prompt]], Run]


@dataclass(frozen=True)
class Case:
    """A line of the table; where `way` is text, it says why there is nothing to measure."""

    name: str
    way: Way | str
    prompts: int
    slots: int = 1


def figures_of(case: Case, runs: Sequence[Run]) -> dict[str, Any]:
    """The figures of one way; of runs that were repeated the medians."""
    figures: dict[str, Any] = {"name": case.name, "prompts": case.prompts, "slots": case.slots}
    if isinstance(case.way, str):
        return {**figures, "missing": case.way}
    if not runs:
        return {**figures, "missing": "not run yet"}
    rows, meter = runs[0].rows, runs[0].meter
    num_tokens, steps = sum(len(row.tokens) for row in rows), [row.num_forwards for row in rows]
    seconds = statistics.median(run.seconds for run in runs)
    figures |= {
        "tokens": num_tokens,
        "forwards": sum(steps),
        "passes": meter.passes,
        "prefills": meter.prefills,
        "seconds": seconds,
        "seconds_of_runs": [run.seconds for run in runs],
        "tokens_per_s": num_tokens / seconds,
        "tokens_per_forward": num_tokens / sum(steps),
        "edits_per_token": sum(row.num_edits for row in rows) / num_tokens,
        "ms_per_pass": 1000 * seconds / meter.passes,
    }
    if meter.body_s:
        figures["shares"] = _shares(runs)
        figures["packing"] = packing(steps, case.slots, meter.passes)._asdict()
    return figures


def _shares(runs: Sequence[Run]) -> dict[str, float]:
    """Of the time of steps (prefills are none): body, head, and policy, which is all the rest."""
    steps = [run.metered_s - run.meter.prefill_s for run in runs]
    parts = {
        "body": [run.meter.body_s for run in runs],
        "head": [run.meter.head_s for run in runs],
        "policy": [run.metered_s - run.meter.model_s for run in runs],
    }
    return {
        name: statistics.median(part / step for part, step in zip(values, steps, strict=True))
        for name, values in parts.items()
    }
