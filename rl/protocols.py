"""What the loop needs from its parts; Ray actors and plain objects both fit."""

from collections.abc import Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from redraft.rewards.result import SampleScore
from redraft.rewards.scoring.mixture import Sample
from redraft.rollout.config import DecodeConfig
from redraft.rollout.trajectory import Completion, Prompt


@dataclass(frozen=True)
class Experience:
    """One completion to learn from."""

    prompt: Prompt
    completion: Completion
    advantage: float
    noise_seed: int  # the same for the new, the old and the reference policy: shared draws


@runtime_checkable
class RolloutPool(Protocol):
    """Where completions come from."""

    def sync(self, weights: Any) -> int:
        """Install the learner's weights everywhere; returns the policy version that is now in place."""
        ...

    def stream(self, prompts: Sequence[Prompt], config: DecodeConfig) -> Generator[tuple[int, Completion], None, None]:
        """One completion per prompt, as soon as each is done, with the prompt's index; closing it stops the rest."""
        ...


@runtime_checkable
class RewardPool(Protocol):
    """Where scores come from."""

    def submit(self, samples: Sequence[Sample]) -> Future[list[SampleScore]]:
        """One score per sample, in order, some time later; what is submitted together is scored in one call."""
        ...


@runtime_checkable
class PolicyLearner(Protocol):
    """What learns."""

    def update(self, rows: Sequence[Experience]) -> dict[str, float]:
        """Learn from one batch; returns metrics."""
        ...

    def weights(self) -> Any:
        """The current weights, in the form that `RolloutPool.sync` takes."""
        ...

    def save(self, folder: str) -> None:
        """Write `hf/` and `state/` into a checkpoint folder."""
        ...

    def load(self, folder: str) -> None:
        """Continue from a checkpoint folder, bit for bit."""
        ...
