"""Decode and score at the same time: a completion goes to the rewards as soon as it is decoded.

**Guarantees**

* Results come in the order of the prompts, whatever the order in which completions and scores arrive.
* Completions that a reward compares (`scope`) are scored in one call, in the order of the prompts, once all are there.
* A reward that fails ends the run at the next completion: decoding stops, and calls that still wait are withdrawn.

**Assumes**

* `RewardPool.submit` returns at once, and its futures end; `timeout_s` bounds the wait for each next one.
"""

import queue
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from typing import get_args

from redraft.rewards.result import RewardError, SampleScore
from redraft.rewards.reward import Scope
from redraft.rewards.scoring.mixture import Sample
from redraft.rewards.term import RewardTerm
from redraft.rl.config.schema import RunConfig
from redraft.rl.data.codec import Codec
from redraft.rl.data.tasks import Row
from redraft.rl.protocols import RewardPool, RolloutPool
from redraft.rollout.config import DecodeConfig
from redraft.rollout.trajectory import Completion, Prompt

# Wait longer than the reward worker's own deadline, so that its error, which names the reward, arrives first.
GRACE_S = 5.0


def largest_scope(terms: Iterable[RewardTerm]) -> Scope:
    """Return what has to be scored in one call, so that every reward sees all completions that it compares."""
    scopes: list[Scope] = [term.scope for term in terms]
    return max(scopes, key=get_args(Scope).index)


@dataclass(frozen=True)
class Answers:
    """Completions of prompts with their scores, in the order of the prompts.

    Attributes:
        samples: What the rewards saw.
        scored: What they said.
        rollout_s: Seconds until the last completion was there.
        reward_s: Seconds until the last score was there, counted from the last completion.
        reward_overlap_s: Seconds of `rollout_s` in which some completion was already with the rewards.
    """

    completions: list[Completion]
    samples: list[Sample]
    scored: list[SampleScore]
    rollout_s: float
    reward_s: float
    reward_overlap_s: float


@dataclass(frozen=True)
class Pipeline:
    """Rollouts with rewards behind them.

    Attributes:
        scope: What is scored in one call: one completion (`rows`), those of a prompt (`group`), or all (`batch`).
        timeout_s: Longest wait for the next score once everything is decoded.
    """

    rollouts: RolloutPool
    rewards: RewardPool
    codec: Codec
    scope: Scope
    timeout_s: float

    @classmethod
    def of(cls, config: RunConfig, rollouts: RolloutPool, rewards: RewardPool, codec: Codec) -> "Pipeline":
        """Build the pipeline that a recipe describes."""
        return cls(rollouts, rewards, codec, largest_scope(config.rewards), config.cluster.reward_timeout_s)

    def run(self, rows: Sequence[Row], prompts: Sequence[Prompt], decode: DecodeConfig) -> Answers:
        """Complete and score every prompt.

        Args:
            rows: Where the prompts come from; `Prompt.group` is the index of a prompt's row.
            prompts: Requests.
            decode: Decode settings.

        Raises:
            RewardError: A reward failed, or no score came in time; decoding stops.
        """
        started = time.perf_counter()
        rows, missing = _even(rows), Counter(map(self._unit, prompts))
        completions: dict[int, Completion] = {}
        samples: dict[int, Sample] = {}
        arrived: defaultdict[str | int, list[int]] = defaultdict(list)
        with closing(_Scoring(self.rewards)) as scoring, closing(self.rollouts.stream(prompts, decode)) as stream:
            for index, completion in stream:
                prompt = prompts[index]
                completions[index] = completion
                samples[index] = self.codec.sample(rows[prompt.group], prompt, completion)
                together = arrived[self._unit(prompt)]
                together.append(index)
                if len(together) == missing[self._unit(prompt)]:
                    scoring.submit({member: samples[member] for member in sorted(together)})
                scoring.take_what_is_there()
            decoded = time.perf_counter()
            scoring.take_all(self.timeout_s + GRACE_S)
        order = range(len(prompts))
        return Answers(
            completions=[completions[index] for index in order],
            samples=[samples[index] for index in order],
            scored=[scoring.scored[index] for index in order],
            rollout_s=decoded - started,
            reward_s=time.perf_counter() - decoded,
            reward_overlap_s=covered_s([(begin, min(end, decoded)) for begin, end in scoring.spans]),
        )

    def _unit(self, prompt: Prompt) -> str | int:
        """Return a name that all completions share which are scored in one call."""
        return {"rows": prompt.id, "group": prompt.group, "batch": "all"}[self.scope]


class _Scoring:
    """The calls to the rewards that are under way, and the scores that have come back."""

    def __init__(self, rewards: RewardPool) -> None:
        self.rewards = rewards
        self.scored: dict[int, SampleScore] = {}
        self.spans: list[tuple[float, float]] = []  # of each submit: when it was asked for and when it was there
        self._pending: dict[Future[list[SampleScore]], tuple[list[int], float]] = {}
        self._done: queue.SimpleQueue[tuple[Future[list[SampleScore]], float]] = queue.SimpleQueue()

    def submit(self, samples: dict[int, Sample]) -> None:
        """Ask for the scores of samples, by index of the prompt, in one call."""
        asked = time.perf_counter()
        future = self.rewards.submit(list(samples.values()))
        self._pending[future] = list(samples), asked
        future.add_done_callback(lambda done: self._done.put((done, time.perf_counter())))

    def take_what_is_there(self) -> None:
        """Take the scores that are there; raise what a reward raised."""
        while self._take(0.0):
            pass

    def take_all(self, timeout_s: float) -> None:
        """Wait for the rest, for each next score up to `timeout_s`.

        Raises:
            RewardError: None came in that time.
        """
        while self._pending:
            if not self._take(timeout_s):
                waiting = sum(len(indices) for indices, _ in self._pending.values())
                raise RewardError(
                    f"{waiting} completions wait for a score, and none came within {timeout_s:g} s; see"
                    " cluster.reward_timeout_s in the recipe"
                )

    def close(self) -> None:
        """Withdraw the calls that have not begun."""
        for future in self._pending:
            future.cancel()

    def _take(self, timeout_s: float) -> bool:
        try:
            future, there = self._done.get(timeout=timeout_s)
        except queue.Empty:
            return False
        indices, asked = self._pending.pop(future)
        self.spans.append((asked, there))
        self.scored |= zip(indices, future.result(), strict=True)
        return True


def covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans (begin, end), in their unit: [(0, 2), (1, 3), (5, 6)] cover 4."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _even(rows: Sequence[Row]) -> list[Row]:
    """Give every row the columns of all rows: what a reward gets must not depend on what is scored in the same call."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]
