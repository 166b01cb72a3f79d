"""Reward workers: a mixture behind one call, as a plain class. `rl.cluster.ray_parts` makes it a Ray actor."""

from collections.abc import Sequence
from concurrent.futures import Future

from redraft.rewards.result import SampleScore
from redraft.rewards.scoring.dispatch import Dispatcher
from redraft.rewards.scoring.mixture import RewardMixture, Sample
from redraft.rewards.term import RewardTerm


class RewardWorker:
    """Score samples with the rewards of a recipe.

    Args:
        terms: The rewards; they are started, so that a broken one fails here.
    """

    def __init__(self, terms: Sequence[RewardTerm]) -> None:
        self.mixture = RewardMixture(terms)
        self.mixture.start()

    def score(self, samples: Sequence[Sample]) -> list[SampleScore]:
        """Score samples, in order."""
        return self.mixture.score(samples)

    def close(self) -> None:
        """End the reward processes."""
        self.mixture.close()


class LocalRewards:
    """A reward worker in this process, which scores in a thread of its own.

    Args:
        terms: The rewards of the recipe.
    """

    def __init__(self, terms: Sequence[RewardTerm]) -> None:
        self.worker = RewardWorker(terms)
        # One lane, because an inline reward is a user's plain function, which need not bear two calls at a time.
        self.dispatcher = Dispatcher([self.worker.score])

    def submit(self, samples: Sequence[Sample]) -> Future[list[SampleScore]]:
        """Queue samples; those of one call are scored together."""
        return self.dispatcher.submit(samples)

    def close(self) -> None:
        """End the thread and the reward processes; what still waits for a score fails."""
        # Twice, because the first time the thread may be between two calls, and start a process for the second.
        for _ in range(2):
            self.dispatcher.close()
            self.worker.close()
