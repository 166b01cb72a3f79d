"""Say what the loop needs of its parts. Ray actors and plain objects both have it."""

from collections.abc import Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from redraft.rewards.result import SampleScore
from redraft.rewards.scoring.mixture import Sample
from redraft.rollout.config import DecodeConfig
from redraft.rollout.trajectory import Completion, Prompt

Canary = Literal["perturbed", "restored", "checked"]
"""Updates of a run's first sync: one tensor is perturbed, then restored, then the weights get their version again."""


@dataclass(frozen=True)
class Experience:
    """One completion to learn from.

    Attributes:
        noise_seed: The new, the old and the reference policy are all scored on the masks that it draws.
    """

    prompt: Prompt
    completion: Completion
    advantage: float
    noise_seed: int


@runtime_checkable
class RolloutPool(Protocol):
    """The rollouts as the loop sees them: weights in, completions out, and memory for the learner in between."""

    def sync(self, weights: Any) -> int:
        """Fetch the learner's weights into every engine, and return the policy version that is now in place."""
        ...

    def stream(self, prompts: Sequence[Prompt], config: DecodeConfig) -> Generator[tuple[int, Completion], None, None]:
        """Yield (index of the prompt, completion) as soon as each is done; closing the generator stops the rest."""
        ...

    def release(self) -> None:
        """Give back cache and weights where the learner has the same device; where it has its own, do nothing."""
        ...

    def restore(self) -> None:
        """Take back what `release` gave; a `sync` must follow, which brings the weights."""
        ...


@runtime_checkable
class RewardPool(Protocol):
    """The rewards as the loop sees them: samples in, scores out."""

    def submit(self, samples: Sequence[Sample]) -> Future[list[SampleScore]]:
        """Score samples in one call; the future holds one score per sample, in order."""
        ...


@runtime_checkable
class PolicyLearner(Protocol):
    """The learner as the loop sees it: one update per batch, weights out, save and load."""

    def restart(self) -> None:
        """Begin again with the run's first policy; a learner that was lost is replaced."""
        ...

    def update(self, rows: Sequence[Experience]) -> dict[str, float]:
        """Learn from one batch and return its metrics."""
        ...

    def weights(self, canary: Canary | None = None) -> Any:
        """Return what `RolloutPool.sync` fetches the current weights from; with a canary, what it changes."""
        ...

    def save(self, folder: str) -> None:
        """Write `hf/` and `state/` into a checkpoint folder."""
        ...

    def load(self, folder: str) -> None:
        """Continue from a checkpoint folder, bit for bit."""
        ...
