"""Write the parts of error texts that all packages share: the nearest valid name, and what pydantic found wrong."""

import difflib
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_SHOWN = 80  # characters of a value


def did_you_mean(word: object, valid: Collection[str], cutoff: float = 0.5, kind: str = "") -> str:
    """Ask about the valid word that is nearest to a wrong one.

    Args:
        word: What was written.
        valid: What could have been meant.
        cutoff: Share of letters that must agree, 0 to 1, as in `difflib.get_close_matches`.
        kind: What the valid words name; stands before the guess.

    Returns:
        `did you mean 'math_accuracy'?`, or nothing where no valid word is near.
    """
    near = difflib.get_close_matches(str(word), valid, n=1, cutoff=cutoff)
    return f"did you mean {kind}{' ' if kind else ''}{near[0]!r}?" if near else ""


def guess_and_valid(word: object, valid: Collection[str], cutoff: float = 0.5) -> str:
    """Ask as `did_you_mean` does, then list all valid words: `did you mean 'add'? valid: add, subtract`."""
    return f"{did_you_mean(word, valid, cutoff)} valid: {', '.join(valid) or 'none'}".lstrip()


def guess_or_valid(word: object, valid: Collection[str], cutoff: float = 0.5) -> str:
    """Ask as `did_you_mean` does; list all valid keys only where none is near."""
    return did_you_mean(word, valid, cutoff) or f"valid keys: {', '.join(valid)}"


def problem_lines(error: "ValidationError", place: str = "") -> list[str]:
    """Describe each problem that pydantic found on one line, such as `threshold: must be in [0, 1], got 1.3`.

    Args:
        error: What pydantic raised.
        place: Dotted name of what was validated; stands before the name of each field.
    """
    return [problem_line(problem, place) for problem in error.errors()]


def problem_line(problem: "ErrorDetails", place: str = "", message: str = "") -> str:
    """Describe one problem as `problem_lines` does; `message` replaces pydantic's own."""
    location = ".".join(filter(None, [place, *map(str, problem["loc"])]))
    message = message or problem["msg"].removeprefix("Value error, ")
    return f"{location}{': ' if location else ''}{message}{_got(problem, message)}"


def _got(problem: "ErrorDetails", message: str) -> str:
    """Return the value for the end of the line, unless it is a whole section or our own message shows it already."""
    if isinstance(problem["input"], dict):
        return ", got a mapping" if problem["type"].endswith("_type") else ""
    text = repr(problem["input"])
    if problem["type"] == "value_error" and text in message:
        return ""
    return f", got {text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'}"
