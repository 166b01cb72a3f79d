"""Ray: the cluster of a run, and its actors behind the loop's protocols.

Only placing happens here: what the actors do is in the `worker.py` files, how they are waited for and replaced in
`rl.cluster.actor_pool`. Every wait has a deadline from the recipe.
"""

import contextlib
import logging
import os
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError

from redraft.rewards.result import SampleScore
from redraft.rewards.scoring.dispatch import Dispatcher
from redraft.rewards.scoring.mixture import Sample
from redraft.rewards.worker import RewardWorker
from redraft.rl.cluster.actor_pool import ActorPool, Call, ClusterError, await_ready, get
from redraft.rl.cluster.rollout_worker import rollout_worker
from redraft.rl.cluster.weight_delivery import Delivery, RayWeights
from redraft.rl.config.by_device import is_colocated
from redraft.rl.config.schema import RunConfig
from redraft.rl.learner.worker import LearnerWorker
from redraft.rl.protocols import Canary, Experience
from redraft.rollout.config import DecodeConfig
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens


@contextlib.contextmanager
def cluster(config: RunConfig) -> Iterator[None]:
    """Join the Ray cluster at RAY_ADDRESS, or start a local one for this run and stop it at the end."""
    joined = os.environ.get("RAY_ADDRESS", "") not in {"", "local"}
    asked_cpus, asked_gpus = _resources(config)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not joined:
        # Logical CPUs only place actors. Phases alternate, so a laptop may hold more actors than it has cores.
        cpus = max(os.cpu_count() or 1, asked_cpus)
        # Without "local", Ray would join any cluster that was left running on this machine.
        options |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    # Otherwise Ray warns at every start that its defaults will change.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(**options)
    try:
        _await_resources(asked_cpus, asked_gpus, config.cluster.start_timeout_s if joined else 0.0)
        yield
    finally:
        ray.shutdown()


def _resources(config: RunConfig) -> tuple[float, float]:
    c = config.cluster
    actors = config.rollout.num_actors
    cpus = c.learner_cpus + actors * c.rollout_cpus + c.reward_workers
    return cpus, c.learner_gpus + actors * c.rollout_gpus


def _await_resources(cpus: float, gpus: float, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        there = ray.cluster_resources()
        if there.get("CPU", 0) >= cpus and there.get("GPU", 0) >= gpus:
            return
        if time.monotonic() >= deadline:
            raise ClusterError(
                f"the cluster has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs after {timeout_s:g} s;"
                f" the recipe asks for {cpus:g} and {gpus:g}: lower cluster.* or rollout.num_actors, or add nodes"
            )
        time.sleep(1)


def _spread(items: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """Cut items into contiguous shares, the same for the same lengths, so that a re-run is equal bit for bit."""
    size = max(1, -(-len(items) // parts))
    return [items[start : start + size] for start in range(0, len(items), size)]


def start_parts(
    path: str, config: RunConfig, tokens: SpecialTokens
) -> tuple["RayRollouts", "RayRewards", "RayLearner"]:
    """Start all actors side by side and wait until they are up."""
    rollouts, rewards, learner = RayRollouts(path, config, tokens), RayRewards(config), RayLearner(path, config, tokens)
    learner.wait_until_ready()
    for part in (rollouts, rewards):
        part.pool.wait_until_ready(config.cluster.start_timeout_s)
    return rollouts, rewards, learner


class RayRollouts:
    """Rollout actors behind the loop's protocol."""

    def __init__(self, path: str, config: RunConfig, tokens: SpecialTokens) -> None:
        c = config.cluster
        worker = rollout_worker(path, config, tokens, c.rollout_threads)
        actor = ray.remote(num_cpus=c.rollout_cpus, num_gpus=c.rollout_gpus)(worker.func)
        start = partial(actor.remote, *worker.args)
        self.pool = ActorPool("rollout actor", start, config.rollout.num_actors, c.max_restarts)
        self.delivery = Delivery(self.pool, config)
        self.config = c
        has_gpus = config.model.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        self.takes_turns = is_colocated(config, has_gpus)

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
        """Let every actor take its memory again."""
        self._turn(Call("wake", (), "taking memory again"))

    def _turn(self, call: Call) -> None:
        if self.takes_turns:
            # A replacement of an actor that dies here gets the newest weights first, like any other, then this call.
            self.pool.run_everywhere(call, self.config.sync_timeout_s, keep=False)


class RayRewards:
    """Reward workers behind the loop's protocol: each has one call at a time, and takes the next when it is done."""

    def __init__(self, config: RunConfig) -> None:
        c = config.cluster
        actor = ray.remote(num_cpus=1)(RewardWorker)
        start = partial(actor.remote, list(config.rewards))
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
    """The learner actor behind the loop's protocol. It has state: its death ends the run, which can be resumed."""

    def __init__(self, path: str, config: RunConfig, tokens: SpecialTokens) -> None:
        c = config.cluster
        actor = ray.remote(num_cpus=c.learner_cpus, num_gpus=c.learner_gpus)(LearnerWorker)
        self.actor: Any = actor.remote(path, config, tokens, c.learner_threads)
        self.timeout_s, self.start_timeout_s = c.update_timeout_s, c.start_timeout_s

    def wait_until_ready(self) -> None:
        """Wait until the policy is loaded."""
        await_ready(self.actor, time.monotonic() + self.start_timeout_s, "learner")

    def update(self, rows: Sequence[Experience]) -> dict[str, float]:
        """Learn from one batch."""
        return self._call("update", list(rows))

    def weights(self, canary: Canary | None = None) -> RayWeights:
        """Return where the weights are: they never pass through the driver."""
        return RayWeights([self.actor], canary)

    def save(self, folder: str) -> None:
        """Write the learner's part of a checkpoint."""
        self._call("save", os.path.abspath(folder))

    def load(self, folder: str) -> None:
        """Continue from a checkpoint."""
        self._call("load", os.path.abspath(folder))

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            deadline = time.monotonic() + self.timeout_s
            return get(getattr(self.actor, method).remote(*arguments), deadline, f"learner: {method}")
        except RayActorError as death:
            raise ClusterError(
                f"the learner died in {method}: {death}; continue with --resume (in Python resume=True)"
            ) from death
