"""One configured reward, ready to score batches: where it runs, and how its failures are told.

Whatever goes wrong becomes one `RewardError` that names the reward, the row and the prompt, with the cause chained.
"""

import pickle
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rewards.call import Signature, evaluate
from rewards.process import RemoteError, Worker, WorkerError, WorkerTimeoutError
from rewards.result import InvalidResultError, RewardError, Verdict
from rewards.reward import RewardTerm, importable_address, resolve

_EXCERPT_CHARS = 80


class RaisedError(Exception):
    """The reward function raised; the cause is its exception, or the `RemoteError` that reports it."""

    def __init__(self, type_name: str, summary: str) -> None:
        """Keep the exception's class name and its one-line summary."""
        super().__init__(summary)
        self.type_name = type_name


class Runner(Protocol):
    """Calls one reward function, wherever it lives."""

    def start(self) -> Signature:
        """Find the function and read its signature; cheap when repeated."""
        ...

    def call(self, arguments: Mapping[str, Any], expected: int) -> list[Verdict]:
        """Call the function once; RaisedError when it raises."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class InlineRunner:
    """Calls a reward in this process: no deadline, no protection."""

    def __init__(self, fn: str) -> None:
        """Find the function."""
        self._function = resolve(fn)
        self._signature = Signature.of(self._function)

    def start(self) -> Signature:
        """See `Runner`."""
        return self._signature

    def call(self, arguments: Mapping[str, Any], expected: int) -> list[Verdict]:
        """See `Runner`."""
        try:
            return evaluate(self._function, arguments, expected)
        except (RewardError, WorkerError):
            raise
        except (Exception, SystemExit) as error:
            raise RaisedError(type(error).__name__, f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Nothing to give back."""


class ProcessRunner:
    """Calls a reward in a warm worker process, which is killed when it passes the deadline."""

    def __init__(self, fn: str, timeout_s: float) -> None:
        """Prepare the worker; it starts, and imports the function, at `start` or with the first call."""
        self._address = importable_address(fn)
        self._timeout_s = timeout_s
        self._worker = Worker("rewards.call:describe", (self._address,))

    def start(self) -> Signature:
        """See `Runner`."""
        try:
            described = self._worker.start()
        except RemoteError as error:
            raise RewardError(_message(error)) from error
        return Signature(tuple(described["names"]), tuple(described["required"]), described["takes_any"])

    def call(self, arguments: Mapping[str, Any], expected: int) -> list[Verdict]:
        """See `Runner`."""
        _check_picklable(arguments)
        request = (self._address, dict(arguments), expected)
        try:
            reply = self._worker.call("rewards.call:evaluate_remote", request, self._timeout_s)
        except RemoteError as error:
            if error.type_name == RewardError.__name__:
                raise RewardError(_message(error)) from error
            raise RaisedError(error.type_name, error.summary) from error
        if "invalid" in reply:
            raise InvalidResultError(reply["invalid"], reply["row"])
        return [Verdict(*verdict) for verdict in reply["verdicts"]]

    def close(self) -> None:
        """Kill the worker."""
        self._worker.close()


class ConfiguredReward:
    """A reward term with its runner.

    Args:
        term: The reward as written in the recipe.

    Raises:
        RewardError: The function cannot be found, or cannot be reached from a worker process.
    """

    def __init__(self, term: RewardTerm) -> None:
        """Prepare the runner; a worker process starts with `start` or the first `score`."""
        self.term = term
        if term.isolation == "process":
            assert term.timeout_s is not None
            self._runner: Runner = ProcessRunner(term.fn, term.timeout_s)
        else:
            self._runner = InlineRunner(term.fn)

    def start(self) -> Signature:
        """Import the function and check the recipe's kwargs against its signature.

        Raises:
            RewardError: It does not import, or does not take a kwarg.
        """
        try:
            signature = self._runner.start()
            signature.check_kwargs(self.term.kwargs)
        except (RewardError, WorkerError) as error:
            raise RewardError(f"reward {self.term.name!r}: {error}") from error
        return signature

    def score(self, batch: Mapping[str, Sequence[Any]]) -> list[Verdict]:
        """Score one batch.

        Args:
            batch: ``prompts``, ``completions``, ``completion_ids`` and the data columns, each one list over the batch.

        Returns:
            One verdict per completion.

        Raises:
            RewardError: Anything that keeps the reward from scoring every row.
        """
        self.start()
        name = f"reward {self.term.name!r}"
        try:
            return self._call(batch)
        except RaisedError as error:
            row = self._find_row(batch, error.type_name)
            raise RewardError(f"{name} raised on {_where(batch, row)}: {error}") from error.__cause__
        except InvalidResultError as error:
            raise RewardError(f"{name} on {_where(batch, error.row)}: {error}") from error
        except WorkerTimeoutError as error:
            raise RewardError(
                f"{name} did not return within timeout_s={self.term.timeout_s} on {_where(batch, None)}; its worker "
                "process was killed. If a batch needs longer, raise this reward's timeout_s in the recipe"
            ) from error
        except WorkerError as error:
            raise RewardError(f"{name} on {_where(batch, None)}: {error}") from error
        except RewardError as error:
            raise RewardError(f"{name}: {error}") from error

    def close(self) -> None:
        """Give back the worker process, if there is one."""
        self._runner.close()

    def _call(self, batch: Mapping[str, Sequence[Any]]) -> list[Verdict]:
        arguments = self._runner.start().select(batch, self.term.kwargs)
        return self._runner.call(arguments, len(batch["completions"]))

    def _find_row(self, batch: Mapping[str, Sequence[Any]], type_name: str) -> int | None:
        """First row that raises the same type of exception when scored alone; None when no row does."""
        for row in range(len(batch["completions"])):
            try:
                self._call({name: [column[row]] for name, column in batch.items()})
            except RaisedError as error:
                if error.type_name == type_name:
                    return row
            except RewardError:
                continue  # it fails in another way when alone: not the failure we are looking for
            except WorkerError:
                return None
        return None


def _message(error: RemoteError) -> str:
    """The worker's message, without the class name in front where that is our own RewardError."""
    return error.summary.partition(": ")[2] if error.type_name == RewardError.__name__ else error.summary


def _where(batch: Mapping[str, Sequence[Any]], row: int | None) -> str:
    prompts = batch["prompts"]
    if row is None:
        return f"a batch of {len(prompts)} (first prompt {_excerpt(prompts[0])})"
    return f"row {row} (prompt {_excerpt(prompts[row])})"


def _excerpt(prompt: object) -> str:
    if isinstance(prompt, list) and prompt and isinstance(prompt[-1], dict):
        prompt = prompt[-1].get("content", "")
    text = str(prompt)
    return repr(text if len(text) <= _EXCERPT_CHARS else f"{text[: _EXCERPT_CHARS - 3]}...")


def _check_picklable(arguments: Mapping[str, Any]) -> None:
    for name, value in arguments.items():
        try:
            pickle.dumps(value)
        except Exception as error:
            raise RewardError(
                f"{name!r} cannot be sent to a worker process ({type(error).__name__}: {error}); "
                "make it picklable, or set isolation: inline"
            ) from error
