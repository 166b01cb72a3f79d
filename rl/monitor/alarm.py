"""The collapse alarm: a policy that grows sure of itself while its reward falls is not learning the task any more."""

import itertools
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

REWARD, SPREAD = "reward/mean", "reward/std"
# What a collapse raises (+1) or lowers (-1): confidence by either of its two measures.
SIGNS = {"decode/tokens_per_forward": 1, "objective/entropy": -1}
LABELS = {"decode/tokens_per_forward": "tokens per forward", "objective/entropy": "entropy"}


class CollapseError(RuntimeError):
    """The run was stopped by the alarm; its message says what rose and what fell."""


@dataclass(frozen=True)
class AlarmConfig:
    """When the alarm fires.

    Attributes:
        window: Steps that are averaged.
        history: Steps looked back on; "fast" means within it.
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
    """Watches the metrics of one run, step by step. After it has fired it starts anew, so it does not repeat itself.

    The last window is compared with the earlier window of the history that had the highest reward. Noise is measured
    on the differences of successive steps, which a trend hardly touches.

    Its `steps` are kept in checkpoints: a run that is preempted often has the same history as one that is not.
    """

    def __init__(self, config: AlarmConfig, steps: Iterable[Mapping[str, float]] = ()) -> None:
        self.config = config
        self.steps: deque[Mapping[str, float]] = deque(steps, maxlen=config.history)

    def observe(self, metrics: Mapping[str, float]) -> str | None:
        """Take in one step.

        Args:
            metrics: Of the step; those of them that are missing are not watched.

        Returns:
            What fell and what rose, as a sentence; None while nothing is wrong.
        """
        if REWARD not in metrics:
            return None
        self.steps.append({name: metrics[name] for name in (REWARD, SPREAD, *SIGNS) if name in metrics})
        finding = find_collapse(self.steps, self.config)
        if finding:
            self.steps.clear()
        return finding


def find_collapse(steps: Sequence[Mapping[str, float]], config: AlarmConfig) -> str | None:
    """The alarm's judgement on the last steps of a run; see `AlarmConfig`.

    Args:
        steps: Metrics, oldest first; at most `config.history` of them.
        config: Thresholds.

    Returns:
        What fell and what rose, or None.
    """
    rows, size = list(steps), config.window
    if len(rows) < 2 * size:
        return None
    rewards = [row[REWARD] for row in rows]
    starts = range(len(rows) - 2 * size + 1)
    best = max(starts, key=lambda start: fmean(rewards[start : start + size]))
    then, now = rows[best : best + size], rows[-size:]
    before, after = fmean(rewards[best : best + size]), fmean(rewards[-size:])
    spread = fmean(row.get(SPREAD, 0.0) for row in then)
    if before - after <= max(config.reward_drop * spread, config.noise * _standard_error(rewards, size)):
        return None
    risen = [text for name in SIGNS if (text := _rise(name, rows, then, now, config))]
    if not risen:
        return None
    told = f"reward fell from {before:.3g} to {after:.3g} while {' and '.join(risen)}"
    return f"{told}, within {len(rows) - best} steps"


def _rise(
    name: str,
    rows: Sequence[Mapping[str, float]],
    then: Sequence[Mapping[str, float]],
    now: Sequence[Mapping[str, float]],
    config: AlarmConfig,
) -> str | None:
    """How a measure of confidence moved, if it says that confidence rose."""
    if not all(name in row for row in rows):
        return None
    before, after = fmean(row[name] for row in then), fmean(row[name] for row in now)
    limit = max(
        config.confidence_rise * abs(before),
        config.noise * _standard_error([row[name] for row in rows], config.window),
    )
    if SIGNS[name] * (after - before) <= limit:
        return None
    return f"{LABELS[name]} {'rose' if after > before else 'fell'} from {before:.3g} to {after:.3g}"


def _standard_error(values: Sequence[float], window: int) -> float:
    """Of the difference of two windows' means: 2 Var / window, with Var = E[d^2] / 2 of successive differences d."""
    squares = [(after - before) ** 2 for before, after in itertools.pairwise(values)]
    return (fmean(squares) / window) ** 0.5
