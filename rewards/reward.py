"""The reward contract: how a recipe names a reward function, and how the name is found.

A reward has TRL's shape, ``f(prompts, completions, completion_ids=None, **columns) -> list[float | None]``, sync or
async. What it may return is in `rewards.result`.
"""

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rewards.result import RewardError

Isolation = Literal["process", "inline"]
DEFAULT_TIMEOUT_S = 30.0
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Registered:
    function: Callable[..., Any]
    isolation: Isolation


_REGISTRY: dict[str, _Registered] = {}


def reward(name: str, isolation: Isolation = "process") -> Callable[[_Function], _Function]:
    """Register a reward function under a short name.

    Args:
        name: The name recipes use; no colon.
        isolation: Default of `RewardTerm.isolation` for this function.

    Returns:
        A decorator that gives the function back unchanged.

    Raises:
        RewardError: The name is taken by another function.
    """

    def register(function: _Function) -> _Function:
        held = _REGISTRY.get(name)
        if held is not None and _address(held.function) != _address(function):
            raise RewardError(f"reward name {name!r} is taken by {_address(held.function)}; choose another name")
        if ":" in name:
            raise RewardError(f"reward name {name!r} must not contain a colon: that marks 'pkg.module:function'")
        _REGISTRY[name] = _Registered(function, isolation)
        return function

    return register


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
        return _registered(fn).function
    place, _, attribute = fn.rpartition(":")
    module = _load_file(Path(place)) if is_file(fn) else _import_module(place)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise RewardError(f"no {attribute!r} in {place!r}; {_nearest(part, _public_callables(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise RewardError(f"reward {fn!r} is a {type(found).__name__}, not a function")
    return found


def importable_address(fn: str) -> str:
    """The ``place:function`` under which a fresh process finds the reward that ``fn`` names.

    Raises:
        RewardError: A registered function that only this process can reach.
    """
    if ":" in fn:
        return fn
    address = _address(_registered(fn).function)
    if address.startswith("__main__:") or "<" in address:
        raise RewardError(
            f"reward {fn!r} is {address}, which a worker process cannot import; "
            "move it to a module of its own, or set isolation: inline"
        )
    return address


def is_file(fn: str) -> bool:
    """Whether ``fn`` has the ``path/file.py:function`` form."""
    place = fn.rpartition(":")[0]
    return place.endswith(".py") or "/" in place


class RewardTerm(BaseModel):
    """One reward of a mixture, as written in a recipe.

    Attributes:
        fn: A registered name, ``pkg.module:function`` or ``path/file.py:function``.
        name: Label in metrics; the function's name unless given.
        kwargs: Extra keyword arguments of the function.
        weight: Factor in the weighted sum; 0 reports the reward without training on it.
        isolation: ``process`` runs it in a killable worker; ``inline`` calls it here, where nothing can stop it.
        timeout_s: Seconds one call (one batch) may take under ``process``; None under ``inline``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fn: str
    name: str = Field(default="", pattern=r"^[\w.\-]+$", validate_default=True)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    weight: float = Field(default=1.0, allow_inf_nan=False)
    isolation: Isolation = "process"
    timeout_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        """Write out the defaults that depend on the function, so that a saved config says everything."""
        if not isinstance(values, dict) or not isinstance(values.get("fn"), str):
            return values
        fn = values["fn"]
        filled = {"name": fn.rpartition(":")[2], "isolation": _default_isolation(fn)} | values
        if filled["isolation"] == "process" and filled.get("timeout_s") is None:
            filled["timeout_s"] = DEFAULT_TIMEOUT_S
        return filled

    @field_validator("fn")
    @classmethod
    def _make_absolute(cls, fn: str) -> str:
        """A relative file means one thing here and another in a worker with its own current directory."""
        if not is_file(fn):
            return fn
        place, _, attribute = fn.rpartition(":")
        return f"{Path(place).expanduser().resolve()}:{attribute}"

    @model_validator(mode="after")
    def _check_timeout(self) -> "RewardTerm":
        if self.isolation == "inline" and self.timeout_s is not None:
            raise ValueError(
                f"timeout_s={self.timeout_s:g} has no effect on {self.name!r}: with isolation: inline nothing can be "
                "killed; remove it, set isolation: process, or use the function's own limit in kwargs"
            )
        return self


def _default_isolation(fn: str) -> Isolation:
    if ":" in fn:
        return "process"
    try:
        return _registered(fn).isolation
    except RewardError as error:
        raise ValueError(str(error)) from error


def _registered(name: str) -> _Registered:
    if name not in _REGISTRY:
        forms = "a function of your own is 'pkg.module:function' or 'path/file.py:function'"
        raise RewardError(f"no reward is named {name!r}; {_nearest(name, _REGISTRY)}; {forms}")
    return _REGISTRY[name]


def _nearest(name: str, valid: Iterable[str]) -> str:
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}valid: {', '.join(names) or 'none'}"


def _public_callables(holder: Any) -> list[str]:
    return [
        name
        for name, value in vars(holder).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == holder.__name__
    ]


def _address(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{getattr(function, '__qualname__', type(function).__name__)}"


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise RewardError(f"no module named {name!r} for a reward; is it installed or on PYTHONPATH?") from error
        raise RewardError(f"reward module {name!r} does not import: {error}") from error
    except Exception as error:
        raise RewardError(f"reward module {name!r} does not import: {type(error).__name__}: {error}") from error


def _load_file(path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise RewardError(f"no file {str(path)!r} for a reward; the form is 'path/file.py:function'")
    name = f"reward_file_{path.stem}_{hashlib.sha1(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RewardError(f"{str(path)!r} is not a Python file; the form is 'path/file.py:function'")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before execution: dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise RewardError(f"reward file {str(path)!r} does not import: {type(error).__name__}: {error}") from error
    return module
