"""Calls and texts of a row: their arguments in every form of the data sets, and the comparison of their values."""

import json
import re
import reprlib
import weakref
from typing import Any

from redraft.rewards.library.code.compare import same_value
from redraft.rewards.library.code.formats import BrokenTestsError
from redraft.rewards.library.code.session import Caller

METHOD = re.compile(r"Solution(?:\(\))?\.(\w+)")


def method_name(name: str) -> str:
    """The name of a function, also where it is written as a method of the class ``Solution``."""
    found = METHOD.fullmatch(name.strip())
    return found[1] if found else name


def text_of(value: Any, column: str) -> str:
    """The value of a column that must be text.

    Raises:
        BrokenTestsError: It is none.
    """
    if not isinstance(value, str):
        raise BrokenTestsError(f"{column} must hold text, got {type(value).__name__}")
    return value


class Readings:
    """Compares the values of calls; where each is a list of one, it may be the value or hold it (APPS, TACO).

    Which of the two is meant is the row's secret, but it is the same for all its calls: what a caller's first right
    value was read as holds for the others.
    """

    def __init__(self, tolerance: float | None, wrapped: bool) -> None:
        self._tolerance, self._both = tolerance, (False, True) if wrapped else (False,)
        self._left: weakref.WeakKeyDictionary[Caller, tuple[bool, ...]] = weakref.WeakKeyDictionary()

    def check(self, name: str, args: list[Any], kwargs: dict[str, Any], wanted: Any, caller: Caller) -> None:
        """Call, and compare the value.

        Raises:
            AssertionError: It is another; the message shows the call.
        """
        found = caller.call(name, args, kwargs)
        left = self._left.get(caller, self._both)
        fitting = tuple(inner for inner in left if same_value(found, wanted[0] if inner else wanted, self._tolerance))
        if not fitting:
            given = ", ".join([*map(_short, args), *(f"{key}={_short(value)}" for key, value in kwargs.items())])
            raise AssertionError(f"{name}({given}) is {_short(found)}, not {_short(wanted)}")
        self._left[caller] = fitting


class _Short(reprlib.Repr):
    """Prints values in few characters and little time, however large they are."""

    def __init__(self) -> None:
        super().__init__()
        self.maxother = self.maxstring = 60

    def repr_int(self, x: int, level: int) -> str:
        return f"an integer of {x.bit_length()} bits" if x.bit_length() > 400 else repr(x)


def _short(value: Any) -> str:
    try:
        shown = _Short().repr(value)
    except Exception:  # noqa: BLE001 - whatever a value does to its own display is no verdict
        return f"a {type(value).__name__}"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def lines_text(value: Any, column: str) -> str:
    """A text, or its lines; numbers as they are printed."""
    if isinstance(value, list | tuple):
        return "".join(f"{lines_text(line, column).removesuffix(chr(10))}\n" for line in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text_of(value, column)


def call_parts(given: Any, wanted: Any) -> tuple[list[Any], dict[str, Any], Any]:
    """Arguments and value of one call: values as they are, or texts of JSON, one argument a line."""
    if isinstance(given, dict):
        return [], given, wanted
    if not isinstance(given, str):
        if not isinstance(given, list | tuple):
            raise BrokenTestsError(f"inputs of a call are a list of arguments, got {type(given).__name__}")
        return list(given), {}, wanted
    try:
        arguments = [json.loads(line) for line in given.split("\n") if line.strip()]
        return arguments, {}, json.loads(wanted) if isinstance(wanted, str) else wanted
    except ValueError as error:
        raise BrokenTestsError(f"inputs and outputs given as text are JSON, one argument a line: {error}") from None
