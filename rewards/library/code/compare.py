"""Tell whether a candidate's value, or what it printed, is what was asked for. All values are exact built-in types.

A tolerance is for floats. A whole number in the data (an integer value, or digits without a point in text) is exact at
every tolerance: a float may equal it, but a float near it does not.
"""

import math
import re
import sys
from decimal import Decimal
from fractions import Fraction
from typing import Any

from redraft.rewards.library.code.formats import is_integer_text

# A number stands on its own: not in a word, a hexadecimal number, a version, a date. ASCII, as programs print it.
_NUMBER = re.compile(r"(?<![\w.])([+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?)(?!\w|\.[0-9])")
_WHOLE = re.compile(r"([+-]?)0*+([0-9]++)(?:\.0*+)?")
_MAX_FLOAT_CHARS = 400


def same_value(found: Any, wanted: Any, tolerance: float | None) -> bool:
    """Tell whether two values are the same; a tuple counts as a list where a list is wanted, True never as 1.

    Args:
        found: From the candidate.
        wanted: From the data.
        tolerance: Relative and absolute tolerance of floats; None for none.
    """
    found = _without_array(found)
    if isinstance(wanted, list | tuple):
        kinds = (list, tuple) if isinstance(wanted, list) else (tuple,)
        if not isinstance(found, kinds) or len(found) != len(wanted):
            return False
        return all(same_value(*pair, tolerance) for pair in zip(found, wanted, strict=True))
    if isinstance(wanted, dict):
        return isinstance(found, dict) and _same_items(found, wanted, tolerance)
    if isinstance(wanted, bool) or isinstance(found, bool):
        return found is wanted
    if isinstance(wanted, float):
        return isinstance(found, int | float | Fraction | Decimal) and _close(found, wanted, tolerance)
    return bool(found == wanted)


def _without_array(value: Any) -> Any:
    numpy = sys.modules.get("numpy")
    return value.tolist() if numpy is not None and isinstance(value, numpy.ndarray) else value


def _same_items(found: dict[Any, Any], wanted: dict[Any, Any], tolerance: float | None) -> bool:
    """Tell whether two mappings are the same; the candidate's integers count as the texts that JSON makes of keys."""
    if found.keys() != wanted.keys() and wanted and all(map(is_integer_text, wanted)):
        found = {str(key) if type(key) is int else key: value for key, value in found.items()}
    return found.keys() == wanted.keys() and all(
        same_value(found[key], value, tolerance) for key, value in wanted.items()
    )


def _close(found: Any, wanted: float, tolerance: float | None) -> bool:
    try:
        if found == wanted or (math.isnan(wanted) and found != found):
            return True
        return tolerance is not None and math.isclose(found, wanted, rel_tol=tolerance, abs_tol=tolerance)
    except (ArithmeticError, ValueError):  # a number too large for a float, or a Decimal that is not a number
        return False


def same_output(found: str, wanted: str, tolerance: float | None) -> bool:
    """Tell whether a program printed what was wanted: as many lines, each equal up to white space at its end.

    White space at both ends of the output does not count. With a tolerance, lines are compared word by word, and the
    numbers in them that the data writes with a point or an exponent as floats.
    """
    left, right = _lines(found), _lines(wanted)
    return len(left) == len(right) and all(_same_line(*pair, tolerance) for pair in zip(left, right, strict=True))


def _lines(output: str) -> list[str]:
    return [line.rstrip() for line in output.strip().split("\n")]


def _same_line(found: str, wanted: str, tolerance: float | None) -> bool:
    if found == wanted or tolerance is None:
        return found == wanted
    left, right = found.split(), wanted.split()
    return len(left) == len(right) and all(_same_word(*pair, tolerance) for pair in zip(left, right, strict=True))


def _same_word(found: str, wanted: str, tolerance: float) -> bool:
    """Compare the numbers in two words, such as ``x=0.5,``, and what stands between them."""
    if found == wanted:
        return True
    # A split at numbers gives what is between them at the even places, and the numbers at the odd ones.
    left, right = _NUMBER.split(found), _NUMBER.split(wanted)
    if len(left) != len(right) or left[::2] != right[::2]:
        return False
    return all(_same_number(*pair, tolerance) for pair in zip(left[1::2], right[1::2], strict=True))


def _same_number(found: str, wanted: str, tolerance: float) -> bool:
    whole = _WHOLE.fullmatch(wanted)
    if whole and "." not in wanted:
        other = _WHOLE.fullmatch(found)
        return other is not None and _signed(whole) == _signed(other)
    if max(len(found), len(wanted)) > _MAX_FLOAT_CHARS:
        return found == wanted
    left, right = float(found), float(wanted)
    return math.isfinite(left) and math.isclose(left, right, rel_tol=tolerance, abs_tol=tolerance)


def _signed(whole: re.Match[str]) -> tuple[bool, str]:
    """Return sign and digits of a whole number without its zeros in front, as text: it may have a million digits."""
    return whole[1] == "-" and whole[2] != "0", whole[2]
