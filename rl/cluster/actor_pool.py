"""Ray actors of one kind: waits with deadlines, whose errors name what was waited for, and replacement of the dead."""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from redraft.rl.cluster.errors import ClusterError, LearnerLostError

logger = logging.getLogger(__name__)

DEATHS = (RayActorError, ObjectLostError)
"""Errors of a dead actor; the second where its machine is gone, and a result with it."""


@dataclass(frozen=True)
class Call:
    """One method call to an actor."""

    method: str
    arguments: tuple[Any, ...]
    what: str  # for errors, e.g. "256 prompts"


class ActorPool:
    """Stateless actors of one kind; a dead one is replaced and its call issued again.

    Threads may use it side by side as long as each keeps to actors of its own.

    Args:
        kind: For errors.
        start: Starts the actor of a number; also called for a replacement.
        size: Number of actors.
        max_restarts: Replacements of one actor in a row.
    """

    def __init__(self, kind: str, start: Callable[[int], Any], size: int, max_restarts: int) -> None:
        self.kind, self.start, self.max_restarts = kind, start, max_restarts
        self.prepare: Callable[[int, float], None] | None = None  # brings a replacement to the state of the others
        self.closed = False
        self.actors = [start(index) for index in range(size)]

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until every actor is up, so that what cannot start is known before the first step."""
        deadline = time.monotonic() + timeout_s
        for index, actor in enumerate(self.actors):
            await_ready(actor, deadline, f"{self.kind} {index}")

    def renew(self, size: int, timeout_s: float) -> None:
        """Kill all actors, and start new ones side by side; they have no state yet."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = [self.start(index) for index in range(size)]
        self.wait_until_ready(timeout_s)

    def run_on(self, index: int, call: Call, timeout_s: float) -> Any:
        """Call actor `index` and return the result.

        Raises:
            ClusterError: The deadline passed, the actor keeps dying, or the pool was closed.
        """
        return self._collect(index, call, self.issue(index, call), time.monotonic() + timeout_s)

    def run_everywhere(self, call: Call, timeout_s: float) -> list[Any]:
        """Make the same call to every actor."""
        deadline = time.monotonic() + timeout_s
        pending = [self.issue(index, call) for index in range(len(self.actors))]
        return [self._collect(index, call, result, deadline) for index, result in enumerate(pending)]

    def stream(
        self, shares: Sequence[Sequence[int]], call: Callable[[Sequence[int]], Call], timeout_s: float
    ) -> Generator[tuple[int, Any], None, None]:
        """Yield results of numbered items, in the order in which they arrive.

        Args:
            shares: Items of each actor.
            call: The call for some items; its method is a generator of (place of the item in the call, result).
            timeout_s: For all items together.

        Yields:
            An item and its result, each item once. Only what a dead actor still owed is issued again.

        Raises:
            ClusterError: The deadline for all of them passed, or actors keep dying.
        """
        deadline = time.monotonic() + timeout_s
        streams = [_Stream(self, index, share, call) for index, share in enumerate(shares)]
        try:
            while running := {one.results: one for one in streams if one.owed}:
                ready, late = ray.wait(list(running), timeout=max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise _late(running[late[0]].what)
                yield from running[ready[0]].receive(deadline)
        finally:  # the reader may leave before the end, and does not wait for the rest
            for one in streams:
                one.cancel()

    def resize(self, size: int, timeout_s: float) -> None:
        """Kill actors at the end of the list, or start more and bring them to the state of the others."""
        for actor in self.actors[size:]:
            ray.kill(actor)
        del self.actors[size:]
        deadline = time.monotonic() + timeout_s
        for index in range(len(self.actors), size):
            self.actors.append(self.start(index))
            if self.prepare is not None:
                self.prepare(index, deadline)

    def close(self) -> None:
        """Kill the actors; calls that other threads wait for fail."""
        self.closed = True
        for actor in self.actors:
            ray.kill(actor)

    def issue(self, index: int, call: Call, streaming: bool = False) -> Any:
        """Send a call to actor `index`; `get` waits for its result, or for each result of a stream."""
        method = getattr(self.actors[index], call.method)
        return (method.options(num_returns="streaming") if streaming else method).remote(*call.arguments)

    def replace(self, index: int, call: Call, restart: int, death: Exception, deadline: float) -> None:
        """Start a new actor in the place of one that died; `restart` counts its deaths on this call before this one."""
        if self.closed:
            raise ClusterError(f"{self.kind} {index}: {call.what}: the pool was closed") from None
        if restart == self.max_restarts:
            raise ClusterError(f"{self.kind} {index} died {restart + 1} times in a row: {death}") from death
        logger.warning("%s %d died; replacing it and issuing %s again", self.kind, index, call.what)
        self.actors[index] = self.start(index)
        if self.prepare is not None:
            # Waits, because an actor that could not take the current weights must not work with others.
            self.prepare(index, deadline)

    def _collect(self, index: int, call: Call, pending: Any, deadline: float) -> Any:
        for restart in range(self.max_restarts + 1):
            try:
                return get(pending, deadline, f"{self.kind} {index}: {call.what}")
            except DEATHS as death:
                self.replace(index, call, restart, death, deadline)
            pending = self.issue(index, call)
        raise AssertionError("unreachable")


class _Stream:
    """One actor's share of a stream: the items it still owes, and the call that is to bring them."""

    def __init__(
        self, pool: ActorPool, index: int, items: Sequence[int], make_call: Callable[[Sequence[int]], Call]
    ) -> None:
        self.pool, self.index, self.make_call = pool, index, make_call
        self.owed = dict.fromkeys(items)
        self.deaths = 0
        self._issue()

    @property
    def what(self) -> str:
        """Name of the wait, for errors."""
        return f"{self.pool.kind} {self.index}: {self.call.what}"

    def receive(self, deadline: float) -> Iterator[tuple[int, Any]]:
        """Yield the result that has arrived; nothing if the actor died, which is then replaced."""
        result = next(self.results, None)
        if result is None:
            raise ClusterError(f"{self.what}: the call ended, but {len(self.owed)} results are missing")
        try:
            place, value = get(result, deadline, self.what)
        except DEATHS as death:
            self.pool.replace(self.index, self.call, self.deaths, death, deadline)
            self.deaths += 1
            self._issue()
            return
        self.deaths = 0
        del self.owed[self.asked[place]]
        yield self.asked[place], value

    def cancel(self) -> None:
        """Stop the call at its next result, if results are still owed."""
        if self.owed and ray.is_initialized():
            ray.cancel(self.results)

    def _issue(self) -> None:
        self.asked = list(self.owed)
        self.call = self.make_call(self.asked)
        self.results = self.pool.issue(self.index, self.call, streaming=True)


def await_ready(actor: Any, deadline: float, what: str) -> None:
    """Wait until an actor is up.

    Raises:
        ClusterError: It cannot start, died, or the deadline passed.
    """
    try:
        get(actor.__ray_ready__.remote(), deadline, what)
    except RayActorError as death:
        raise ClusterError(f"{what} died while starting: {death}") from death


def get(pending: Any, deadline: float, what: str) -> Any:
    """Wait for a result until a deadline of the monotonic clock.

    Raises:
        ClusterError: The deadline passed, or the actor could not even start.
        LearnerLostError: The call's input comes from the learner, and is gone with it.
        RayActorError: The actor died; the caller decides what that means.
        Exception: What the actor's method raised, as it raised it.
    """
    try:
        return ray.get(pending, timeout=max(0.0, deadline - time.monotonic()))
    except GetTimeoutError:
        raise _late(what) from None
    except RayTaskError as error:
        cause = error.cause
        # It is not this actor that died, but the one that its argument comes from.
        if isinstance(cause, RayActorError):
            raise LearnerLostError(f"{what}: the learner, which its input comes from, died: {cause}") from None
        raise cause if isinstance(cause, Exception) else error from None
    except RayActorError as death:
        if death.actor_init_failed:
            raise ClusterError(f"{what}: cannot start: {_raised(str(death))}") from None
        raise


def _raised(trace: str) -> str:
    """Cut the exception out of a printed traceback: what follows the last indented line."""
    lines = trace.splitlines()
    last_frame = max((number for number, line in enumerate(lines) if line.startswith("  ")), default=-1)
    return "\n".join(lines[last_frame + 1 :]) or trace


def _late(what: str) -> ClusterError:
    return ClusterError(f"{what}: no answer before its deadline; see cluster.*_timeout_s in the recipe")
