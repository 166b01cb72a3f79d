"""The parts of a run on the backend that its recipe names; the one place that makes them inside this process."""

import contextlib
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from redraft.rewards.worker import LocalRewards
from redraft.rl.cluster.rollout_worker import rollout_worker
from redraft.rl.cluster.stop_signal import hangup_ignored
from redraft.rl.config.by_device import is_colocated
from redraft.rl.config.schema import RunConfig
from redraft.rl.data.codec import Codec
from redraft.rl.experience.pipeline import Pipeline
from redraft.rl.models.registry import resolve_device
from redraft.rl.protocols import PolicyLearner, RewardPool, RolloutPool
from redraft.rollout.config import DecodeConfig
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens
from redraft.rollout.vllm.engine import VLLMRolloutWorker
from redraft.rollout.worker import RolloutPolicy, RolloutWorker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalRollouts:
    """A rollout worker of this process behind the loop's protocol.

    Attributes:
        worker: Decodes.
        takes_turns: It gives its memory back while the learner works.
    """

    worker: RolloutWorker | VLLMRolloutWorker
    takes_turns: bool = False

    def sync(self, weights: Any) -> int:
        """Install the learner's weights."""
        return self.worker.sync(weights)

    def stream(self, prompts: Sequence[Prompt], config: DecodeConfig) -> Generator[tuple[int, Completion], None, None]:
        """Complete every prompt."""
        return self.worker.stream(prompts, config)

    def release(self) -> None:
        """Let the worker sleep."""
        if self.takes_turns:
            self.worker.sleep()

    def restore(self) -> None:
        """Wake the worker."""
        if self.takes_turns:
            self.worker.wake()


@contextlib.contextmanager
def backend(
    config: RunConfig, path: str, tokens: SpecialTokens
) -> Iterator[tuple[RolloutPool, RewardPool, PolicyLearner]]:
    """Make rollouts, rewards and learner on the recipe's backend, and close them at the end.

    Args:
        config: The recipe.
        path: Folder of the run's first policy.
        tokens: Special ids.
    """
    if config.cluster.backend == "ray":
        from redraft.rl.cluster.ray_parts import cluster, start_parts

        with contextlib.ExitStack() as stack:
            with hangup_ignored():
                stack.enter_context(cluster(config))
                rollouts, rewards, learner = start_parts(path, config, tokens)
            stack.enter_context(contextlib.closing(rewards))
            yield rollouts, rewards, learner
        return
    from redraft.rl.learner.worker import LearnerWorker

    on_gpu, here = resolve_device(config.model.device).type == "cuda", torch.cuda.device_count()
    if on_gpu and here > 1:
        logger.warning("%d of %d GPUs have no work: cluster.backend: inprocess uses one, ray all", here - 1, here)
    takes_turns = is_colocated(config, on_gpu)
    learner = LearnerWorker(path, config, tokens, config.cluster.learner_threads)  # an engine takes what it leaves
    with local_parts(config, rollout_worker(path, config, tokens, threads=None)) as (worker, rewards):
        yield LocalRollouts(worker, takes_turns), rewards, learner


@contextlib.contextmanager
def local_parts(
    config: RunConfig, make_rollouts: Callable[[], RolloutWorker | VLLMRolloutWorker]
) -> Iterator[tuple[RolloutWorker | VLLMRolloutWorker, LocalRewards]]:
    """Make a rollout worker and the recipe's rewards inside this process, and close them at the end."""
    with contextlib.closing(LocalRewards(config.rewards)) as rewards, contextlib.closing(make_rollouts()) as rollouts:
        yield rollouts, rewards


@contextlib.contextmanager
def local_pipeline(config: RunConfig, model: nn.Module, tokens: SpecialTokens, codec: Codec) -> Iterator[Pipeline]:
    """Decode with a network as it stands, score with the recipe's rewards; both inside this process.

    Args:
        config: The recipe.
        model: The network. It is shared, not copied: weights that change between two calls are those of the next.
        tokens: Special ids.
        codec: Makes prompts of rows, and samples of completions.
    """

    def make_rollouts() -> RolloutWorker:
        return RolloutWorker(lambda: RolloutPolicy(model, version=0), tokens, config.rollout.limits)

    with local_parts(config, make_rollouts) as (worker, rewards):
        yield Pipeline.of(config, LocalRollouts(worker), rewards, codec)
