"""Ray: the cluster of a run, and its actors behind the loop's protocols.

What the actors do is in the `worker.py` files. How rollouts and rewards are waited for and replaced is in
`rl.cluster.actor_pool`; what lies where, in `rl.cluster.placement`; the learner's ranks, in `rl.cluster.gang`. Every
wait has a deadline from the recipe.
"""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch

from redraft.rewards.result import SampleScore
from redraft.rewards.scoring.dispatch import Dispatcher
from redraft.rewards.scoring.mixture import Sample
from redraft.rewards.worker import RewardWorker
from redraft.rl.cluster.actor_pool import ActorPool, Call
from redraft.rl.cluster.errors import ClusterError
from redraft.rl.cluster.gang import Gang, spot_in
from redraft.rl.cluster.placement import Placement, TooFewMachinesError, count_machines, place_parts
from redraft.rl.cluster.rollout_worker import rollout_worker
from redraft.rl.cluster.weight_delivery import Delivery, RayWeights
from redraft.rl.config.by_device import is_colocated
from redraft.rl.config.schema import RunConfig
from redraft.rl.models.shape import find_shape
from redraft.rl.protocols import Canary, Experience
from redraft.rollout.config import DecodeConfig
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def cluster(config: RunConfig) -> Iterator[None]:
    """Join the Ray cluster at RAY_ADDRESS, or start a local one for this run and stop it at the end."""
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not _is_joined():
        # Logical CPUs only place actors. Phases alternate, so a laptop may hold more actors than it has cores.
        cpus = max(os.cpu_count() or 1, _most_cpus(config))
        # Without "local", Ray would join any cluster that was left running on this machine.
        options |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    # Otherwise Ray warns at every start that its defaults will change.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(**options)
    try:
        yield
    finally:
        ray.shutdown()


def _is_joined() -> bool:
    return os.environ.get("RAY_ADDRESS", "") not in {"", "local"}


def _most_cpus(config: RunConfig) -> float:
    """CPUs that all parts of a run on this machine may ask for."""
    c, gpus = config.cluster, torch.cuda.device_count()
    ranks = config.trainer.parallel.ranks or max(1, gpus)
    return ranks * c.learner_cpus + max(gpus, config.rollout.num_actors) * c.rollout_cpus + c.reward_workers


def place_on_cluster(config: RunConfig, experts: int, timeout_s: float) -> Placement:
    """Place the parts of a run on the cluster as it is; wait for nodes that are still to come.

    Raises:
        ClusterError: After `timeout_s` the cluster still cannot hold what the recipe asks for.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        there = [sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")]
        try:
            placement = place_parts(config, experts, count_machines(nodes, config))
            asked = placement.asked(config)
            if all(have >= need for have, need in zip(there, asked, strict=True)):
                return placement
            problem = f"the recipe asks for {asked[0]:g} and {asked[1]:g}: lower cluster.* or rollout.num_actors"
        except TooFewMachinesError as error:
            problem = str(error)
        except ValueError as error:
            raise ClusterError(f"learner: {error}") from error
        if time.monotonic() >= deadline:
            raise ClusterError(
                f"the cluster has {there[0]:g} CPUs and {there[1]:g} GPUs after {timeout_s:g} s; {problem}"
            )
        time.sleep(1)


def _placed(path: str, config: RunConfig) -> Placement:
    """Place the parts of a run that starts with the policy in a folder; nodes may still join a cluster."""
    timeout_s = config.cluster.start_timeout_s if _is_joined() else 0.0
    return place_on_cluster(config, find_shape(path, None).experts, timeout_s)


def _spread(items: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """Cut items into contiguous shares, the same for the same lengths, so that a re-run is equal bit for bit."""
    size = max(1, -(-len(items) // parts))
    return [items[start : start + size] for start in range(0, len(items), size)]


def start_parts(
    path: str, config: RunConfig, tokens: SpecialTokens
) -> tuple["RayRollouts", "RayRewards", "RayLearner"]:
    """Start all actors side by side and wait until they are up."""
    learner = RayLearner(path, config, tokens)  # reserves its places first: the others take what is left
    if learner.placement.colocated:
        learner.wait_until_ready()  # an engine takes pages of what is free on its GPU, perhaps as soon as it starts
    rollouts, rewards = RayRollouts(path, config, tokens, learner), RayRewards(config)
    if not learner.placement.colocated:
        learner.wait_until_ready()
    for part in (rollouts, rewards):
        part.pool.wait_until_ready(config.cluster.start_timeout_s)
    return rollouts, rewards, learner


class RayRollouts:
    """Rollout actors behind the loop's protocol; beside the ranks of the learner where these share their GPUs."""

    def __init__(
        self, path: str, config: RunConfig, tokens: SpecialTokens, learner: "RayLearner | None" = None
    ) -> None:
        c = config.cluster
        worker = rollout_worker(path, config, tokens, c.rollout_threads)
        placement = learner.placement if learner else _placed(path, config)
        actor = ray.remote(num_cpus=c.rollout_cpus, num_gpus=placement.engine_gpus)(worker.func)

        def start(index: int) -> Any:
            spot = learner.spot_beside(index) if learner else "SPREAD"
            return actor.options(scheduling_strategy=spot).remote(*worker.args)

        self.learner, self.gang = learner, learner.gang if learner else None
        self.pool = ActorPool("rollout actor", start, placement.engines, c.max_restarts)
        self.delivery = Delivery(self.pool, config, placement)
        self.config = c
        self.takes_turns = is_colocated(config, on_gpu=placement.gpus > 0)

    def sync(self, weights: RayWeights) -> int:
        """Bring the weights to every actor; see `Delivery.sync`."""
        return self.delivery.sync(weights)

    def stream(self, prompts: Sequence[Prompt], config: DecodeConfig) -> Generator[tuple[int, Completion], None, None]:
        """Complete every prompt, spread over the actors; yield its index and its completion as they come."""

        def call(indices: Sequence[int]) -> Call:
            share = [prompts[index] for index in indices]
            return Call("stream", (share, config), f"{len(share)} prompts from {share[0].id}")

        shares = _spread(range(len(prompts)), len(self.pool.actors))
        return self.pool.stream(shares, call, self.config.rollout_timeout_s)

    def release(self) -> None:
        """Let every actor give its memory back, if the learner shares its GPU."""
        self._turn(Call("sleep", (), "giving memory back"))

    def restore(self) -> None:
        """Let every actor take its memory again, as many as a learner that was restarted has places for."""
        self.delivery.forget()
        if self.learner is not None and self.learner.gang is not self.gang:
            self.gang, placement = self.learner.gang, self.learner.placement
            # On GPUs, actors died with the bundles that they shared, or wait in a broadcast that NCCL does not end.
            change = self.pool.renew if placement.gpus else self.pool.resize
            change(placement.engines, self.config.start_timeout_s)
        self._turn(Call("wake", (), "taking memory again"))

    def _turn(self, call: Call) -> None:
        if self.takes_turns:
            # A replacement of an actor that dies here gets the newest weights first, like any other, then this call.
            self.pool.run_everywhere(call, self.config.sync_timeout_s)


class RayRewards:
    """Reward workers behind the loop's protocol: each has one call at a time, and takes the next when it is done."""

    def __init__(self, config: RunConfig) -> None:
        c = config.cluster
        actor = ray.remote(num_cpus=1)(RewardWorker)
        actor = actor.options(scheduling_strategy="SPREAD")

        def start(index: int) -> Any:
            return actor.remote(list(config.rewards))

        self.pool = ActorPool("reward worker", start, c.reward_workers, c.max_restarts)
        self.timeout_s = c.reward_timeout_s
        self.dispatcher = Dispatcher([partial(self._score_on, index) for index in range(c.reward_workers)])

    def submit(self, samples: Sequence[Sample]) -> Future[list[SampleScore]]:
        """Queue samples that belong together."""
        return self.dispatcher.submit(samples)

    def close(self) -> None:
        """End the actors and the threads that wait for them; what still waits for a score fails."""
        self.pool.close()
        self.dispatcher.close()

    def _score_on(self, index: int, samples: Sequence[Sample]) -> list[SampleScore]:
        return self.pool.run_on(index, Call("score", (samples,), f"{len(samples)} completions"), self.timeout_s)


class RayLearner:
    """The learner's ranks behind the loop's protocol. They have state: if one is lost, all are, and `restart` helps."""

    def __init__(self, path: str, config: RunConfig, tokens: SpecialTokens) -> None:
        self.path, self.config, self.tokens = path, config, tokens
        self.placement = _placed(path, config)
        logger.info("%s", self.placement.describe())
        if idle := self.placement.idle_text(find_shape(path, None).experts):
            logger.warning("%s", idle)
        self.gang = Gang(config, self.placement)

    def wait_until_ready(self) -> None:
        """Wait until every rank has its part of the policy, and check that all of them see the run folder."""
        self.gang.open(self.path, self.tokens)
        if len(set(self.gang.nodes)) > 1 or _is_joined():
            self._check_shared(Path(self.config.output_dir).absolute())

    def restart(self) -> None:
        """Start new ranks with the run's first policy, on what the cluster still has."""
        self.gang.close()
        self.placement = _placed(self.path, self.config)
        self.gang = Gang(self.config, self.placement)
        self.wait_until_ready()

    def spot_beside(self, index: int) -> Any:
        """Say where Ray places a rollout actor: in the bundle of a rank that it shares a GPU with, or anywhere."""
        if not self.placement.colocated:
            return "SPREAD"
        return spot_in(self.gang.group, index)

    def update(self, rows: Sequence[Experience]) -> dict[str, float]:
        """Learn from one batch; the rows lie in the object store once, and every rank reads them there."""
        return ray.get(self.gang.call("update", ray.put(list(rows))))

    def weights(self, canary: Canary | None = None) -> RayWeights:
        """Return where the weights are: they never pass through the driver."""
        return RayWeights(lambda: self.gang, canary)

    def save(self, folder: str) -> None:
        """Write the learner's part of a checkpoint."""
        self.gang.call("save", os.path.abspath(folder))

    def load(self, folder: str) -> None:
        """Continue from a checkpoint."""
        self.gang.call("load", os.path.abspath(folder))

    def _check_shared(self, run: Path) -> None:
        """Refuse a run folder that a rank does not see: its part of a checkpoint would be missing."""
        folder = run / f".seen-{os.getpid()}"
        try:
            names = self.gang.leave_marks(str(folder))
            for name, node in zip(names, self.gang.nodes, strict=True):
                if not (folder / name).is_file():
                    raise ClusterError(
                        f"output_dir {run} is not shared between the nodes: the learner's {name} on {node} wrote into"
                        " another folder of this name; use one on a file system that all nodes mount"
                    )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
