"""What the runs of a learning grid say: pure functions of their records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

Record = Mapping[str, Any]
SMOOTHING = 5  # steps


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its standard error (0 for a single seed)."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Of independent values."""
        return cls(fmean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0)


@dataclass(frozen=True)
class Scores:
    """One preset at one rate in one cell (task and decode mode).

    Attributes:
        areas: Area under the training reward per seed, i.e. its mean over steps.
        best: Highest smoothed training reward of a run.
        final: Smoothed training reward at its end.
        held_out: Sampled reward on held-out problems at the end; 0 for a run that failed.
        tokens_per_forward: Smoothed, at the start, in the middle and at the end of a run.
        forwards: Composite forwards with a gradient per completion, and without one.
        alarms: Share of runs in which the collapse alarm fired.
    """

    areas: tuple[float, ...]
    best: Estimate
    final: Estimate
    held_out: Estimate
    tokens_per_forward: tuple[float, float, float]
    forwards: tuple[float, float]
    alarms: float

    @property
    def area(self) -> Estimate:
        """Over the seeds."""
        return Estimate.of(self.areas)


@dataclass(frozen=True)
class Standing:
    """One preset in one cell, at its best rate.

    Attributes:
        preset: Its name.
        rate: The rate with the largest mean area.
        scores: At that rate.
        rank: 1 for the largest area.
        gap: The best preset's area minus this one's, by seed: all start from one policy and see the same prompts.
        tied: The one-standard-error rule: the mean gap is at most the standard error of the first preset's area.
        tied_paired: The stricter one: the mean gap is at most its own standard error.
        hotter_rate: The next higher rate of the grid; None where the best one is the highest.
        hotter: Area there.
        hotter_rank: Among all presets that have one; the last is the worst.
    """

    preset: str
    rate: float
    scores: Scores
    rank: int
    gap: Estimate
    tied: bool
    tied_paired: bool
    hotter_rate: float | None
    hotter: Estimate | None
    hotter_rank: int | None


def area(record: Record) -> float:
    """Mean training reward over the steps asked for; steps that a failed run did not reach count 0."""
    return sum(record["curves"].get("reward", [])) / record["spec"]["steps"]


def smoothed(values: Sequence[float], window: int = SMOOTHING) -> list[float]:
    """Means of every `window` successive values (of all of them where there are fewer)."""
    size = min(window, len(values))
    return [fmean(values[start : start + size]) for start in range(len(values) - size + 1)] if values else []


def scores(records: Sequence[Record]) -> Scores:
    """Statistics of runs that differ in their seed only, in the order of the seeds."""
    ordered = sorted(records, key=lambda record: record["spec"]["seed"])
    rewards = [smoothed(record["curves"].get("reward", [])) or [0.0] for record in ordered]
    parallel = [smoothed(record["curves"].get("tokens_per_forward", [])) or [0.0] for record in ordered]
    return Scores(
        areas=tuple(area(record) for record in ordered),
        best=Estimate.of([max(curve) for curve in rewards]),
        final=Estimate.of([0.0 if r["failed"] else curve[-1] for r, curve in zip(ordered, rewards, strict=True)]),
        held_out=Estimate.of([(record["held_out"] or {"sampled": 0.0})["sampled"] for record in ordered]),
        tokens_per_forward=(
            fmean(curve[0] for curve in parallel),
            fmean(curve[len(curve) // 2] for curve in parallel),
            fmean(curve[-1] for curve in parallel),
        ),
        forwards=(
            fmean(record["forwards"]["learn"] for record in ordered),
            fmean(record["forwards"]["score"] for record in ordered),
        ),
        alarms=fmean(float(record["alarm"] is not None) for record in ordered),
    )


def cells(records: Sequence[Record]) -> dict[tuple[str, str], dict[str, dict[float, Scores]]]:
    """Scores by (task, mode), then preset, then rate in ascending order."""
    grouped: dict[tuple[str, str], dict[str, dict[float, list[Record]]]] = {}
    for record in records:
        spec = record["spec"]
        cell = grouped.setdefault((spec["task"], spec["mode"]), {})
        cell.setdefault(spec["preset"], {}).setdefault(spec["rate"], []).append(record)
    return {
        cell: {preset: {rate: scores(rates[rate]) for rate in sorted(rates)} for preset, rates in presets.items()}
        for cell, presets in grouped.items()
    }


def standings(cell: Mapping[str, Mapping[float, Scores]]) -> list[Standing]:
    """The presets of one cell, each at its best rate, the largest area first."""
    rate_of = {preset: max(rates, key=lambda rate: rates[rate].area.mean) for preset, rates in cell.items()}
    best_scores = {preset: cell[preset][rate] for preset, rate in rate_of.items()}
    order = sorted(best_scores, key=lambda preset: -best_scores[preset].area.mean)
    hotter_rates = {
        preset: min((r for r in cell[preset] if r > rate), default=None) for preset, rate in rate_of.items()
    }
    hotter = {preset: cell[preset][rate].area for preset, rate in hotter_rates.items() if rate is not None}
    hotter_order = sorted(hotter, key=lambda preset: -hotter[preset].mean)
    first = best_scores[order[0]]
    result = []
    for rank, preset in enumerate(order, start=1):
        gap = Estimate.of([ours - own for ours, own in zip(first.areas, best_scores[preset].areas, strict=True)])
        result.append(
            Standing(
                preset=preset,
                rate=rate_of[preset],
                scores=best_scores[preset],
                rank=rank,
                gap=gap,
                tied=gap.mean <= first.area.error,
                tied_paired=gap.mean <= gap.error,
                hotter_rate=hotter_rates[preset],
                hotter=hotter.get(preset),
                hotter_rank=hotter_order.index(preset) + 1 if preset in hotter else None,
            )
        )
    return result
