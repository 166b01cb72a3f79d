"""The rollout worker: a policy and the decoder behind two calls. A plain class that may become a Ray actor."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from redraft.rollout.config import DecodeConfig, Limits
from redraft.rollout.decoding.decoder import Decoder
from redraft.rollout.engine.torch_engine import TorchEngine, store_by_input
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens
from redraft.rollout.weights import WeightUpdate, install

LoadModel = Callable[[str, str, str], nn.Module]
"""Makes a network from a folder, the name of a dtype and the name of a device."""


@dataclass
class RolloutPolicy:
    """A network that follows the learner's weights.

    Attributes:
        model: The network.
        version: Of the weights in place. -1 before the first update, and after one that failed.
    """

    model: nn.Module
    version: int = -1

    def install(self, update: WeightUpdate) -> None:
        """Take over one version of the weights.

        Raises:
            WeightSyncError: What arrived is not what was sent; the weights in place are then of no version.
        """
        self.version = -1
        install(self.model, update)
        self.version = update.version


def load_rollout_policy(load_model: LoadModel, path: str, dtype: str, device: str) -> RolloutPolicy:
    """Make the network in `path`, laid out for decoding; `RolloutPolicy.install` brings the weights to decode with."""
    return RolloutPolicy(store_by_input(load_model(path, dtype, device)))


class RolloutWorker:
    """Decode prompts with the newest weights that arrived."""

    def __init__(
        self,
        make_policy: Callable[[], RolloutPolicy],
        tokens: SpecialTokens,
        limits: Limits,
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.policy = make_policy()
        engine = TorchEngine(self.policy.model, limits.cache_bytes, limits.logits_bytes)
        self.decoder = Decoder(engine, tokens, limits.slots, limits.step_timeout_s)

    def sync(self, weights: WeightUpdate) -> int:
        """Take over new weights; return the version that is now in place."""
        self.policy.install(weights)
        return self.policy.version

    def stream(self, prompts: Sequence[Prompt], config: DecodeConfig) -> Generator[tuple[int, Completion], None, None]:
        """Complete every prompt.

        Yields:
            The index of a prompt and its completion, which names the version of the weights that wrote it.

        Raises:
            RuntimeError: No weights have arrived yet.
        """
        if self.policy.version < 0:
            raise RuntimeError("asked for completions before any weights arrived: sync first")
        version = self.policy.version
        # With the version the decoder keeps keys between calls, and reads none that other weights wrote.
        for index, completion in self.decoder.stream(prompts, config, version):
            yield index, replace(completion, policy_version=version)

    def close(self) -> None:
        """Give the memory back."""
        self.decoder.close()
