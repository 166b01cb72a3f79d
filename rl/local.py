"""The in-process backend: the same workers called directly, for debugging and fast tests."""

from collections.abc import Sequence
from typing import Any

from rollout.config import DecodeConfig
from rollout.trajectory import Completion, Prompt
from rollout.worker import RolloutWorker


class LocalRollouts:
    """One rollout worker behind the loop's protocol; `RewardWorker` and `LearnerWorker` already fit theirs."""

    def __init__(self, worker: RolloutWorker) -> None:
        self.worker = worker

    def sync(self, weights: Any) -> int:
        """Install the learner's weights."""
        return self.worker.install(weights)

    def generate(self, prompts: Sequence[Prompt], decode: DecodeConfig) -> list[Completion]:
        """Complete every prompt."""
        return self.worker.generate(prompts, decode)
