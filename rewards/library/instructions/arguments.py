"""Arguments of an instruction as the data gives them: checked, never guessed.

The official code draws a random value for an argument that is missing, and another project drops a 0. Here a row with a
missing, unknown or unusable argument is an error of the data.
"""

import ast
import json
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from redraft.rewards.library.instructions.checkers import COMPARISONS
from redraft.rewards.library.instructions.language import languages
from redraft.rewards.result import as_python

Parser = Callable[[object], Any]

_ORDERED = (("nth_paragraph", "num_paragraphs"), ("low", "high"))


def parse(parsers: Mapping[str, Parser], kwargs: object) -> dict[str, Any]:
    """Read the arguments that an instruction takes from one entry of the column ``kwargs``.

    Args:
        parsers: The arguments it takes, each with its parser.
        kwargs: A mapping, or None for none. A value of None is as good as absent: the hub's copy of the data has every
            argument of every instruction in every entry.

    Raises:
        ValueError: Not a mapping; an argument that is missing, unknown or unusable.
    """
    entry = unwritten(kwargs)
    entry = {} if is_absent(entry) or entry == "" else entry
    if not isinstance(entry, Mapping):
        raise ValueError(f"kwargs must be a mapping of arguments, got {type(kwargs).__name__} {kwargs!r:.80}")
    given = {name: value for name, value in entry.items() if not is_absent(value)}
    filled = {
        name for name, value in given.items() if isinstance(value, str | list) and not value
    }  # as tables have gaps
    missing, unknown = parsers.keys() - given.keys(), given.keys() - parsers.keys() - filled
    if missing or unknown:
        problems = [f"{verb} {', '.join(sorted(map(str, names)))}" for verb, names in
                    (("needs", missing), ("does not take", unknown)) if names]  # fmt: skip
        raise ValueError(f"{' and '.join(problems)}; its arguments: {', '.join(parsers) or 'none'}")
    parsed = {name: _parse_one(name, parser, given[name]) for name, parser in parsers.items()}
    for low, high in _ORDERED:
        if low in parsed and high in parsed and parsed[low] > parsed[high]:
            raise ValueError(f"{low}={parsed[low]} is above {high}={parsed[high]}")
    return parsed


def unwritten(value: object) -> Any:
    """Read a value that a data set keeps as text (JSON, or as Python prints it) or as an array."""
    if isinstance(value, str):
        text = value.strip()
        for read in (json.loads, ast.literal_eval) if text[:1] in ("{", "[", "(", '"') or text == "null" else ():
            try:
                return unwritten(read(text))
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
        return text
    if hasattr(value, "tolist"):
        value = value.tolist()  # pyright: ignore[reportAttributeAccessIssue]
    return list(value) if isinstance(value, tuple) else as_python(value)


def is_absent(value: object) -> bool:
    """Tell whether a value is None, or the NaN that a table has in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def count(value: object) -> int:
    """Read a whole number from 0; 3.0 and "3" count, because tables with gaps keep numbers as floats or text."""
    number = as_python(value)
    if isinstance(number, str):
        try:
            number = float(number)
        except ValueError:
            raise ValueError("a whole number from 0") from None
    value = float(number) if isinstance(number, numbers.Real) and not isinstance(number, bool) else -1.0
    if not value.is_integer() or value < 0:
        raise ValueError("a whole number from 0")
    return int(value)


def position(value: object) -> int:
    """Read a whole number from 1."""
    whole = count(value)
    if whole < 1:
        raise ValueError("a whole number from 1")
    return whole


def phrase(value: object) -> str:
    """Read a text that is not blank, and strip it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text that is not blank")
    return value.strip()


def phrases(value: object) -> list[str]:
    """Read a list of at least one text, none of them blank."""
    listed = unwritten(value)
    if not isinstance(listed, list) or not listed:
        raise ValueError("a list of texts, at least one")
    if not all(isinstance(item, str) and item.strip() for item in listed):
        raise ValueError("a list of texts, none of them blank")
    return listed


def letter(value: object) -> str:
    """One character that is not blank: a letter, a digit or a sign such as ``#``."""
    if len(character := phrase(value)) != 1:
        raise ValueError("one character that is not blank")
    return character


def relation(value: object) -> str:
    """One of the two comparisons."""
    name = " ".join(value.lower().split()) if isinstance(value, str) else ""
    if name not in COMPARISONS:
        raise ValueError(" or ".join(map(repr, COMPARISONS)))
    return name


def language(value: object) -> str:
    """Read a language that can be detected; a response in any other could never be right."""
    code = value.strip().lower() if isinstance(value, str) else ""
    if code not in languages():
        raise ValueError(f"one of {', '.join(languages())}")
    return code


def _parse_one(name: str, parser: Parser, value: object) -> Any:
    try:
        return parser(value)
    except ValueError as error:
        raise ValueError(f"{name} must be {error}, got {value!r:.80}") from error
