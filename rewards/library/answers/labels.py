r"""Names and relations before a value: ``x = 5``, ``x \in S``, ``1 < x \le 2``, chains such as ``6 \cdot 7 = 42``."""

import re
from dataclasses import dataclass

from redraft.rewards.library.answers.items import split_at

_NAME = (
    r"(?:\\?[A-Za-z]+|\\text\{[^{}]*\})(?:_(?:\w|\{[\w,]+\}))?'*(?:\([A-Za-z](?:,[A-Za-z])*\)|\^\{?-1\}?\([A-Za-z]\))?"
)
_NAMES = rf"{_NAME}(?:\s*,\s*{_NAME})*"
_CAPITALS = r"(?:[A-Z]{1,4}|\\text\{[A-Z]{1,4}\})"
_INDEXED = rf"{_CAPITALS}(?:_(?:\w|\{{{_CAPITALS}\}}))?"
_SEGMENT = rf"(?:{_INDEXED}|\\(?:overline|widehat)\{{{_CAPITALS}\}})"  # AB, a side or an angle of a figure
_FRACTION = rf"\\frac\{{{_SEGMENT}\}}\{{{_SEGMENT}\}}|{_SEGMENT}\s*[:/]\s*{_SEGMENT}"
_FIGURE = rf"(?:m\s*)?\\angle\s*{_SEGMENT}|\|{_SEGMENT}\||{_FRACTION}"
_FIGURE_NAME = re.compile(_FIGURE)
_LABEL = re.compile(
    rf"{_NAMES}|\(\s*{_NAMES}\s*\)|(?:\\text\{{[^{{}}]*\}}[\s,:]*)+(?:{_NAME})?|[A-Z]\([A-Za-z ,<|>=]*\)"
    r"|[A-Zfghp]\(-?[0-9]+(?:,-?[0-9]+)*\)"
)
_NO_NAME = re.compile(r"\\(?:pi|infty|emptyset|ldots|mathbb|frac|sqrt)(?![A-Za-z])|[ei]$")
_SIGNS = {"=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\approx", r"\to", r"\equiv", r"\Rightarrow", r"\implies"}
_ORDER = ("<", r"\le", ">", r"\ge")
_SIGN = re.compile(r"=|<|>|\\(?:le|ge|ne|in|approx|to|equiv|Rightarrow|implies)(?![A-Za-z])")


@dataclass(frozen=True)
class Labelled:
    """An item without its name.

    Attributes:
        name: "" where it has none.
        value: The value, the interval of an inequality, or the whole of a relation that names nothing.
        is_relation: Whether the value is an equation or inequality that is not solved for one name.
    """

    name: str
    value: str
    is_relation: bool = False


def is_name(side: str) -> bool:
    """Tell whether a side of an equation is a name: a symbol, a function of a symbol, words, or a tuple of symbols."""
    return bool(_FIGURE_NAME.fullmatch(side)) or (bool(_LABEL.fullmatch(side)) and not _NO_NAME.match(side))


def _base(name: str) -> str:
    return re.sub(r"\s|^\((.*)\)$", r"\1", name)


def read_label(item: str) -> Labelled:
    """Separate an item into its name and what it is said to be."""
    sides = split_at(item, _SIGNS)
    if len(sides) == 1:
        return Labelled("", item)
    signs = _SIGN.findall(item)
    if len(signs) != len(sides) - 1 or not all(sides):
        return Labelled("", item, is_relation=True)
    if set(signs) == {"="}:
        return _read_equation(item, sides)
    if signs == [r"\in"] and is_name(sides[0]):
        return Labelled(_base(sides[0]), sides[1])
    if signs == [r"\ne"] and is_name(sides[0]):
        return Labelled(_base(sides[0]), rf"(-\infty,{sides[1]})\cup({sides[1]},\infty)")
    interval = _interval(sides, signs)
    return interval if interval is not None else Labelled("", item, is_relation=True)


def _read_equation(item: str, sides: list[str]) -> Labelled:
    if is_name(sides[-1]) and not is_name(sides[0]) and len(sides) == 2:
        sides = sides[::-1]
    if is_name(sides[0]):
        return Labelled(_base(sides[0]), "=".join(sides[1:]))
    return Labelled("", item, is_relation=True)


def _interval(sides: list[str], signs: list[str]) -> Labelled | None:
    """Write an inequality that is solved for one name as an interval; None for any other."""
    if not all(sign in _ORDER for sign in signs) or len({sign in (">", r"\ge") for sign in signs}) != 1:
        return None
    if signs[0] in (">", r"\ge"):
        sides = sides[::-1]
        signs = [{">": "<", r"\ge": r"\le"}[sign] for sign in reversed(signs)]
    opening = {"<": "(", r"\le": "["}
    closing = {"<": ")", r"\le": "]"}
    if len(sides) == 3 and is_name(sides[1]):
        return Labelled(_base(sides[1]), f"{opening[signs[0]]}{sides[0]},{sides[2]}{closing[signs[1]]}")
    if len(sides) == 2 and is_name(sides[0]):
        return Labelled(_base(sides[0]), rf"(-\infty,{sides[1]}{closing[signs[0]]}")
    if len(sides) == 2 and is_name(sides[1]):
        return Labelled(_base(sides[1]), rf"{opening[signs[0]]}{sides[0]},\infty)")
    return None
