"""Several rewards on the same completions: each part recorded, one weighted sum for the learner."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rewards.call import BATCH_ARGUMENTS
from rewards.result import RewardError, Verdict
from rewards.reward import RewardTerm
from rewards.runner import ConfiguredReward


@dataclass(frozen=True)
class Sample:
    """One completion to score: prompt and completion as text or messages, token ids, and its data columns."""

    prompt: Any
    completion: Any
    completion_ids: Sequence[int] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """Scores of one completion.

    Attributes:
        total: Weighted sum of the parts; None when the sample is masked.
        parts: Score by reward name; None where that reward does not apply.
        status: `rewards.result.Status` by reward name.
        detail: What the reward had to say, by reward name; "" for nothing.
    """

    total: float | None
    parts: Mapping[str, float | None]
    status: Mapping[str, str]
    detail: Mapping[str, str]


class RewardMixture:
    """Scores samples with a weighted sum of rewards. Thread-safe; blocks while it scores.

    Args:
        terms: The rewards, with distinct names and at least one weight that is not 0.
    """

    def __init__(self, terms: Sequence[RewardTerm]) -> None:
        """Check the terms and prepare their runners; processes start with `start` or the first `score`.

        Raises:
            RewardError: No term, a repeated name, only zero weights, or a function that cannot be found.
        """
        names = Counter(term.name for term in terms)
        repeated = [name for name, count in names.items() if count > 1]
        if repeated:
            raise RewardError(f"two rewards are named {repeated[0]!r}; give each term its own name")
        if not any(term.weight for term in terms):
            raise RewardError("a mixture needs at least one reward with a weight other than 0")
        self._rewards = tuple(ConfiguredReward(term) for term in terms)

    def start(self) -> None:
        """Start the worker processes and import every reward, so that a broken one is known before the first step."""
        for reward in self._rewards:
            reward.start()

    def score(self, samples: Sequence[Sample]) -> list[Scored]:
        """Score samples, in order.

        Raises:
            RewardError: A reward failed; see `ConfiguredReward.score`.
        """
        if not samples:
            return []
        batch = _as_batch(samples)
        names = [reward.term.name for reward in self._rewards]
        columns = [reward.score(batch) for reward in self._rewards]
        return [self._combine(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]

    def close(self) -> None:
        """Kill the worker processes of the terms; a later `score` starts new ones."""
        for reward in self._rewards:
            reward.close()

    def __enter__(self) -> "RewardMixture":
        """Enter a block that closes the mixture at its end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the mixture."""
        self.close()

    def _combine(self, verdicts: Mapping[str, Verdict]) -> Scored:
        weights = [reward.term.weight for reward in self._rewards]
        return Scored(
            total=weighted_sum([verdict.score for verdict in verdicts.values()], weights),
            parts={name: verdict.score for name, verdict in verdicts.items()},
            status={name: str(verdict.status) for name, verdict in verdicts.items()},
            detail={name: verdict.detail for name, verdict in verdicts.items()},
        )


def weighted_sum(scores: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """Sum of weight times score over the rewards that apply.

    Args:
        scores: One score per reward; None where the reward does not apply.
        weights: One weight per reward; 0 keeps a reward out of the sum.

    Returns:
        The sum; None when no reward with a weight other than 0 applies.
    """
    applied = [weight * score for weight, score in zip(weights, scores, strict=True) if weight and score is not None]
    return math.fsum(applied) if applied else None


def status_counts(scored: Sequence[Scored]) -> dict[str, dict[str, int]]:
    """How often each status occurred, by reward name."""
    counts: dict[str, Counter[str]] = {}
    for sample in scored:
        for name, status in sample.status.items():
            counts.setdefault(name, Counter())[status] += 1
    return {name: dict(counter) for name, counter in counts.items()}


def _as_batch(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    """TRL's layout: one list per argument; None where a sample lacks a column that others have."""
    columns = dict.fromkeys(name for sample in samples for name in sample.columns)
    reserved = [name for name in BATCH_ARGUMENTS if name in columns]
    if reserved:
        raise RewardError(f"the data has a column {reserved[0]!r}, a name that rewards get from the rollout; rename it")
    return {
        "prompts": [sample.prompt for sample in samples],
        "completions": [sample.completion for sample in samples],
        "completion_ids": [sample.completion_ids for sample in samples],
        **{name: [sample.columns.get(name) for sample in samples] for name in columns},
    }
