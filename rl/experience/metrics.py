"""Measure the rewards of one batch: level, spread, failures and cost."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, pstdev

import numpy as np

from redraft.rewards.result import SampleScore, Status, Verdict
from redraft.rewards.scoring.combine import is_failure
from redraft.rewards.scoring.mixture import status_counts
from redraft.rollout.trajectory import Prompt

REWARD = "reward/mean"
MASKED_STEPS = 3


def reward_metrics(prompts: Sequence[Prompt], scored: Sequence[SampleScore]) -> dict[str, float]:
    """Measure means per part and in total, shares of each status, latencies, and the share of groups without contrast.

    A batch whose completions are all masked has no `reward/mean`.
    """
    totals = [one.total for one in scored if one.total is not None]
    metrics = {
        "reward/masked_fraction": 1 - len(totals) / len(scored),
        "reward/timeout_fraction": _share(scored, lambda verdict: verdict.status == Status.TIMEOUT),
        "reward/failed_fraction": _share(scored, is_failure),
    }
    if totals:
        groups: dict[int, set[float]] = {}
        for prompt, one in zip(prompts, scored, strict=True):
            if one.total is not None:
                groups.setdefault(prompt.group, set()).add(one.total)
        metrics |= {
            REWARD: fmean(totals),
            "reward/std": pstdev(totals),
            "reward/unshaped_mean": fmean(one.unshaped for one in scored if one.unshaped is not None),
            "reward/zero_std_fraction": fmean(float(len(values) == 1) for values in groups.values()),
        }
    for name in scored[0].verdicts:
        metrics |= {f"rewards/{name}/{key}": value for key, value in _part_metrics(scored, name).items()}
    for name, counts in status_counts(scored).items():
        metrics |= {f"rewards/{name}/{status}_fraction": count / len(scored) for status, count in counts.items()}
    return metrics | _slowest(scored)


def _share(scored: Sequence[SampleScore], holds: Callable[[Verdict], bool]) -> float:
    """Share of the completions for which at least one verdict `holds`."""
    return fmean(float(any(map(holds, one.verdicts.values()))) for one in scored)


def _part_metrics(scored: Sequence[SampleScore], name: str) -> dict[str, float]:
    verdicts = [one.verdicts[name] for one in scored]
    metrics: dict[str, float] = {}
    known = [verdict.score for verdict in verdicts if verdict.score is not None]
    if known:
        metrics |= {"mean": fmean(known), "std": pstdev(known)}
    own: dict[str, list[float]] = {}
    for verdict in verdicts:
        for key, value in verdict.metrics.items():
            own.setdefault(key, []).append(value)
    metrics |= {key: fmean(values) for key, values in own.items()}
    times = [verdict.ms for verdict in verdicts if verdict.ms is not None]
    if times:
        p50, p95 = np.percentile(times, [50, 95]).tolist()
        metrics |= {"ms_p50": p50, "ms_p95": p95, "ms_max": max(times)}
    return metrics


def _slowest(scored: Sequence[SampleScore]) -> dict[str, float]:
    """Find the completion that took longest to score: its time, and its line in the batch's samples file from 0."""
    times = [max((verdict.ms or 0.0 for verdict in one.verdicts.values()), default=0.0) for one in scored]
    return {"reward/slowest_ms": max(times), "reward/slowest_row": float(times.index(max(times)))}


class MaskedSteps:
    """Count consecutive batches without a single score, and give up after `limit` of them.

    A judge that is down for a moment does not end a run. One that stays down does.
    """

    def __init__(self, limit: int = MASKED_STEPS, count: int = 0) -> None:
        self.limit, self.count = limit, count

    def observe(self, metrics: Mapping[str, float], scored: Sequence[SampleScore]) -> str | None:
        """Count one batch.

        Returns:
            A warning, or None for a batch with scores.

        Raises:
            ValueError: The limit is reached.
        """
        self.count = 0 if REWARD in metrics else self.count + 1
        if not self.count:
            return None
        details = sorted({verdict.detail for one in scored for verdict in one.verdicts.values() if verdict.detail})
        told = "; ".join([f"all {len(scored)} completions of the step are masked: nothing to learn", *details[:3]])
        if self.count >= self.limit:
            raise ValueError(f"{told}; this was step {self.count} of that kind in a row")
        return told
