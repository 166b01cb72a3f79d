"""The reward contract: how a function becomes a reward, how a recipe names it, and how the name is found.

A reward has TRL's shape, ``f(prompts, completions, completion_ids=None, **columns) -> list[float | None]``, sync or
async. It gets the arguments that it names, each a list with one entry for each completion:

* ``prompts`` and ``completions``: text, or a list of messages where the data holds conversations.
* ``completion_ids``: the tokens of each completion, up to and with the first stop token.
* ``parts``: what the other rewards of the recipe gave each completion, by their name.
* any other name: the data column of that name, or the entry of the recipe's ``kwargs``.

What it may return is in `rewards.result`.
"""

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from redraft.rewards.result import RewardError
from redraft.rewards.user_files import beside, is_file, load_file, raised_at
from redraft.words import guess_and_valid

ENTRY_POINTS = "redraft.rewards"
"""Group of entry points by which an installed package offers rewards: ``name = "pkg.module:function"``."""

ATTACKS = ("empty", "list_everything", "sys_exit", "always_equal")
"""Names of cheap answers that a verifier must score 0; `rewards.scoring.trial` makes them."""

Isolation = Literal["process", "inline"]
Scope = Literal["rows", "group", "batch"]
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Declared:
    """What the decorator `reward` was given, whose arguments these are; a recipe's term may say otherwise."""

    isolation: Isolation = "process"
    scope: Scope = "rows"
    shaping: bool = False
    attacks: tuple[str, ...] = ()
    audit: str = ""


@dataclass(frozen=True)
class Registered:
    """A reward with a short name.

    Attributes:
        address: ``module:function`` under which another process can import it.
        declared: What its decorator says.
        function: The function itself.
    """

    address: str
    declared: Declared
    function: Callable[..., Any]


_REGISTRY: dict[str, Registered] = {}

_LIBRARY = "redraft.rewards.library"
LIBRARY = {
    "boxed_format": f"{_LIBRARY}.format:boxed_format",
    "code_tests": f"{_LIBRARY}.code.reward:code_tests",
    "cosine_length": f"{_LIBRARY}.length:cosine_length",
    "countdown": f"{_LIBRARY}.puzzles:countdown",
    "format_match": f"{_LIBRARY}.format:format_match",
    "ifeval": f"{_LIBRARY}.instructions.reward:ifeval",
    "judge": f"{_LIBRARY}.judge.judge:judge",
    "math_accuracy": f"{_LIBRARY}.math:math_verdicts",
    "repetition_penalty": f"{_LIBRARY}.length:repetition_penalty",
    "soft_overlong": f"{_LIBRARY}.length:soft_overlong",
    "sudoku": f"{_LIBRARY}.puzzles:sudoku",
    "think_answer_format": f"{_LIBRARY}.format:think_answer_format",
    "trl_reward": "redraft.rewards.adapters.trl:trl_reward",
    "verl_score": "redraft.rewards.adapters.verl:verl_score",
}
"""Our own rewards by name, each with its place: its module registers it when it is imported, on the first use."""


def reward(
    name: str,
    isolation: Isolation = "process",
    scope: Scope = "rows",
    shaping: bool = False,
    attacks: tuple[str, ...] = (),
    audit: str = "",
) -> Callable[[_Function], _Function]:
    """Register a function as a reward, under a short name.

        @reward("polite", shaping=True)
        def polite(completions):
            return [0.1 if "please" in text else 0.0 for text in completions]

    A function need not be registered to be used: a recipe may also name it as ``pkg.module:function`` or
    ``path/file.py:function``. Registered, its declarations are the defaults of the recipe's term.

    Args:
        name: The name that recipes use, without a colon.
        isolation: ``process`` runs it in a worker process that is killed at its deadline. ``inline`` calls it in the
            process that scores, where a call that hangs cannot be stopped.
        scope: What one call must see: any ``rows``, one whole ``group`` of completions, or the whole ``batch``.
        shaping: It shapes behaviour (length, repetition) and is no part of the task's own reward.
        attacks: Names, out of `ATTACKS`, of cheap answers that it scores 0. With any of them it is a verifier: it is
            tried on a sample before a run, and the run does not start where it fails.
        audit: ``pkg.module:function`` that looks for rows a verifier should not be trained on. It is called with
            (rows, the term's kwargs) and returns the reason by index of each row to leave out. Without it, the rows
            whose right answers do not score 1 are left out.

    Returns:
        A decorator that gives the function back unchanged.

    Raises:
        RewardError: The name is taken by another function.
    """

    def register(function: _Function) -> _Function:
        held, address = _REGISTRY.get(name), _address(function)
        taken_by = held.address if held else LIBRARY.get(name, address)
        if taken_by != address:
            raise RewardError(f"reward name {name!r} is taken by {taken_by}; choose another name")
        if ":" in name:
            raise RewardError(f"reward name {name!r} must not contain a colon: that marks 'pkg.module:function'")
        _REGISTRY[name] = Registered(address, Declared(isolation, scope, shaping, attacks, audit), function)
        return function

    return register


def registered(name: str) -> Registered:
    """Find the reward with a short name: ours, one that the process has decorated, or an installed package's.

    Raises:
        RewardError: There is none, or its package does not import.
    """
    if name in LIBRARY and name not in _REGISTRY:
        importlib.import_module(LIBRARY[name].partition(":")[0])
    if name in _REGISTRY:
        return _REGISTRY[name]
    offered = _offered()
    if name in offered:
        address = offered[name]
        function = resolve(address)
        return Registered(address, declaration(function), function)
    forms = "a function of your own is 'pkg.module:function' or 'path/file.py:function'"
    raise RewardError(f"no reward is named {name!r}; {_nearest(name, names())}; {forms}")


def names() -> list[str]:
    """Return the short names of all rewards: ours, those decorated in this process, those of installed packages."""
    return sorted({*_REGISTRY, *LIBRARY, *_offered()})


def declaration(function: Callable[..., Any]) -> Declared:
    """Return what a function's decorator says; the defaults for a function without one."""
    return next((held.declared for held in _REGISTRY.values() if held.function is function), Declared())


def _offered() -> dict[str, str]:
    """Addresses of what installed packages offer, by name."""
    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}


def resolve(fn: str) -> Callable[..., Any]:
    """Find the reward function that a recipe names.

    Args:
        fn: A registered name, ``pkg.module:function`` or ``path/file.py:function``.

    Returns:
        The callable itself.

    Raises:
        RewardError: Unknown name, missing module, file or function, failing import, or not callable.
    """
    if ":" not in fn:
        return registered(fn).function
    place, _, attribute = fn.rpartition(":")
    module = load_file(Path(place)) if is_file(fn) else _import_module(place)
    with beside(fn):
        found = _attribute(module, place, attribute)
    if not callable(found):
        raise RewardError(f"reward {fn!r} is a {type(found).__name__}, not a function")
    return found


def _attribute(module: ModuleType, place: str, attribute: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise RewardError(f"no {attribute!r} in {place!r}; {_nearest(part, _public_callables(found))}")
        found = getattr(found, part)
    return found


def importable_address(fn: str) -> str:
    """Return the ``place:function`` under which a fresh process finds the reward that ``fn`` names.

    Raises:
        RewardError: It is a registered function that only this process can reach.
    """
    if ":" in fn:
        return fn
    address = registered(fn).address
    if address.startswith("__main__:") or "<" in address:
        raise RewardError(
            f"reward {fn!r} is {address}, which a worker process cannot import; "
            "move it to a module of its own, or set isolation: inline"
        )
    return address


def _nearest(name: str, valid: Iterable[str]) -> str:
    names = sorted(valid)
    return guess_and_valid(name, names)


def _public_callables(holder: Any) -> list[str]:
    return [
        name
        for name, value in vars(holder).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == holder.__name__
    ]


def _address(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{getattr(function, '__qualname__', type(function).__name__)}"


def _import_module(name: str) -> ModuleType:
    if not _findable(name.partition(".")[0]):
        sys.path.append(os.getcwd())  # a console script has its own folder on the path in place of the current one
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise RewardError(
                f"no module named {name!r} for a reward; is it installed, on PYTHONPATH, or in the current folder?"
            ) from error
        raise RewardError(f"reward module {name!r} does not import: {error}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}{raised_at(traceback.format_exc())}"
        raise RewardError(f"reward module {name!r} does not import: {reason}") from error


def _findable(top: str) -> bool:
    """Tell whether a top-level module can be found with the import path as it is."""
    try:
        return top in sys.modules or os.getcwd() in sys.path or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False
