"""Weights from the learner's actors to the rollout actors, bucket by bucket. The driver sees references only.

**Guarantees**
    * At most two buckets are on their way: bucket n + 2 is asked for when every receiver has installed bucket n.
    * A rollout actor that dies during a sync is replaced, and the sync begins again with all buckets.
    * An actor that replaces a dead one later gets the current weights, from the learner, before it decodes.

**Assumes**
    * No update of the learner runs during a sync, nor while an actor is replaced.

**Rejected alternatives**
    * Keep the buckets in the object store until the next sync, for actors that are replaced: a whole copy of the
      policy in the memory of a host. The learner still has the weights, so it sends them again.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import ray

from redraft.rl.cluster.actor_pool import DEATHS, ActorPool, Call, get
from redraft.rl.cluster.errors import ClusterError, LearnerLostError
from redraft.rl.cluster.gang import Asked, Gang
from redraft.rl.cluster.placement import Placement
from redraft.rl.config.schema import RunConfig
from redraft.rl.protocols import Canary
from redraft.rl.weight_sync.senders import asks_every_rank
from redraft.rollout.weights.carry import Carrier, Meeting
from redraft.rollout.weights.manifest import Header

_GROUPS = itertools.count()


def choose_carrier(config: RunConfig, placement: Placement) -> Carrier:
    """Choose what brings weights to the rollout actors: with `auto`, the fastest way between where both ends lie."""
    if config.cluster.weight_sync != "auto":
        if config.cluster.weight_sync == "collective" and placement.colocated:
            raise ClusterError(
                "cluster.weight_sync: collective needs GPUs of their own for learner and engines, because NCCL takes"
                " one member per GPU; use auto, or cluster.placement: apart"
            )
        return config.cluster.weight_sync
    if not placement.gpus:
        return "object_store"
    return "shared_memory" if placement.colocated else "collective"


class RayWeights:
    """The weights that the learner's ranks hold now.

    Args:
        find_gang: Returns the ranks as they are now. A rollout actor that is replaced after a restart of the learner
            gets its weights from the new ones.
        canary: See `Outbox.of_version`.
    """

    def __init__(self, find_gang: Callable[[], Gang], canary: Canary | None) -> None:
        self.find_gang, self.canary = find_gang, canary

    @property
    def gang(self) -> Gang:
        """The ranks as they are now."""
        return self.find_gang()

    def collect(self, what: str, asked: Asked, deadline: float) -> list[Any]:
        """Wait for what ranks were asked; a rank that died or is late means that the learner is lost."""
        return self.gang.collect(asked, f"weight sync: {what}", max(0.0, deadline - time.monotonic()))


class Delivery:
    """Brings weights to the actors of a pool."""

    def __init__(self, pool: ActorPool, config: RunConfig, placement: Placement) -> None:
        self._pool, self._timeout_s = pool, config.cluster.sync_timeout_s
        self._carrier: Carrier = choose_carrier(config, placement)
        self._on_gpu = placement.gpus > 0
        self._weights: RayWeights | None = None
        self._joined: list[Any] = []  # the members of the present broadcast group
        pool.prepare = self._bring_up

    def sync(self, weights: RayWeights) -> int:
        """Bring the weights to all actors; return the version that is in place.

        Raises:
            ClusterError: The deadline passed, actors keep dying, or they hold different versions.
            LearnerLostError: A rank of the learner died.
            WeightSyncError: What an actor installed is not what was sent.
        """
        self._weights, deadline = weights, time.monotonic() + self._timeout_s
        everyone = range(len(self._pool.actors))
        for restart in range(self._pool.max_restarts + 1):
            try:
                return self._deliver(everyone, deadline, complete=restart > 0)
            except LearnerLostError:
                raise
            except Exception as error:
                # In a broadcast, the members that live may report one that died before its own death is known.
                weights.gang.check_alive("weights")
                if self._carrier == "collective" and self._on_gpu and isinstance(error, DEATHS):
                    weights.gang.close()  # the ranks wait in a broadcast that NCCL does not end
                    raise LearnerLostError(f"weight sync: a rollout actor died in a broadcast: {error}") from error
                if not self._replace_dead(restart, error, deadline):
                    raise
        raise AssertionError("unreachable")

    def forget(self) -> None:
        """Bring nothing to actors that are replaced before the next sync, which brings weights to all of them."""
        self._weights = None

    def _replace_dead(self, restart: int, error: Exception, deadline: float) -> bool:
        """Start new actors for those that are dead; their weights come when the sync is repeated.

        Returns:
            Whether there were any.
        """
        self._joined, found = [], False
        for index in range(len(self._pool.actors)):
            try:
                get(self._pool.actors[index].__ray_ready__.remote(), deadline, f"rollout actor {index}")
            except DEATHS:
                found, self._pool.prepare = True, None
                try:
                    self._pool.replace(index, Call("start_update", (), "installing weights"), restart, error, deadline)
                finally:
                    self._pool.prepare = self._bring_up
        return found

    def _bring_up(self, index: int, deadline: float) -> None:
        """Bring the current weights to an actor that replaces a dead one; where the learner is lost, none are left."""
        if self._weights is not None and not self._weights.gang.closed:
            self._deliver([index], deadline, complete=True)

    def _deliver(self, indices: Sequence[int], deadline: float, complete: bool) -> int:
        assert self._weights is not None
        weights, carrier = self._weights, self._carrier
        if carrier == "shared_memory" and self._on_gpu and len(indices) < len(self._pool.actors):
            carrier = "object_store"  # torch keeps the GPU memory of a handle until somebody has opened it
        wait, learner = partial(_wait, deadline=deadline), partial(weights.collect, deadline=deadline)
        wanted = wait("wanted", self._ask(indices, "wanted"))
        if any(one != wanted[0] for one in wanted):
            raise ClusterError("rollout actors want different tensors; all must have one type (rollout.dtype)")
        if carrier == "collective":
            self._join(indices, deadline)
        headers = weights.gang.ask("open_weights", wanted[0], carrier, weights.canary, complete)
        header: Any = ray.get(learner("opening weights", headers)[0])
        try:
            shared = ray.put(header)
            wait("start", self._ask(indices, "start_update", shared))
            self._send(indices, header, deadline, carrier)
            versions = set(wait("end", self._ask(indices, "finish_update")))
        finally:
            closed = weights.gang.ask("close_weights")
        learner("closing weights", closed)
        if len(versions) != 1:
            raise ClusterError(f"rollout actors hold different policy versions after a sync: {sorted(versions)}")
        return versions.pop()

    def _send(self, indices: Sequence[int], header: Header, deadline: float, carrier: Carrier) -> None:
        """Send the buckets, of which at most two are on their way."""
        on_the_way: list[_Sent] = []
        for number in header.numbers:
            on_the_way.append(self._dispatch(indices, header, number, carrier))
            if len(on_the_way) == 2:
                on_the_way.pop(0).wait(deadline)
        for one in on_the_way:
            one.wait(deadline)

    def _dispatch(self, indices: Sequence[int], header: Header, number: int, carrier: Carrier) -> "_Sent":
        """Ask the learner for a bucket and the actors to install it."""
        assert self._weights is not None
        owner = header.manifest.buckets[number].owner
        only = None if asks_every_rank(carrier, self._on_gpu) else owner
        sent = self._weights.gang.ask("send_bucket", number, only=only)
        # A broadcast ends on all sides together, so its receivers must not wait for what the sender returns.
        payloads = () if carrier == "collective" else sent.results.values()
        what = f"bucket {number} of {len(header.manifest.buckets)}"
        return _Sent(what, self._weights, sent, self._ask(indices, "take", number, *payloads))

    def _join(self, indices: Sequence[int], deadline: float) -> None:
        """Make a broadcast group of the learner's ranks and some actors, unless the present one is of them."""
        assert self._weights is not None
        gang, learner = self._weights.gang, partial(self._weights.collect, deadline=deadline)
        ranks, actors = gang.ranks, [self._pool.actors[index] for index in indices]
        if self._joined == [*ranks, *actors]:
            return
        self._joined = []
        opened = gang.ask("meet_receivers", gang.nodes[0], self._timeout_s, only=0)
        host, port = ray.get(learner("opening a store", opened)[0])
        world = len(ranks) + len(actors)
        meeting = Meeting(host, port, world, f"weights-{next(_GROUPS)}", self._timeout_s)
        joining = gang.ask("join_receivers", meeting)
        joined = [actor.join.remote(meeting, place) for place, actor in enumerate(actors, start=len(ranks))]
        _wait("joining the broadcast group", joined, deadline)
        learner("joining the broadcast group", joining)
        self._joined = [*ranks, *actors]

    def _ask(self, indices: Sequence[int], method: str, *arguments: Any) -> list[Any]:
        return [self._pool.issue(index, Call(method, arguments, "installing weights")) for index in indices]


class _Sent(NamedTuple):
    """A bucket on its way: what the ranks that send it and the actors that install it will answer."""

    what: str
    weights: RayWeights
    sent: Asked
    taken: list[Any]

    def wait(self, deadline: float) -> None:
        """Wait until it is in place everywhere. The first failure ends the wait: others may wait for that one."""
        ranks = {done: number for number, done in self.sent.done.items()}
        left = [*self.taken, *ranks]
        while left:
            ready, left = ray.wait(left, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            if ready[0] in ranks:
                self.weights.collect(self.what, Asked({}, {ranks[ready[0]]: ready[0]}), deadline)
            else:
                _wait(self.what, ready, deadline)
        _wait(self.what, self.taken, deadline)
        self.weights.collect(self.what, self.sent, deadline)


def _wait(what: str, pending: Sequence[Any], deadline: float) -> list[Any]:
    return [get(one, deadline, f"weight sync: {what}") for one in pending]
