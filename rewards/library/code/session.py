"""One candidate in a sandbox, and the calls that the tests make of it.

**Guarantees**

* Only values cross: what the candidate returns consists of exact built-in types (`code.wire`), so that comparing it
  runs no code of the candidate's.
* An exception of the candidate reaches the tests as the built-in class of that name, or as `CandidateError`. It never
  ends a loop of the tests, as a StopIteration would.
* Once the program has ended, run out of time or broken the protocol, every later call raises the same `BreachError`,
  and no test can swallow it, because it is no Exception.
* When the block of a `Session` ends, so has the program with all that it started.

**Assumes**

* The sandbox ends a program at its limits of CPU and memory. The wall time is kept here.
* One thread uses a session, and the process starts no other programs meanwhile: CPU time is measured as the increase of
  what all ended children have used.

**Rejected alternatives**

* Believe an exit code, or a line that says "passed": the candidate can write both.
* Run the tests inside the sandbox: the candidate could change them, or the functions that they compare with.
* Pickle: reading it would run code that the candidate chooses.
"""

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

# The text that runs inside the sandbox is three of our files, one after the other. Their imports of each other are cut
# out, because nothing of ours can be imported there. So each may import from ours in single lines only.
_HERE = Path(__file__).parent
_PARTS = [(_HERE / name).read_text() for name in ("values.py", "wire.py", "runner.py")]
RUNNER_SOURCE = re.sub(r"^from redraft\..*\n", "", "".join(_PARTS), flags=re.MULTILINE)
SERVE_SOURCE = RUNNER_SOURCE + "\nserve_calls(int(sys.argv[1]))\n"

_STEERING = (StopIteration, StopAsyncIteration)  # they would end a loop of the tests before its first assertion
# Share of the CPU limit. A program that computes gets more than this within its wall time, even on a busy machine.
_SLEPT_SHARE = 0.1


class StopTestsError(BaseException):
    """The tests cannot go on. This is no Exception, so that a test that catches those does not swallow it."""


class BreachError(StopTestsError):
    """The program ended, ran out of time or broke the protocol before it had answered.

    Attributes:
        timed_out: Whether it passed a limit of time.
        blameless: Whether the machine may be to blame, because it was too busy, or out of memory.
    """

    def __init__(self, message: str, timed_out: bool = False, blameless: bool = False) -> None:
        super().__init__(message)
        self.timed_out, self.blameless = timed_out, blameless


class UncheckableError(StopTestsError):
    """The tests need what this checker cannot do (hand over a function or an object), or never call the candidate."""


class CandidateError(Exception):
    """The candidate raised an exception of a class that is not built in, or one that would end a loop of the tests."""


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
        """Call a function of the candidate; raise what it raises, or StopTestsError."""
        ...


class StubCaller:
    """Answers every call by a function of ours, in this process, to find out what the tests accept."""

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
        wall_s: Seconds from the start of the program to its last answer.
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
        """See `Caller`. Where it returns None, the changes it made to lists, dicts and sets it was given are kept."""
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
        """Blame the row for a value that cannot cross, or the candidate once it has answered: it may be its value."""
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
        """End a program that did not answer in time, and say whether the machine is to blame.

        The CPU time of a program is known only after its end.
        """
        assert self._program is not None
        self._program.end()
        self._program = None
        blameless = not slept(children_cpu_s() - self._cpu_before, self._limits)
        return BreachError("no answer within the wall time", timed_out=True, blameless=blameless)

    def _bury(self) -> BreachError:
        """End a program that closed its channel, and say how it ended."""
        assert self._program is not None
        # A program may close its channel and live on. Then `end` kills it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._program.process.wait(timeout=0.5)
        ended, self._program = self._program.end(), None
        if ran_out_of_cpu(ended, children_cpu_s() - self._cpu_before, self._limits):
            return BreachError(f"out of CPU time ({self._limits.cpu_s} s)", timed_out=True)
        killed = ended.signal == signal.SIGKILL
        return BreachError(f"the program ended before it had answered ({exit_text(ended)})", blameless=killed)


def exit_text(ended: ProgramExit) -> str:
    """Say how a program ended."""
    return f"exit code {ended.code}" if ended.signal is None else f"signal {ended.signal}"


def ran_out_of_cpu(ended: ProgramExit, used_s: float, limits: ProgramLimits) -> bool:
    """Tell whether a program ended because of its CPU limit. Kernels count that in ticks, so they may kill early."""
    return ended.signal in (signal.SIGKILL, signal.SIGXCPU) and used_s >= 0.5 * limits.cpu_s


def slept(used_s: float, limits: ProgramLimits) -> bool:
    """Tell whether a program that ran out of wall time waited by its own choice; then the machine is not to blame."""
    return used_s < _SLEPT_SHARE * limits.cpu_s


def read_reply(text: bytes) -> tuple[Any, Any]:
    """Read the value that the candidate returned, and its arguments where it changed them.

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
    """Make the exception that the candidate raised, of the built-in class of that name where there is one."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _STEERING):
        with contextlib.suppress(TypeError):  # a few classes take other arguments than one message
            return kind(message)
    return CandidateError(f"{name}: {message}")


def _replace(old: Any, new: Any) -> None:
    """Change a list, dict or set of the tests as the candidate has changed its copy."""
    if type(old) is not type(new):
        return
    if isinstance(old, list):
        old[:] = new
    elif isinstance(old, dict | set):
        old.clear()
        old.update(new)


def children_cpu_s() -> float:
    """CPU seconds of all our children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
