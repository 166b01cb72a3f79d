"""Where a reward function runs: in this process, or in a warm worker process that is killed at its deadline."""

import pickle
import traceback
from collections.abc import Mapping
from typing import Any, Protocol

from redraft.rewards.processes.errors import RemoteError, WorkerError
from redraft.rewards.processes.worker import Worker
from redraft.rewards.result import InvalidResultError, RewardError, Verdict
from redraft.rewards.reward import Declared, importable_address, resolve
from redraft.rewards.scoring.call import Signature, call_reward
from redraft.rewards.user_files import beside, raised_at


class RaisedError(Exception):
    """The reward function raised; the cause is its exception, or the `RemoteError` that reports it."""

    def __init__(self, type_name: str, summary: str) -> None:
        """Keep the exception's class name and its one-line summary."""
        super().__init__(summary)
        self.type_name = type_name


class Runner(Protocol):
    """Calls one reward function."""

    def start(self) -> Signature:
        """Find the function and return its signature; cheap when repeated."""
        ...

    def call(self, arguments: Mapping[str, Any], expected: int) -> list[Verdict]:
        """Call the function once; raise RaisedError where it raises."""
        ...

    def close(self) -> None:
        """End the worker process, if there is one."""
        ...


class InlineRunner:
    """Calls a reward in this process: no deadline, no protection."""

    def __init__(self, fn: str) -> None:
        """Find the function."""
        self._fn, self._function = fn, resolve(fn)
        self._signature = Signature.of(self._function)

    def start(self) -> Signature:
        """See `Runner`."""
        return self._signature

    def call(self, arguments: Mapping[str, Any], expected: int) -> list[Verdict]:
        """See `Runner`."""
        try:
            with beside(self._fn):
                return call_reward(self._function, arguments, expected)
        except (RewardError, WorkerError):
            raise
        except (Exception, SystemExit) as error:
            place = raised_at(traceback.format_exc())
            raise RaisedError(type(error).__name__, f"{type(error).__name__}: {error}{place}") from error

    def close(self) -> None:
        """Do nothing: there is no process."""


class ProcessRunner:
    """Calls a reward in a warm worker process, which is killed when it passes the deadline."""

    def __init__(self, fn: str, timeout_s: float) -> None:
        """Prepare the worker; it starts, and imports the function, at `start` or with the first call."""
        self._address = importable_address(fn)
        self._timeout_s = timeout_s
        self._worker = Worker("redraft.rewards.scoring.call:describe_reward", (self._address,))

    def start(self) -> Signature:
        """See `Runner`."""
        try:
            described = self._worker.start()
        except RemoteError as error:
            raise RewardError(_message(error)) from error
        declared = described["declared"]
        declared = Declared(**declared | {"attacks": tuple(declared["attacks"])})
        return Signature(**described | {"declared": declared})

    def call(self, arguments: Mapping[str, Any], expected: int) -> list[Verdict]:
        """See `Runner`."""
        _check_picklable(arguments)
        request = (self._address, dict(arguments), expected)
        try:
            reply = self._worker.call("redraft.rewards.scoring.call:call_reward_for_parent", request, self._timeout_s)
        except RemoteError as error:
            if error.type_name == RewardError.__name__:
                raise RewardError(_message(error)) from error
            raise RaisedError(error.type_name, error.summary + raised_at(str(error))) from error
        if "invalid" in reply:
            raise InvalidResultError(reply["invalid"], reply["row"])
        return [Verdict(**verdict) for verdict in reply["verdicts"]]

    def close(self) -> None:
        """Kill the worker."""
        self._worker.close()


def _message(error: RemoteError) -> str:
    """Return the worker's message; without the class name in front of it if that is our own RewardError."""
    return error.summary.partition(": ")[2] if error.type_name == RewardError.__name__ else error.summary


def _check_picklable(arguments: Mapping[str, Any]) -> None:
    for name, value in arguments.items():
        try:
            pickle.dumps(value)
        except Exception as error:
            raise RewardError(
                f"{name!r} cannot be sent to a worker process ({type(error).__name__}: {error}); "
                "make it picklable, or set isolation: inline"
            ) from error
