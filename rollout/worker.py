"""The rollout worker: a policy and the decoder behind two calls. A plain class that may become a Ray actor."""

import gc
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from redraft.rollout.config import DecodeConfig, Limits
from redraft.rollout.decoding.decoder import Decoder
from redraft.rollout.engine.torch_engine import TorchEngine, store_by_input
from redraft.rollout.precision import set_precision
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

    def drop(self) -> None:
        """Give the weights' memory back; names, shapes and types stay."""
        self.version = -1
        self.model.to_empty(device="meta")

    def take(self, device: torch.device) -> None:
        """Take memory for the weights again. What is in it means nothing before the next `install`."""
        self.model.to_empty(device=device)


def load_rollout_policy(load_model: LoadModel, path: str, dtype: str, device: str) -> RolloutPolicy:
    """Make the network in `path`, laid out for decoding; `RolloutPolicy.install` brings the weights to decode with."""
    return RolloutPolicy(store_by_input(load_model(path, dtype, device)))


class RolloutWorker:
    """Decode prompts with the newest weights that arrived.

    Asleep it holds neither weights nor keys, so that a learner can use the device's memory. It wakes without weights:
    the next `sync` brings them.
    """

    def __init__(
        self,
        make_policy: Callable[[], RolloutPolicy],
        tokens: SpecialTokens,
        limits: Limits,
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        set_precision()
        self.policy = make_policy()
        self.engine = TorchEngine(self.policy.model, limits.cache_bytes, limits.logits_bytes)
        self.decoder = Decoder(self.engine, tokens, limits.slots, limits.step_timeout_s)
        self.device, self.asleep, self._open_streams = self.engine.device, False, 0

    def sync(self, weights: WeightUpdate) -> int:
        """Take over new weights; return the version that is now in place.

        Raises:
            RuntimeError: The engine is asleep.
        """
        self._check_awake("weights were sent to")
        self.policy.install(weights)
        return self.policy.version

    def stream(self, prompts: Sequence[Prompt], config: DecodeConfig) -> Generator[tuple[int, Completion], None, None]:
        """Complete every prompt.

        Yields:
            The index of a prompt and its completion, which names the version of the weights that wrote it.

        Raises:
            RuntimeError: The engine is asleep, or no weights have arrived yet.
        """
        self._check_awake("completions were asked of")
        if self.policy.version < 0:
            raise RuntimeError("asked for completions before any weights arrived: sync first")
        version = self.policy.version
        self._open_streams += 1
        try:
            # With the version the decoder keeps keys between calls, and reads none that other weights wrote.
            for index, completion in self.decoder.stream(prompts, config, version):
                yield index, replace(completion, policy_version=version)
        finally:
            self._open_streams -= 1

    def sleep(self) -> None:
        """Give back pages, CUDA graphs and weights; asleep already, do nothing.

        Raises:
            RuntimeError: A stream of completions is open.
        """
        if self.asleep:
            return
        gc.collect()  # a stream that was dropped unread is closed by this
        if self._open_streams:
            raise RuntimeError("a rollout engine cannot sleep while it decodes: read its stream to the end or close it")
        self.decoder.give_back()
        self.policy.drop()
        self.asleep = True
        self._return_freed()

    def wake(self) -> None:
        """Take memory for the weights again, and for pages when they are needed; awake already, do nothing."""
        if not self.asleep:
            return
        self._return_freed()
        self.policy.take(self.device)
        self.engine.forget_free_memory()
        self.asleep = False

    def _check_awake(self, what: str) -> None:
        if self.asleep:
            raise RuntimeError(f"{what} a rollout engine that is asleep: wake it first, then sync")

    def _return_freed(self) -> None:
        """Let other processes have what torch keeps of the device's memory for later."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Give the memory back."""
        self.decoder.close()
