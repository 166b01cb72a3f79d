"""The calls of a row: their arguments in every form of the data sets, and the comparison of their values."""

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
    """Return the name of a function, also where it is written as a method of the class ``Solution``."""
    found = METHOD.fullmatch(name.strip())
    return found[1] if found else name


def text_of(value: Any, column: str) -> str:
    """Return the value of a column that must be text.

    Raises:
        BrokenTestsError: It is something else.
    """
    if not isinstance(value, str):
        raise BrokenTestsError(f"{column} must hold text, got {type(value).__name__}")
    return value


class Readings:
    """Compares the values of calls. Where each expected value is a list of one, it may be the value or hold it.

    Rows of APPS and TACO do not say which of the two is meant, but it is the same for all calls of a row. So the
    reading under which the first calls of a candidate are right holds for the others.

    Args:
        tolerance: Of floats; None for none.
        wrapped: Whether each expected value is a list of one.
    """

    def __init__(self, tolerance: float | None, wrapped: bool) -> None:
        self._tolerance, self._both = tolerance, (False, True) if wrapped else (False,)
        self._left: weakref.WeakKeyDictionary[Caller, tuple[bool, ...]] = weakref.WeakKeyDictionary()

    def check(self, name: str, args: list[Any], kwargs: dict[str, Any], wanted: Any, caller: Caller) -> None:
        """Call a function of the candidate and compare its value.

        Raises:
            AssertionError: The value is wrong; the message shows the call.
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
    except Exception:  # noqa: BLE001 - a value that cannot be shown may still be right
        return f"a {type(value).__name__}"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def lines_text(value: Any, column: str) -> str:
    """Join the lines of a text; numbers are written as they are printed."""
    if isinstance(value, list | tuple):
        return "".join(f"{lines_text(line, column).removesuffix(chr(10))}\n" for line in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text_of(value, column)


def call_parts(given: Any, wanted: Any) -> tuple[list[Any], dict[str, Any], Any]:
    """Read arguments and value of one call: values as they are, or texts of JSON with one argument on each line."""
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
