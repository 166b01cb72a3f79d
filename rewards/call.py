"""Calling a reward function once: which arguments it gets, sync or async, in this process or for a parent elsewhere."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from rewards.result import InvalidResultError, RewardError, Verdict, as_verdicts
from rewards.reward import resolve

BATCH_ARGUMENTS = ("prompts", "completions", "completion_ids")


@dataclass(frozen=True)
class Signature:
    """Keyword arguments of a reward function: all names, the ones without a default, and whether it takes any."""

    names: tuple[str, ...]
    required: tuple[str, ...]
    takes_any: bool

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "Signature":
        """Read the signature of a function."""
        parameters = inspect.signature(function).parameters.values()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        return cls(
            names=tuple(p.name for p in named),
            required=tuple(p.name for p in named if p.default is p.empty),
            takes_any=any(p.kind is p.VAR_KEYWORD for p in parameters),
        )

    def check_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        """Raise RewardError for a recipe's kwarg that the function does not take."""
        for name in kwargs:
            if name in BATCH_ARGUMENTS or not (self.takes_any or name in self.names):
                own = ", ".join(name for name in self.names if name not in BATCH_ARGUMENTS)
                raise RewardError(f"kwargs.{name} is no argument a recipe can give; valid: {own or 'none'}")

    def select(self, batch: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of one call: those of the batch that the function accepts, and the recipe's kwargs.

        Raises:
            RewardError: A required argument is in neither.
        """
        accepted = {name: value for name, value in batch.items() if self.takes_any or name in self.names}
        arguments = accepted | dict(kwargs)
        missing = [name for name in self.required if name not in arguments]
        if missing:
            columns = ", ".join(sorted(set(batch) - set(BATCH_ARGUMENTS)))
            raise RewardError(f"needs {', '.join(map(repr, missing))}; the data has the columns: {columns or 'none'}")
        return arguments


def evaluate(function: Callable[..., Any], arguments: Mapping[str, Any], expected: int) -> list[Verdict]:
    """Call a reward, sync or async, and check that it returns ``expected`` scores."""
    result = function(**arguments)
    if inspect.isawaitable(result):
        with ThreadPoolExecutor(1) as thread:  # its own thread: the caller's may be running an event loop already
            result = thread.submit(asyncio.run, _wait_for(result)).result()
    return as_verdicts(result, expected)


async def _wait_for(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


# --- inside a worker process: the same, with JSON for an answer ---

_resolve_once = functools.cache(resolve)


def describe(address: str) -> dict[str, Any]:
    """Import a reward and return its `Signature`."""
    return asdict(Signature.of(_resolve_once(address)))


def evaluate_remote(address: str, arguments: dict[str, Any], expected: int) -> dict[str, Any]:
    """`evaluate`; an invalid result is an answer too, because it carries its row."""
    try:
        verdicts = evaluate(_resolve_once(address), arguments, expected)
    except InvalidResultError as error:
        return {"invalid": str(error), "row": error.row}
    return {"verdicts": [[verdict.score, verdict.status, verdict.detail] for verdict in verdicts]}
