"""The reward worker: a mixture behind one call. A plain class; `rl.cluster` makes it a Ray actor."""

from collections.abc import Sequence

from rewards.mixture import RewardMixture, Sample, Scored
from rewards.reward import RewardTerm


class RewardWorker:
    """Scores samples; its rewards run in killable processes of their own, with deadlines."""

    def __init__(self, terms: Sequence[RewardTerm]) -> None:
        self.mixture = RewardMixture(terms)
        self.mixture.start()

    def score(self, samples: Sequence[Sample]) -> list[Scored]:
        """Score samples, in order."""
        return self.mixture.score(samples)

    def close(self) -> None:
        """End the reward processes."""
        self.mixture.close()
