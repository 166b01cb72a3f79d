"""Call a reward function once: which arguments it gets, sync or async, in this process or for its parent."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Unpack, get_args, get_origin, get_type_hints

from redraft.rewards.notes import LOGGERS, Notes
from redraft.rewards.result import InvalidResultError, RewardError, Verdict, as_verdicts
from redraft.rewards.reward import Declared, declaration, resolve
from redraft.rewards.user_files import beside

PARTS = "parts"
BATCH_ARGUMENTS = ("prompts", "completions", "completion_ids", PARTS)
"""What rewards get from the rollout, and in `parts` the scores of the other terms. No data column may be named so."""


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a function, with those of its typed keyword arguments one by one.

    A function that ends with ``**columns: Unpack[SomeTypedDict]`` takes the keys of that class and no others.
    """
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or get_origin(parameters[-1].annotation) is not Unpack:
        return parameters
    (typed_dict,) = get_args(parameters[-1].annotation)
    keyword = inspect.Parameter.KEYWORD_ONLY
    columns = [inspect.Parameter(name, keyword, default=None) for name in typed_dict.__optional_keys__]
    columns += [inspect.Parameter(name, keyword) for name in typed_dict.__required_keys__]
    order = list(get_type_hints(typed_dict))
    return [*parameters[:-1], *sorted(columns, key=lambda column: order.index(column.name))]


@dataclass(frozen=True)
class Signature:
    """What a reward function takes, and what it declares.

    Attributes:
        names: Names of its arguments.
        required: Arguments without a default.
        options: Arguments whose default is not None. The recipe sets them; a data column of that name does not.
        takes_any: Whether it takes arguments of other names too.
        declared: What its decorator says, see `rewards.reward.reward`.
    """

    names: Sequence[str]
    required: Sequence[str]
    options: Sequence[str]
    takes_any: bool
    declared: Declared

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "Signature":
        """Read the signature of a function."""
        parameters = parameters_of(function)
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        return cls(
            names=tuple(p.name for p in named),
            required=tuple(p.name for p in named if p.default is p.empty),
            options=tuple(p.name for p in named if p.default is not p.empty and p.default is not None),
            takes_any=any(p.kind is p.VAR_KEYWORD for p in parameters),
            declared=declaration(function),
        )

    @property
    def needs_parts(self) -> bool:
        """Whether it scores by what other terms gave the same completion."""
        return PARTS in self.names

    def check_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        """Raise RewardError for a recipe's kwarg that the function does not take."""
        for name in kwargs:
            if name in BATCH_ARGUMENTS or not (self.takes_any or name in self.names):
                own = ", ".join(name for name in self.names if name not in BATCH_ARGUMENTS)
                raise RewardError(f"kwargs.{name} is no argument a recipe can give; valid: {own or 'none'}")

    def select(self, batch: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of one call: what the function accepts of the batch, and the recipe's kwargs.

        Raises:
            RewardError: A required argument is in neither.
        """
        known = [name for name in batch if name not in self.options and (self.takes_any or name in self.names)]
        accepted = {name: batch[name] for name in known}
        arguments = accepted | dict(kwargs)
        missing = [name for name in self.required if name not in arguments and name not in LOGGERS]
        if missing:
            columns = ", ".join(sorted(set(batch) - set(BATCH_ARGUMENTS)))
            hint = "; only TRL's trainer has a trainer_state: make None its default" * ("trainer_state" in missing)
            raise RewardError(
                f"needs {', '.join(map(repr, missing))}{hint}; the data has the columns: {columns or 'none'}"
            )
        return arguments


def call_reward(function: Callable[..., Any], arguments: Mapping[str, Any], expected: int) -> list[Verdict]:
    """Call a reward, sync or async; check that it returns ``expected`` scores, and add what it logs to them."""
    notes = Notes()
    loggers = {name: getattr(notes, name) for name in LOGGERS if name in Signature.of(function).names}
    result = function(**{**loggers, **arguments})
    if inspect.isawaitable(result):
        with ThreadPoolExecutor(1) as thread:  # a thread of its own, because the caller's may be running an event loop
            result = thread.submit(asyncio.run, _wait_for(result)).result()
    return notes.add_to(as_verdicts(result, expected))


async def _wait_for(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


# --- inside a worker process: the same, with a reply that is JSON ---

_resolve_once = functools.cache(resolve)


def describe_reward(address: str) -> dict[str, Any]:
    """Import a reward and return its `Signature` as a dict."""
    return asdict(Signature.of(_resolve_once(address)))


def call_reward_for_parent(address: str, arguments: dict[str, Any], expected: int) -> dict[str, Any]:
    """Call a reward and return its verdicts as dicts; for an invalid result its message and its row."""
    try:
        function = _resolve_once(address)
        with beside(address):
            verdicts = call_reward(function, arguments, expected)
    except InvalidResultError as error:
        return {"invalid": str(error), "row": error.row}
    return {"verdicts": [asdict(verdict) for verdict in verdicts]}
