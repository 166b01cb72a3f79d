"""The rollout worker: a policy and the decoder behind two calls. A plain class that may become a Ray actor."""

import gc
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from redraft.rollout.config import DecodeConfig, Limits
from redraft.rollout.decoding.decoder import Decoder
from redraft.rollout.engine.torch_engine import TorchEngine, store_by_input
from redraft.rollout.precision import set_precision
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens
from redraft.rollout.weights.carry import BroadcastGroup, Meeting, joined
from redraft.rollout.weights.incoming import Incoming, Sender, transfer, wanted_tensors
from redraft.rollout.weights.manifest import Header, Wanted

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
    _incoming: Incoming | None = field(default=None, repr=False)
    _group: BroadcastGroup | None = field(default=None, repr=False)

    def wanted(self) -> list[Wanted]:
        """List the network's tensors, in the types that it computes with."""
        return wanted_tensors(self.model)

    def join(self, meeting: Meeting | None, place: int = 0) -> None:
        """Join a group that broadcasts buckets and leave the one before; None takes buckets as objects."""
        self._group = None
        if meeting is not None:
            self._group = BroadcastGroup(meeting, place, next(self.model.parameters()).device)

    def start_update(self, header: Header) -> None:
        """Begin an update; an update that did not end is given up.

        Raises:
            WeightSyncError: The update is of another network, or is a part and needs other weights than those in place.
        """
        self._incoming, version = None, self.version
        self.version = -1
        self._incoming = Incoming(self.model, header, version, self._group)

    def take(self, number: int, *payloads: Any) -> None:
        """Install a bucket; one that is not what was sent ends the update.

        Raises:
            WeightSyncError: It is not what was sent, or not expected.
        """
        incoming = self._taken("update_weights")
        incoming.take(number, joined(payloads))
        self._incoming = incoming

    def finish_update(self) -> int:
        """End the update and return the version that is in place.

        Raises:
            WeightSyncError: A bucket never came.
        """
        self.version = self._taken("finish_weight_update").finish()
        return self.version

    def _taken(self, verb: str) -> Incoming:
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            raise RuntimeError(f"{verb}: no update has begun, or it failed; call start_weight_update first")
        return incoming

    def drop(self) -> None:
        """Give the weights' memory back; names, shapes and types stay."""
        self.version = -1
        self.model.to_empty(device="meta")

    def refill(self, device: torch.device) -> None:
        """Take memory for the weights again. What is in it means nothing before the next update."""
        self.model.to_empty(device=device)


def load_rollout_policy(load_model: LoadModel, path: str, dtype: str, device: str) -> RolloutPolicy:
    """Make the network in `path`, laid out for decoding; an update brings the weights to decode with."""
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

    def sync(self, weights: Sender) -> int:
        """Take over new weights from a sender in this process; return the version that is now in place."""
        return transfer(weights, self)

    def wanted(self) -> list[Wanted]:
        """See `Receiver.wanted`."""
        return self.policy.wanted()

    def join(self, meeting: Meeting | None, place: int = 0) -> None:
        """See `RolloutPolicy.join`."""
        self.policy.join(meeting, place)

    def start_update(self, header: Header) -> None:
        """See `Receiver.start_update`.

        Raises:
            RuntimeError: The engine is asleep.
        """
        self._check_awake("weights were sent to")
        self.policy.start_update(header)

    def take(self, number: int, *payloads: Any) -> None:
        """See `Receiver.take`."""
        self.policy.take(number, *payloads)

    def finish_update(self) -> int:
        """See `Receiver.finish_update`."""
        return self.policy.finish_update()

    def stream(self, prompts: Sequence[Prompt], config: DecodeConfig) -> Generator[tuple[int, Completion], None, None]:
        """Complete every prompt.

        Yields:
            The index of a prompt and its completion, which names the version of the weights that wrote it.

        Raises:
            RuntimeError: The engine is asleep, no weights have arrived yet, or the last update failed.
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
        self.policy.refill(self.device)
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
