"""Detect a collapse: the reward falls while the policy grows more confident.

Example with `AlarmConfig()`: the reward fell from 0.80 to 0.60 between two windows of 5 batches, its standard deviation
over completions was 0.40, and tokens per forward rose from 2.0 to 2.5. The fall of 0.20 exceeds 0.25 * 0.40, and the
rise of 25 % exceeds 15 %. So the alarm fires, provided that both exceed the noise of the last 40 batches.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

REWARD, SPREAD = "reward/mean", "reward/std"
# The two measures of confidence, and whether a collapse raises (+1) or lowers (-1) them.
SIGNS = {"decode/tokens_per_forward": 1, "objective/entropy": -1}
LABELS = {"decode/tokens_per_forward": "tokens per forward", "objective/entropy": "entropy"}


class CollapseError(RuntimeError):
    """The run was stopped by the alarm; its message says what rose and what fell."""


@dataclass(frozen=True)
class AlarmConfig:
    """When the alarm fires.

    Attributes:
        window: Batches that are averaged.
        history: Batches that the alarm looks back on.
        reward_drop: Fall of the reward, in standard deviations of the reward over completions.
        confidence_rise: Rise of tokens per forward, or fall of the entropy, relative to before.
        noise: Both must also exceed this many standard errors of a difference of two windows' means.
    """

    window: int = 5
    history: int = 40
    reward_drop: float = 0.25
    confidence_rise: float = 0.15
    noise: float = 4.0

    def __post_init__(self) -> None:
        if not 1 <= self.window <= self.history // 2:
            raise ValueError(f"window must be in 1 to history // 2 = {self.history // 2}, got {self.window}")


class CollapseAlarm:
    """Watch the metrics of one run, batch by batch. The alarm forgets them when it fires, so it does not fire twice.

    The last window is compared with the earlier window of the history that had the highest reward. Noise is measured
    on the differences of successive steps, which a trend hardly touches.

    Checkpoints keep its `steps`, so a run that is often interrupted has the same history as one that is not.
    """

    def __init__(self, config: AlarmConfig, steps: Iterable[Mapping[str, float]] = ()) -> None:
        self.config = config
        self.steps: deque[Mapping[str, float]] = deque(steps, maxlen=config.history)

    def observe(self, metrics: Mapping[str, float]) -> str | None:
        """Take in the metrics of one batch.

        Args:
            metrics: Those that are missing are not watched.

        Returns:
            What fell and what rose, as a sentence, or None while nothing is wrong.
        """
        if REWARD not in metrics:
            return None
        self.steps.append({name: metrics[name] for name in (REWARD, SPREAD, *SIGNS) if name in metrics})
        finding = find_collapse(self.steps, self.config)
        if finding:
            self.steps.clear()
        return finding


def find_collapse(steps: Sequence[Mapping[str, float]], config: AlarmConfig) -> str | None:
    """Judge the last batches of a run; see `AlarmConfig`.

    Args:
        steps: Metrics, oldest first; at most `config.history` of them.
        config: Thresholds.

    Returns:
        What fell and what rose, or None.
    """
    history, size = list(steps), config.window
    if len(history) < 2 * size:
        return None
    rewards = [batch[REWARD] for batch in history]
    starts = range(len(history) - 2 * size + 1)
    best = max(starts, key=lambda start: fmean(rewards[start : start + size]))
    then, now = history[best : best + size], history[-size:]
    before, after = fmean(rewards[best : best + size]), fmean(rewards[-size:])
    spread = fmean(batch.get(SPREAD, 0.0) for batch in then)
    if before - after <= max(config.reward_drop * spread, config.noise * _standard_error(rewards, size)):
        return None
    risen = [text for name in SIGNS if (text := _rise(name, history, then, now, config))]
    if not risen:
        return None
    told = f"reward fell from {before:.3g} to {after:.3g} while {' and '.join(risen)}"
    return f"{told}, within {len(history) - best} steps"


def _rise(
    name: str,
    history: Sequence[Mapping[str, float]],
    then: Sequence[Mapping[str, float]],
    now: Sequence[Mapping[str, float]],
    config: AlarmConfig,
) -> str | None:
    """Say how a measure of confidence moved, if it says that confidence rose."""
    if not all(name in batch for batch in history):
        return None
    before, after = fmean(batch[name] for batch in then), fmean(batch[name] for batch in now)
    limit = max(
        config.confidence_rise * abs(before),
        config.noise * _standard_error([batch[name] for batch in history], config.window),
    )
    if SIGNS[name] * (after - before) <= limit:
        return None
    return f"{LABELS[name]} {'rose' if after > before else 'fell'} from {before:.3g} to {after:.3g}"


def _standard_error(values: Sequence[float], window: int) -> float:
    """Standard error of a difference of two windows' means: sqrt(2 Var / window), Var = E[d^2] / 2 of differences d."""
    squares = [(after - before) ** 2 for before, after in itertools.pairwise(values)]
    return (fmean(squares) / window) ** 0.5
