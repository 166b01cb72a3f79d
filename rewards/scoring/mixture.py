"""Several rewards on the same completions: each score is recorded, and one total goes to the learner."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from redraft.rewards.result import RewardError, SampleScore, Status, Verdict
from redraft.rewards.scoring.call import BATCH_ARGUMENTS, PARTS
from redraft.rewards.scoring.combine import combine
from redraft.rewards.scoring.configured import ConfiguredReward
from redraft.rewards.scoring.failures import Batch
from redraft.rewards.term import RewardTerm


@dataclass(frozen=True)
class Sample:
    """One completion to score.

    Attributes:
        prompt: Text or messages.
        completion: Text or messages.
        completion_ids: Its tokens, up to and with the first stop token.
        columns: The data row's other columns.
        group: Equal for completions of the same prompt; None for a completion that is compared with no other.
        unfinished: Whether the decoder left masks in it, so that no reward may read it.
    """

    prompt: Any
    completion: Any
    completion_ids: Sequence[int] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    group: Hashable = None
    unfinished: bool = False


class RewardMixture:
    """Scores samples with several rewards. Thread-safe; blocks while it scores.

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
        if not any(term.weight for term in terms if not term.gate):
            raise RewardError("a mixture needs at least one reward with a weight other than 0 that is not a gate")
        self.terms = tuple(terms)
        self._rewards = tuple(ConfiguredReward(term) for term in terms)

    def start(self) -> None:
        """Start the worker processes and import every reward, so that a broken one fails before the first step."""
        for reward in self._rewards:
            reward.start()

    def score(self, samples: Sequence[Sample]) -> list[SampleScore]:
        """Score samples, in order.

        Rewards run side by side; those that take ``parts`` run after them, in the recipe's order.

        Raises:
            RewardError: A reward failed; see `ConfiguredReward.score`.
        """
        finished = [sample for sample in samples if not sample.unfinished]
        scored = iter(self._score(finished) if finished else ())
        return [self._unfinished() if sample.unfinished else next(scored) for sample in samples]

    def close(self) -> None:
        """Kill the worker processes of the terms; a later `score` starts new ones."""
        for reward in self._rewards:
            reward.close()

    def _score(self, samples: Sequence[Sample]) -> list[SampleScore]:
        batch, groups = as_batch(samples), _groups(samples)
        independent, dependent = [], []
        for reward in self._rewards:
            (dependent if reward.start().needs_parts else independent).append(reward)
        verdicts = _side_by_side(independent, batch, groups)
        for reward in dependent:
            batch[PARTS] = _parts(verdicts, len(samples))
            verdicts[reward.term.name] = reward.score(batch, groups)
        of_samples = [{term.name: verdicts[term.name][row] for term in self.terms} for row in range(len(samples))]
        return [combine(self.terms, of_sample) for of_sample in of_samples]

    def _unfinished(self) -> SampleScore:
        verdict = Verdict(None, Status.INFRA_ERROR, "the decoder left masks in the completion")
        return SampleScore(None, None, {term.name: verdict for term in self.terms})


def _groups(samples: Sequence[Sample]) -> list[object]:
    """Return what tells groups apart; a sample without a group is one of its own."""
    # A group is wrapped in a tuple, so that it never equals the number that stands for a lone sample.
    return [index if sample.group is None else (sample.group,) for index, sample in enumerate(samples)]


def _side_by_side(
    rewards: Sequence[ConfiguredReward], batch: Batch, groups: Sequence[object]
) -> dict[str, list[Verdict]]:
    """Score a batch with several rewards at a time; return the verdicts by the reward's name."""
    if len(rewards) < 2:
        return {reward.term.name: reward.score(batch, groups) for reward in rewards}
    with ThreadPoolExecutor(len(rewards), thread_name_prefix="reward") as threads:
        verdicts = threads.map(lambda reward: reward.score(batch, groups), rewards)
        return {reward.term.name: found for reward, found in zip(rewards, verdicts, strict=True)}


def status_counts(scored: Sequence[SampleScore]) -> dict[str, dict[str, int]]:
    """Count the statuses of each reward."""
    counts: dict[str, Counter[str]] = {}
    for sample in scored:
        for name, status in sample.status.items():
            counts.setdefault(name, Counter())[status] += 1
    return {name: dict(counter) for name, counter in counts.items()}


def _parts(verdicts: Mapping[str, Sequence[Verdict]], size: int) -> list[dict[str, float | None]]:
    """Return the scores so far of each sample, by the reward's name."""
    return [{name: found[row].score for name, found in verdicts.items()} for row in range(size)]


def as_batch(samples: Sequence[Sample]) -> Batch:
    """Lay samples out as TRL does: one list per argument, with None where a sample lacks a column that others have."""
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
