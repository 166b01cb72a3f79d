"""The learner worker: the `Learner` and its saved state.

It is a plain class that runs in process; `rl.cluster.ray_parts` makes a Ray actor of it.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from redraft.rl.config.by_device import compute_dtype, gradient_sync, is_colocated
from redraft.rl.config.schema import RunConfig
from redraft.rl.learner.build import load_network
from redraft.rl.learner.learner import Learner
from redraft.rl.learner.state import load_state, save_state
from redraft.rl.models.registry import resolve_device, save_policy
from redraft.rl.parallel.alone import join_alone
from redraft.rl.parallel.process_group import GangPlace, join
from redraft.rl.parallel.shard import Meshes, late_modules, make_meshes
from redraft.rl.parallel.together import Together
from redraft.rl.parallel.whereabouts import Whereabouts
from redraft.rl.protocols import Canary, Experience
from redraft.rl.weight_sync.outbox import Outbox
from redraft.rollout.precision import set_precision
from redraft.rollout.trajectory import SpecialTokens
from redraft.rollout.weights.carry import Carrier, Meeting
from redraft.rollout.weights.manifest import Header, Wanted


class LearnerWorker:
    """A learner that hands out its weights, saves its state and continues from it."""

    def __init__(
        self,
        path: str,
        config: RunConfig,
        tokens: SpecialTokens,
        threads: int | None = None,
        place: GangPlace | None = None,
        whereabouts: Whereabouts | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        set_precision()
        device = torch.device(resolve_device(config.model.device))
        if device.type == "cuda":
            torch.cuda.set_device(device.index or 0)  # fully_shard gathers onto the current device
        self.takes_turns = device.type == "cuda" and is_colocated(config, on_gpu=True)
        self._first = partial(_first_learner, path, config, tokens, _meshes(config, place, device), whereabouts)
        self.restart()

    def restart(self) -> None:
        """Begin with the policy in the first folder, as if nothing had been learned."""
        self.learner = self._first()
        self.outbox = Outbox(self.learner.model, int(self.learner.config.cluster.sync_bucket_mib * 2**20))

    def update(self, rows: Sequence[Experience]) -> dict[str, float]:
        """Learn from one batch and return metrics; see `Learner.update`."""
        metrics = self.learner.update(rows)
        if self.takes_turns:
            torch.cuda.empty_cache()  # what torch keeps for later, an engine on the same GPU could not use
        return metrics

    def weights(self, canary: Canary | None = None, complete: bool = False) -> Outbox:
        """Return a sender of the current weights; see `Outbox.of_version`."""
        return self.outbox.of_version(self.learner.policy_version, canary, complete)

    def open_weights(
        self, wanted: Sequence[Wanted], carrier: Carrier, canary: Canary | None = None, complete: bool = False
    ) -> Header:
        """Begin to send the current weights to receivers in other processes; see `Outbox.open`."""
        return self.weights(canary, complete).open(wanted, carrier)

    def send_bucket(self, number: int) -> Any:
        """Send a bucket of the weights that were opened; see `Outbox.send`."""
        return self.outbox.send(number)

    def close_weights(self) -> None:
        """Give the memory of the last buckets back."""
        self.outbox.close()
        if self.takes_turns:
            torch.cuda.empty_cache()

    def meet_receivers(self, host: str, timeout_s: float) -> tuple[str, int]:
        """Open a place where receivers find this learner; see `Outbox.meet`."""
        return self.outbox.meet(host, timeout_s)

    def join_receivers(self, meeting: Meeting) -> None:
        """Join a group that broadcasts buckets; see `Outbox.join`."""
        self.outbox.join(meeting)

    def save(self, folder: str) -> None:
        """Write `hf/` (published layout) and `state/` (optimizer, version) into a checkpoint folder; all ranks call.

        Of a policy with adapters, both hold the adapters without the frozen weights.

        Raises:
            OSError: A file cannot be written.
        """
        save_policy(self.learner.model, Path(folder) / "hf", None, self.learner.lockstep)
        save_state(self.learner, Path(folder))

    def load(self, folder: str) -> None:
        """Continue from a checkpoint folder, bit for bit, on any number of ranks; all of them call.

        Raises:
            ValueError: `state/` is damaged, of another policy, or holds more or less than this learner has.
        """
        load_state(self.learner, Path(folder))


def _meshes(config: RunConfig, place: GangPlace | None, device: torch.device) -> Meshes | None:
    """Arrange the ranks of the learner; None is a network that is whole and computes in the type of its weights."""
    on_gpu = device.type == "cuda"
    if place is not None:
        join(place, device)
        return make_meshes(device.type, place.expert_parallel)
    if on_gpu or compute_dtype(config, on_gpu) != config.model.dtype:
        return join_alone(device)
    return None


def _first_learner(
    path: str, config: RunConfig, tokens: SpecialTokens, meshes: Meshes | None, whereabouts: Whereabouts | None
) -> Learner:
    """Make a learner from a policy folder. That policy stays the reference, whatever checkpoint is loaded later."""
    policy = load_network(path, config, meshes)
    if meshes is None:
        return Learner(policy, config, tokens, whereabouts=whereabouts)
    # A sharded network cannot be copied. One with adapters is its own reference, with the adapters off.
    needed = config.algorithm.needs_reference and config.model.lora is None
    reference = load_network(path, config, meshes, trainable=False) if needed else None
    late = late_modules(policy, meshes) if gradient_sync(config, meshes.replica.size()) == "last" else ()
    lockstep = Together(device=next(policy.parameters()).device, late=late)
    return Learner(policy, config, tokens, reference, lockstep, whereabouts)
