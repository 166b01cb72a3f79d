"""The ranks of the learner as one thing: started together, called together, killed together.

**Guarantees**

* The ranks of an expert-parallel group lie on one node; a group that Ray spread over two is refused.
* The first failure of a call ends it. Ranks that wait for a dead one inside of an exchange would wait until a timeout.
* Whatever ended a call, no rank of it lives on: `LearnerLostError` means that the gang is gone.
* A call that ends by its deadline says where every rank stands, with the stacks of its threads.

**Assumes**

* All ranks are given the same calls in the same order (`call` does), so that their exchanges meet.

**Rejected alternatives**

* Replacing the one rank that died: the others are inside of an exchange with it, and NCCL cannot take it out of there.
* A restart after every error: what a rank raises by itself, such as a gradient that is not finite, comes again.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from redraft.rl.cluster.actor_pool import DEATHS
from redraft.rl.cluster.errors import ClusterError, LearnerLostError
from redraft.rl.cluster.learner_rank import LearnerRank
from redraft.rl.cluster.placement import Placement
from redraft.rl.config.schema import RunConfig
from redraft.rl.parallel.process_group import CollectiveError, GangPlace
from redraft.rollout.trajectory import SpecialTokens

logger = logging.getLogger(__name__)

GRACE_S = 5.0
"""How long a dead rank may take to show after another one has lost it: gloo reports that before Ray does."""
ANSWER_S = 5.0
"""Longest wait for the answers to "where are you"; a rank that is stuck outside of Python gives none."""


class Gang:
    """Learner ranks in one placement group.

    Args:
        config: The recipe.
        placement: How many ranks there are, and what each has.
    """

    def __init__(self, config: RunConfig, placement: Placement) -> None:
        self.config, self.placement = config, placement
        self.nodes: list[str] = []  # address of each rank's node
        self.closed = False
        deadline = time.monotonic() + config.cluster.start_timeout_s
        self.group = _reserve(placement.bundles(config), deadline)
        groups = {"watch": 1}  # `where` answers while another method works
        kind: Any = ray.remote(concurrency_groups=groups)(LearnerRank)  # pyright: ignore[reportCallIssue]
        sizes = {"num_cpus": config.cluster.learner_cpus, "num_gpus": placement.rank_gpus}
        spots = [spot_in(self.group, index) for index in range(placement.layout.world)]
        self.ranks: list[Any] = [kind.options(scheduling_strategy=spot, **sizes).remote() for spot in spots]

    def open(self, path: str, tokens: SpecialTokens) -> None:
        """Number the ranks node by node, join them, and load the policy into them.

        Raises:
            ClusterError: A rank cannot start, the start deadline passed, or an expert-parallel group spans nodes.
        """
        timeout_s, layout = self.config.cluster.start_timeout_s, self.placement.layout
        homes = self._each([rank.__ray_call__.remote(_node) for rank in self.ranks], "start", timeout_s)
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        order = by_node(homes)
        self.ranks = [self.ranks[index] for index in order]
        homes = [homes[index] for index in order]
        self.nodes = [addresses.get(home, "?") for home in homes]
        self._check_groups(homes)
        places: list[GangPlace | None] = [None] * layout.world
        if layout.world > 1:
            (port,) = self._each([self.ranks[0].listen.remote(self.nodes[0])], "start", timeout_s)
            # gloo's error names the exchange. NCCL ends the process at its limit without a word, so there the call's
            # own limit comes first, whose error says where every rank stands.
            exchange_s = self.config.cluster.update_timeout_s * (1.5 if self.placement.gpus else 0.5)
            places = [
                GangPlace(rank, layout.world, self.nodes[0], port, layout.ep, exchange_s)
                for rank in range(layout.world)
            ]
        pending = [
            rank.open.remote(path, self.config, tokens, place) for rank, place in zip(self.ranks, places, strict=True)
        ]
        try:
            self._each(pending, "start", timeout_s)
        except LearnerLostError:
            raise
        except Exception as error:
            self.close()
            raise ClusterError(f"learner: cannot start: {type(error).__name__}: {error}") from error

    def leave_marks(self, folder: str) -> list[str]:
        """Let every rank write a file `rank-N` into a folder; return the names."""
        names = [f"rank-{rank}" for rank in range(len(self.ranks))]
        pending = [rank.leave_mark.remote(folder, name) for rank, name in zip(self.ranks, names, strict=True)]
        self._each(pending, "start", self.config.cluster.start_timeout_s)
        return names

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of every rank's worker; large arguments are better put into the object store before.

        Returns:
            A reference to the result of rank 0, once all ranks are done.

        Raises:
            LearnerLostError: A rank died, or the deadline passed. The gang is gone.
            Exception: What a rank raised, as it raised it.
        """
        pairs = [rank.call.options(num_returns=2).remote(method, *arguments) for rank in self.ranks]
        self._each([done for _, done in pairs], method, self.config.cluster.update_timeout_s)
        return pairs[0][0]

    def ask(self, method: str, *arguments: Any, only: int | None = None) -> "Asked":
        """Call a method of every rank's worker, or of one rank's, and do not wait."""
        numbers = range(len(self.ranks)) if only is None else (only,)
        pairs = {number: self.ranks[number].ask.options(num_returns=2).remote(method, *arguments) for number in numbers}
        return Asked({n: pair[0] for n, pair in pairs.items()}, {n: pair[1] for n, pair in pairs.items()})

    def collect(self, asked: "Asked", what: str, timeout_s: float) -> list[Any]:
        """Wait for what ranks were asked; return references to their results, which are not fetched.

        Raises:
            LearnerLostError: As in `call`.
            Exception: What a rank raised, as it raised it.
        """
        self._each(asked.done, what, timeout_s)
        return list(asked.results.values())

    def check_alive(self, method: str) -> None:
        """Raise LearnerLostError if a rank is dead, after a wait in `method` that failed for another reason."""
        for rank, reason in _failures(self._ask_where()):
            if isinstance(reason, RayActorError):
                self._lose(f"learner: rank {rank} died in {method}: {_first_line(reason)}")

    def close(self) -> None:
        """Kill the ranks and give back what they had reserved; engines in the same bundles die with it."""
        self.closed = True
        for rank in self.ranks:
            ray.kill(rank)
        remove_placement_group(self.group)

    def _each(self, pending: Sequence[Any] | Mapping[int, Any], method: str, timeout_s: float) -> list[Any]:
        """Wait for one answer of every rank, or of those with these numbers; the first that fails ends the wait."""
        numbered = dict(pending) if isinstance(pending, Mapping) else dict(enumerate(pending))
        ranks = {answer: rank for rank, answer in numbered.items()}
        deadline = time.monotonic() + timeout_s
        while ranks:
            ready, _ = ray.wait(list(ranks), num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                late = ", ".join(map(str, sorted(ranks.values())))
                self._lose(
                    f"learner: {method}: no answer of rank {late} in {timeout_s:g} s; see cluster.*_timeout_s in the"
                    f" recipe\n{self._standing()}"
                )
            rank = ranks.pop(ready[0])
            try:
                ray.get(ready[0])
            except DEATHS as death:
                self._lose(f"learner: rank {rank} died in {method}: {_first_line(death)}")
            except RayTaskError as error:
                self._raise(rank, error, ranks, method)
        return ray.get(list(numbered.values()))

    def _raise(self, rank: int, error: RayTaskError, others: dict[Any, int], method: str) -> None:
        """End a call in which a rank raised: by a death that it comes from, or by what a rank raised by itself."""
        found = [(rank, _cause(error)), *_failures(others)]
        for number, reason in found:
            if isinstance(reason, RayActorError):
                self._lose(f"learner: rank {number} died in {method}: {_first_line(reason)}")
        for _, reason in found:
            if not isinstance(reason, CollectiveError):
                if len(self.ranks) > 1:  # others may still wait for this rank
                    self.close()
                raise reason from None
        self._lose(f"learner: rank {rank} lost the others in {method}: {_first_line(found[0][1])}\n{self._standing()}")

    def _lose(self, text: str) -> None:
        self.close()
        raise LearnerLostError(text) from None

    def _standing(self) -> str:
        """Describe where every rank stands, with the stacks of those that can still answer."""
        asked = self._ask_where()
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
        lines: dict[int, str] = dict.fromkeys(asked.values(), "no answer")
        for answer in answered:
            try:
                where, threads = ray.get(answer)
                lines[asked[answer]] = f"{where}\n{threads}"
            except (*DEATHS, RayTaskError) as error:
                lines[asked[answer]] = f"cannot say: {_first_line(error)}"
        homes = self.nodes or ["?"] * len(self.ranks)
        return "\n".join(f"rank {number} on {homes[number]}: {lines[number]}" for number in sorted(lines))

    def _ask_where(self) -> dict[Any, int]:
        """Ask every rank where it stands; for each answer to come, the number of its rank."""
        watch = [rank.where.options(concurrency_group="watch") for rank in self.ranks]
        return {method.remote(): number for number, method in enumerate(watch)}

    def _check_groups(self, homes: list[str]) -> None:
        ep = self.placement.layout.ep
        for first in range(0, len(homes), ep):
            if len(set(homes[first : first + ep])) > 1:
                where = ", ".join(self.nodes[first : first + ep])
                self.close()
                raise ClusterError(
                    f"ranks {first} to {first + ep - 1} share out the experts and lie on several nodes ({where}): free"
                    f" GPUs on one of them, or lower trainer.parallel.expert_parallel={ep}"
                )


class Asked(NamedTuple):
    """What ranks were asked: references by the number of the rank, to results and to the end of each call."""

    results: dict[int, Any]
    done: dict[int, Any]


def spot_in(group: PlacementGroup, index: int) -> PlacementGroupSchedulingStrategy:
    """Name a place of a placement group, for the options of an actor."""
    return PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=index)


def by_node(homes: list[str]) -> list[int]:
    """Order places so that those on one node are neighbours; nodes come in the order of their first place.

    `["b", "a", "b", "a"]` becomes `[0, 2, 1, 3]`.
    """
    first = {home: homes.index(home) for home in homes}
    return sorted(range(len(homes)), key=lambda index: (first[homes[index]], index))


def _reserve(bundles: list[dict[str, float]], deadline: float) -> PlacementGroup:
    """Reserve a placement group.

    Raises:
        ClusterError: The cluster has no room for it before the deadline; says what was asked and what is free.
    """
    group = placement_group(bundles, strategy="PACK")
    while not group.wait(1):  # in short steps: Ctrl-C cannot interrupt one
        if time.monotonic() >= deadline:
            remove_placement_group(group)
            free = {name: size for name, size in ray.available_resources().items() if name in bundles[0]}
            raise ClusterError(
                f"learner: no room for {len(bundles)} ranks with {bundles[0]} each before the start deadline; free are"
                f" {free or 'no such resources'}: lower cluster.* or trainer.parallel.ranks, or add nodes"
            )
    return group


def _failures(others: dict[Any, int]) -> Iterable[tuple[int, Exception]]:
    """Yield what became of the other ranks of a call in the next moment, if they failed."""
    if not others:
        return
    ready, _ = ray.wait(list(others), num_returns=len(others), timeout=GRACE_S)
    for answer in ready:
        try:
            ray.get(answer)
        except RayActorError as death:
            yield others[answer], death
        except RayTaskError as error:
            yield others[answer], _cause(error)


def _cause(error: RayTaskError) -> Exception:
    return error.cause if isinstance(error.cause, Exception) else error


def _node(rank: LearnerRank) -> str:
    return ray.get_runtime_context().get_node_id()


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
