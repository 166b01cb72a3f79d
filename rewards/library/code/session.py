"""One candidate in a sandbox, and the calls that the tests make of it."""

import builtins
import contextlib
import copy
import re
import resource
import select
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from redraft.rewards.library.code.wire import MAX_BYTES, WireError, dumps, loads
from redraft.rewards.processes.frames import receive_frame, send_frame
from redraft.rewards.sandbox.program import Program, ProgramExit, ProgramLimits, Sandbox

_HERE = Path(__file__).parent
_PARTS = [(_HERE / name).read_text() for name in ("values.py", "wire.py", "runner.py")]
RUNNER_SOURCE = re.sub(r"^from redraft\..*\n", "", "".join(_PARTS), flags=re.MULTILINE)
SERVE_SOURCE = RUNNER_SOURCE + "\nserve_calls(int(sys.argv[1]))\n"


_STEERING = (StopIteration, StopAsyncIteration)  # they would end a loop of the tests before its first assertion
_SLEPT_SHARE = 0.1  # of the CPU limit; also on a busy machine, a program that computes gets more until its wall time


class StopTestsError(BaseException):
    """The tests cannot go on. Not an Exception: a test that catches those must not swallow this one."""


class BreachError(StopTestsError):
    """The program ended, ran out of time or broke the protocol before it had answered.

    Attributes:
        timed_out: Whether it was a limit of time.
        blameless: Whether the machine may be to blame: it was too busy, or short of memory and killed the program.
    """

    def __init__(self, message: str, timed_out: bool = False, blameless: bool = False) -> None:
        super().__init__(message)
        self.timed_out, self.blameless = timed_out, blameless


class UncheckableError(StopTestsError):
    """The tests do what this checker cannot: hand over a function or an object, or never call the candidate."""


class CandidateError(Exception):
    """The candidate raised an exception of a class that is not built in, or one that would steer the tests."""


@runtime_checkable
class Caller(Protocol):
    """Answers the calls that tests make of the candidate.

    Attributes:
        calls: Number of calls answered.
        stopped: Why no more calls are answered; None while they are.
    """

    calls: int
    stopped: StopTestsError | None

    def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a function of the candidate; raises what it raises, or StopTestsError."""
        ...


class StubCaller:
    """Answers every call by a function of ours, in this process: for tests of the tests."""

    def __init__(self, stub: Callable[..., Any]) -> None:
        self.calls = 0
        self.stopped: StopTestsError | None = None
        self._stub = stub

    def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """See `Caller`."""
        self.calls += 1
        return self._stub(*copy.deepcopy(args), **copy.deepcopy(kwargs))


class Session:
    """A candidate that has been started; a context manager that ends it.

    Args:
        sandbox: Where to start it.
        limits: What it may use.
        wall_s: Seconds for everything.
    """

    def __init__(self, sandbox: Sandbox, limits: ProgramLimits, wall_s: float) -> None:
        self.calls = 0
        self.stopped: StopTestsError | None = None
        self._limits = limits
        self._cpu_before = children_cpu_s()
        self._program: Program | None = sandbox.start(SERVE_SOURCE, limits)
        self._deadline = self._program.started + wall_s

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        if self._program is not None:
            self._program.end()
            self._program = None

    def load(self, sources: Sequence[str]) -> None:
        """Execute the candidate's source texts, one after the other in one module."""
        self._exchange(("load", list(sources)))

    def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """See `Caller`. Where the function returns None, its changes to lists, dicts and sets it was given are kept."""
        value, changed = self._exchange(("call", name, list(args), dict(kwargs)))
        if value is None and isinstance(changed, list) and len(changed) == len(args):
            for old, new in zip(args, changed, strict=True):
                _replace(old, new)
        return value

    def _exchange(self, request: tuple[Any, ...]) -> tuple[Any, Any]:
        if self.stopped is not None:
            raise self.stopped
        try:
            text = dumps(request)
        except WireError as error:
            self.stopped = self._refused(f"the tests hand over a value that cannot cross: {error}")
            raise self.stopped from None
        try:
            reply = self._ask(text)
            self.calls += request[0] == "call"
            return read_reply(reply)
        except BreachError as breach:
            self.stopped = breach
            raise

    def _refused(self, message: str) -> StopTestsError:
        """Once the candidate has answered, the value may be its own: then the row is not to blame."""
        return BreachError(message) if self.calls else UncheckableError(message)

    def _ask(self, text: bytes) -> bytes:
        assert self._program is not None
        channel = self._program.channel
        try:
            if select.select([channel], [], [], 0)[0] and channel.recv(1):
                raise BreachError("the program spoke before it was asked")
            send_frame(channel, text, self._deadline)
            return receive_frame(channel, self._deadline, MAX_BYTES)
        except TimeoutError:
            raise self._too_late() from None
        except (EOFError, OSError):
            raise self._bury() from None
        except ValueError as error:  # longer than any value
            raise BreachError(f"not a valid answer: {error}") from None

    def _too_late(self) -> BreachError:
        """What it means that there was no answer in time; ends the program, whose CPU time counts only then."""
        assert self._program is not None
        self._program.end()
        self._program = None
        blameless = not slept(children_cpu_s() - self._cpu_before, self._limits)
        return BreachError("no answer within the wall time", timed_out=True, blameless=blameless)

    def _bury(self) -> BreachError:
        """How a program ended that closed its channel."""
        assert self._program is not None
        with contextlib.suppress(
            subprocess.TimeoutExpired
        ):  # it may have closed the channel and live on: then the kill ends it
            self._program.process.wait(timeout=0.5)
        ended, self._program = self._program.end(), None
        if ran_out_of_cpu(ended, children_cpu_s() - self._cpu_before, self._limits):
            return BreachError(f"out of CPU time ({self._limits.cpu_s} s)", timed_out=True)
        killed = ended.signal == signal.SIGKILL
        return BreachError(f"the program ended before it had answered ({exit_text(ended)})", blameless=killed)


def exit_text(ended: ProgramExit) -> str:
    """How a program ended, in words."""
    return f"exit code {ended.code}" if ended.signal is None else f"signal {ended.signal}"


def ran_out_of_cpu(ended: ProgramExit, used_s: float, limits: ProgramLimits) -> bool:
    """Whether a program ended because of its CPU limit. Kernels count ticks for the limit, so they may kill early."""
    return ended.signal in (signal.SIGKILL, signal.SIGXCPU) and used_s >= 0.5 * limits.cpu_s


def slept(used_s: float, limits: ProgramLimits) -> bool:
    """Whether a program that ran out of wall time waited by its own choice: the machine is not to blame then."""
    return used_s < _SLEPT_SHARE * limits.cpu_s


def read_reply(text: bytes) -> tuple[Any, Any]:
    """The value that the candidate returned, and its arguments where it changed them.

    Raises:
        Exception: The one that the candidate raised.
        BreachError: The text is no reply.
    """
    try:
        reply = loads(text)
    except WireError as error:
        raise BreachError(f"not a valid answer: {error}") from None
    if isinstance(reply, tuple) and len(reply) == 3:
        kind, first, second = reply
        if kind == "value":
            return first, second
        if kind == "raised" and isinstance(first, str) and isinstance(second, str):
            raise _exception(first, second)
    raise BreachError("not a valid answer: neither a value nor an exception")


def _exception(name: str, message: str) -> Exception:
    """The exception that the candidate raised, as the built-in class of that name where there is one."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _STEERING):
        with contextlib.suppress(TypeError):  # a few want other arguments than one message
            return kind(message)
    return CandidateError(f"{name}: {message}")


def _replace(old: Any, new: Any) -> None:
    """Give a list, dict or set that the tests hold the content that the candidate gave it."""
    if type(old) is not type(new):
        return
    if isinstance(old, list):
        old[:] = new
    elif isinstance(old, dict | set):
        old.clear()
        old.update(new)


def children_cpu_s() -> float:
    """CPU seconds of all processes of ours that have been reaped."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
