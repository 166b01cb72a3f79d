"""The rollout worker: a policy and the decoder behind two calls. A plain class that may become a Ray actor."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from redraft.rollout.config import DecodeConfig, Limits
from redraft.rollout.decoding.decoder import Decoder
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens


@runtime_checkable
class Policy(Protocol):
    """A model that follows the learner's weights."""

    model: nn.Module
    version: int

    def install(self, update: Any) -> None:
        """Take over one version of the weights; raises if what arrived is not what was sent."""
        ...


class RolloutWorker:
    """Decodes prompts with the newest weights it was given."""

    def __init__(
        self, make_policy: Callable[[], Policy], tokens: SpecialTokens, limits: Limits, threads: int | None = None
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.policy = make_policy()
        engine = TorchEngine(self.policy.model, limits.cache_bytes, limits.logits_bytes)
        self.decoder = Decoder(engine, tokens, limits.slots, limits.step_timeout_s)

    def sync(self, weights: Any) -> int:
        """Take over new weights; returns the version that is now in place."""
        self.policy.install(weights)
        return self.policy.version

    def stream(self, prompts: Sequence[Prompt], config: DecodeConfig) -> Generator[tuple[int, Completion], None, None]:
        """Complete every prompt; yields its index and its completion, with the version of the weights that wrote it."""
        if self.policy.version < 0:
            raise RuntimeError("asked for completions before any weights arrived: sync first")
        version = self.policy.version
        for index, completion in self.decoder.stream(prompts, config, version):  # no keys of other versions are read
            yield index, replace(completion, policy_version=version)

    def close(self) -> None:
        """Give the memory back."""
        self.decoder.close()
