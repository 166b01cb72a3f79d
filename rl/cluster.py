"""Ray: the cluster, the actors, and pools that replace the dead and issue their work again.

Only waiting, placing and replacing happen here; what the actors do is in the `worker.py` files. Every wait has a
deadline from the recipe and names what it waits for.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from rewards.mixture import Sample, Scored
from rewards.worker import RewardWorker
from rl.batch import Experience
from rl.config import RunConfig
from rl.policy import load_rollout_policy
from rl.worker import LearnerWorker
from rollout.config import DecodeConfig
from rollout.trajectory import Completion, Prompt, SpecialTokens
from rollout.worker import RolloutWorker

logger = logging.getLogger(__name__)


class ClusterError(RuntimeError):
    """The cluster cannot do what the recipe asks, or stopped doing it."""


@contextlib.contextmanager
def cluster(config: RunConfig) -> Iterator[None]:
    """A Ray cluster for one run: joined through RAY_ADDRESS, or a local one that is started and stopped here."""
    joined = bool(os.environ.get("RAY_ADDRESS"))
    asked_cpus, asked_gpus = _resources(config)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not joined:
        # Logical CPUs only place actors. Phases alternate, so a laptop may hold more actors than it has cores.
        cpus = max(os.cpu_count() or 1, asked_cpus)
        # "local": without it, Ray would join any cluster that somebody left running on this machine.
        options |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    # Ray would otherwise remind us of a change of its own defaults on every start.
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


@dataclass(frozen=True)
class Call:
    """One method call to an actor."""

    method: str
    arguments: tuple[Any, ...]
    what: str  # for errors, e.g. "256 prompts"


class ActorPool:
    """Stateless actors of one kind; a dead one is replaced and its call issued again."""

    def __init__(self, kind: str, start: Callable[[], Any], size: int, max_restarts: int) -> None:
        self.kind, self.start, self.max_restarts = kind, start, max_restarts
        self.prepare: Call | None = None  # brings a replacement to the state of the others
        self.actors = [start() for _ in range(size)]

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until every actor is up, so that what cannot start is known before the first step."""
        deadline = time.monotonic() + timeout_s
        for index, actor in enumerate(self.actors):
            _await_ready(actor, deadline, f"{self.kind} {index}")

    def run(self, calls: Sequence[Call], timeout_s: float) -> list[Any]:
        """Call i goes to actor i; results in order.

        Raises:
            ClusterError: The deadline for all of them passed, or actors keep dying.
        """
        deadline = time.monotonic() + timeout_s
        pending = [self._issue(index, call) for index, call in enumerate(calls)]
        return [self._collect(index, call, pending[index], deadline) for index, call in enumerate(calls)]

    def run_everywhere(self, call: Call, timeout_s: float) -> list[Any]:
        """The same call to every actor; replacements get it too, now and later."""
        self.prepare = call
        return self.run([call] * len(self.actors), timeout_s)

    def _issue(self, index: int, call: Call) -> Any:
        return getattr(self.actors[index], call.method).remote(*call.arguments)

    def _collect(self, index: int, call: Call, pending: Any, deadline: float) -> Any:
        for restart in range(self.max_restarts + 1):
            try:
                return _get(pending, deadline, f"{self.kind} {index}: {call.what}")
            except RayActorError as death:
                if restart == self.max_restarts:
                    raise ClusterError(f"{self.kind} {index} died {restart + 1} times in a row: {death}") from death
                logger.warning("%s %d died; replacing it and issuing %s again", self.kind, index, call.what)
            pending = self._replace(index, call, deadline)
        raise AssertionError("unreachable")

    def _replace(self, index: int, call: Call, deadline: float) -> Any:
        self.actors[index] = self.start()
        if self.prepare is not None and call is not self.prepare:
            # Awaited: an actor that could not take the current weights must not work with others.
            _get(self._issue(index, self.prepare), deadline, f"new {self.kind} {index}: {self.prepare.what}")
        return self._issue(index, call)


def _await_ready(actor: Any, deadline: float, what: str) -> None:
    try:
        _get(actor.__ray_ready__.remote(), deadline, what)
    except RayActorError as death:
        raise ClusterError(f"{what} died while starting: {death}") from death


def _get(pending: Any, deadline: float, what: str) -> Any:
    """Wait for a result until a deadline of the monotonic clock.

    Raises:
        ClusterError: The deadline passed, or the actor could not even start.
        RayActorError: The actor died; the caller decides what that means.
        Exception: What the actor's method raised, as it raised it.
    """
    try:
        return ray.get(pending, timeout=max(0.0, deadline - time.monotonic()))
    except GetTimeoutError:
        raise ClusterError(f"{what}: no answer before its deadline; see cluster.*_timeout_s in the recipe") from None
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RayActorError):  # not this actor died, but the one that its argument comes from
            raise ClusterError(f"{what}: the learner, which its input comes from, died: {cause}") from None
        raise cause if isinstance(cause, Exception) else error from None
    except RayActorError as death:
        if death.actor_init_failed:
            raise ClusterError(f"{what}: cannot start: {_raised(str(death))}") from None
        raise


def _raised(trace: str) -> str:
    """The exception at the end of a printed traceback: what follows its last indented line."""
    lines = trace.splitlines()
    last_frame = max((number for number, line in enumerate(lines) if line.startswith("  ")), default=-1)
    return "\n".join(lines[last_frame + 1 :]) or trace


def _spread(items: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """Contiguous shares, the same for the same lengths: a re-run cuts its batches alike, bit for bit."""
    size = -(-len(items) // parts)
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
        actor = ray.remote(num_cpus=c.rollout_cpus, num_gpus=c.rollout_gpus)(RolloutWorker)
        make = partial(load_rollout_policy, path, config.model.dtype, config.model.device)
        start = partial(actor.remote, make, tokens, config.rollout.max_rows, c.rollout_threads)
        self.pool = ActorPool("rollout actor", start, config.rollout.num_actors, c.max_restarts)
        self.config = c

    def sync(self, weights: Any) -> int:
        """Install the weights on every actor and compare what they report."""
        call = Call("sync", (weights,), "installing weights")
        versions = set(self.pool.run_everywhere(call, self.config.sync_timeout_s))
        if len(versions) != 1:
            raise ClusterError(f"rollout actors hold different policy versions after a sync: {sorted(versions)}")
        return versions.pop()

    def generate(self, prompts: Sequence[Prompt], config: DecodeConfig) -> list[Completion]:
        """Complete every prompt, spread over the actors."""
        shares = _spread(prompts, len(self.pool.actors))
        calls = [Call("generate", (share, config), f"{len(share)} prompts from {share[0].id}") for share in shares]
        return [one for share in self.pool.run(calls, self.config.rollout_timeout_s) for one in share]


class RayRewards:
    """Reward workers behind the loop's protocol."""

    def __init__(self, config: RunConfig) -> None:
        c = config.cluster
        actor = ray.remote(num_cpus=1)(RewardWorker)
        start = partial(actor.remote, list(config.rewards))
        self.pool = ActorPool("reward worker", start, c.reward_workers, c.max_restarts)
        self.config = c

    def score(self, samples: Sequence[Sample]) -> list[Scored]:
        """Score samples, spread over the workers."""
        shares = _spread(samples, len(self.pool.actors))
        calls = [Call("score", (share,), f"{len(share)} completions") for share in shares]
        return [one for share in self.pool.run(calls, self.config.reward_timeout_s) for one in share]


class RayLearner:
    """The learner actor behind the loop's protocol. It has state: its death ends the run, which can be resumed."""

    def __init__(self, path: str, config: RunConfig, tokens: SpecialTokens) -> None:
        c = config.cluster
        actor = ray.remote(num_cpus=c.learner_cpus, num_gpus=c.learner_gpus)(LearnerWorker)
        self.actor: Any = actor.remote(path, config, tokens, c.learner_threads)
        self.timeout_s, self.start_timeout_s = c.update_timeout_s, c.start_timeout_s

    def wait_until_ready(self) -> None:
        """Wait until the policy is loaded."""
        _await_ready(self.actor, time.monotonic() + self.start_timeout_s, "learner")

    def update(self, rows: Sequence[Experience]) -> dict[str, float]:
        """Learn from one batch."""
        return self._call("update", list(rows))

    def weights(self) -> Any:
        """A reference to the weights in the object store: they never pass through the driver."""
        return self.actor.weights.remote()

    def save(self, folder: str) -> None:
        """Write the learner's part of a checkpoint."""
        self._call("save", os.path.abspath(folder))

    def load(self, folder: str) -> None:
        """Continue from a checkpoint."""
        self._call("load", os.path.abspath(folder))

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            deadline = time.monotonic() + self.timeout_s
            return _get(getattr(self.actor, method).remote(*arguments), deadline, f"learner: {method}")
        except RayActorError as death:
            raise ClusterError(f"the learner died in {method}: {death}; continue with --resume") from death
