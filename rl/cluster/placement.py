"""Which GPUs, or which CPUs where there are none, each part of a run gets. Pure; loads neither torch nor ray.

`redraft plan` and a run decide here, so that a plan describes the run that follows it.

**Guarantees**

* Every number that the recipe leaves open is derived from the machine: ranks, expert parallelism, rollout engines.
* A recipe that the machine cannot hold is refused with both numbers. GPUs that are left over are counted (`idle`).

**Assumes**

* All nodes with GPUs have equally many. Where they differ, the smallest decides how wide an expert-parallel group is.

**Rejected alternatives**

* Counting on an order of Ray's bundles: PACK fills nodes, but promises no order. `Gang` numbers the ranks node by node.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from redraft.rl.config.by_device import is_colocated
from redraft.rl.config.schema import RunConfig
from redraft.rl.parallel.layout import RankLayout, widest_ep


class TooFewMachinesError(ValueError):
    """There are fewer GPUs than the recipe asks for; more may be on their way."""


@dataclass(frozen=True)
class Machines:
    """What there is to place parts on.

    Attributes:
        gpus: On all nodes.
        ranks_per_node: Learner ranks that one node can take; an expert-parallel group lies inside a node.
    """

    gpus: int
    ranks_per_node: int


@dataclass(frozen=True)
class Placement:
    """Where the parts of a run lie.

    Two nodes of 8 GPUs and a network of 256 experts, with a recipe that asks for nothing: 16 ranks in two
    expert-parallel groups of 8 (`RankLayout(16, 8)`), and an engine beside each rank, on the same GPU (`colocated`).

    Attributes:
        layout: The learner's ranks.
        colocated: Each rank takes turns with a rollout engine on its GPU. False without GPUs.
        engines: Rollout engines.
        gpus_per_engine: GPUs that hold the policy of one engine together; 0 without GPUs.
        gpus: All that there are.
    """

    layout: RankLayout
    colocated: bool
    engines: int
    gpus_per_engine: int
    gpus: int

    @property
    def used_gpus(self) -> int:
        """Count the GPUs that have work."""
        if not self.gpus:
            return 0
        rollout = self.engines * self.gpus_per_engine
        return max(self.layout.world, rollout) if self.colocated else self.layout.world + rollout

    @property
    def idle(self) -> int:
        """Count the GPUs without work."""
        return self.gpus - self.used_gpus

    @property
    def rank_gpus(self) -> float:
        """GPUs that Ray reserves for a rank: half of one that it shares with an engine."""
        if not self.gpus:
            return 0.0
        return 0.5 if self.colocated else 1.0

    @property
    def engine_gpus(self) -> float:
        """GPUs that Ray reserves for an engine."""
        return self.rank_gpus if self.colocated else float(self.gpus_per_engine)

    def bundles(self, config: RunConfig) -> list[dict[str, float]]:
        """Say what each rank's place in the learner's placement group holds; a colocated engine lies in it too."""
        cpus = config.cluster.learner_cpus + (config.cluster.rollout_cpus if self.colocated else 0.0)
        # Ray refuses a bundle of nothing, and a CPU of 0 inside of one.
        bundle = {"CPU": cpus, "GPU": 1.0 if self.gpus else 0.0}
        return [{name: size for name, size in bundle.items() if size} or {"CPU": 0.001}] * self.layout.world

    def asked(self, config: RunConfig) -> tuple[float, float]:
        """Add up the CPUs and GPUs that all parts need."""
        c = config.cluster
        cpus = self.layout.world * c.learner_cpus + self.engines * c.rollout_cpus + c.reward_workers
        return cpus, float(self.used_gpus)

    def describe(self) -> str:
        """Say in a line what lies where."""
        ranks, ep = self.layout.world, self.layout.ep
        learner = f"{ranks} learner rank{'s' * (ranks > 1)}" + (f" (experts over {ep})" if ep > 1 else "")
        engines = f"{self.engines} rollout engine{'s' * (self.engines > 1)}"
        if not self.gpus:
            return f"{learner} and {engines} on CPUs"
        shared = f"share {self.used_gpus}" if self.colocated else f"have {self.used_gpus} to themselves"
        return f"{learner} and {engines} {shared} of {self.gpus} GPUs"

    def idle_text(self, experts: int) -> str:
        """Say why GPUs have no work; empty where all have."""
        if not self.idle:
            return ""
        return (
            f"{self.idle} of {self.gpus} GPUs have no work: {experts} experts are shared equally by {self.layout.world}"
            " ranks, or the recipe asks for no more"
        )


def count_machines(nodes: Iterable[Mapping[str, float]], config: RunConfig) -> Machines:
    """Count what the nodes of a cluster have; without GPUs, or with `model.device: cpu`, ranks are placed by CPUs.

    Args:
        nodes: `{"CPU": 8.0, "GPU": 2.0, ...}` of each.
        config: The recipe.
    """
    gpus = [] if config.model.device == "cpu" else [int(node.get("GPU", 0)) for node in nodes]
    gpus = [number for number in gpus if number]
    if gpus:
        return Machines(sum(gpus), min(gpus))
    cpus = config.cluster.learner_cpus
    room = [int(node.get("CPU", 0) // cpus) for node in nodes] if cpus else []
    return Machines(0, min((number for number in room if number), default=config.trainer.parallel.ranks or 1))


def place_parts(config: RunConfig, experts: int, machines: Machines, gpus_per_engine: int = 1) -> Placement:
    """Decide how many ranks and engines there are, and which share GPUs.

    Args:
        config: The recipe.
        experts: Of the network, per layer.
        machines: What there is.
        gpus_per_engine: GPUs that hold the policy of one engine together.

    Raises:
        TooFewMachinesError: The machine cannot hold what the recipe asks for.
        ValueError: The network cannot be cut that way.
    """
    if not machines.gpus:
        return _on_cpus(config, experts, machines)
    colocated, engines = is_colocated(config, on_gpu=True), config.rollout.num_actors
    left = machines.gpus if colocated else machines.gpus - engines * gpus_per_engine
    if config.cluster.backend == "inprocess":  # one process with one GPU
        left = 1
    if left < 1:
        raise TooFewMachinesError(
            f"rollout.num_actors={engines} with {gpus_per_engine} GPUs each leaves no GPU of {machines.gpus} for the"
            " learner; lower it, or use cluster.placement: colocated"
        )
    ranks = config.trainer.parallel.ranks or int(config.cluster.learner_gpus) or _most_ranks(left, experts)
    if ranks > left:
        raise TooFewMachinesError(
            f"the learner asks for {ranks} GPUs and {left} are left for it; lower trainer.parallel.ranks"
        )
    layout = _layout(config, experts, ranks, machines)
    if colocated:
        engines = max(1, ranks // gpus_per_engine)
    return Placement(layout, colocated, engines, gpus_per_engine, machines.gpus)


def _on_cpus(config: RunConfig, experts: int, machines: Machines) -> Placement:
    c = config.cluster
    asked = c.learner_gpus + config.rollout.num_actors * c.rollout_gpus
    if asked:
        raise TooFewMachinesError(
            f"cluster.learner_gpus and rollout.num_actors * cluster.rollout_gpus ask for {asked:g} GPUs, but there are"
            " 0 for the parts of this recipe; lower them, or add nodes"
        )
    layout = _layout(config, experts, config.trainer.parallel.ranks or 1, machines)
    return Placement(layout, False, config.rollout.num_actors, 0, 0)


def _layout(config: RunConfig, experts: int, ranks: int, machines: Machines) -> RankLayout:
    """Lay out the learner's ranks, and check that experts and nodes can be shared out so."""
    asked = config.trainer.parallel.expert_parallel
    layout = RankLayout(ranks, asked or widest_ep(ranks, experts, machines.ranks_per_node))
    layout.check_experts(experts)
    layout.check_node(machines.ranks_per_node)
    return layout


def _most_ranks(left: int, experts: int) -> int:
    """Return the largest number of ranks that can share the experts equally."""
    if not experts:
        return left
    return next(ranks for ranks in range(min(left, experts), 0, -1) if math.gcd(ranks, experts) == ranks)
