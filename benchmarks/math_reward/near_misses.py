"""The wrong answers that are closest to a right one: each takes a gold answer to one, or to None where it cannot."""

import re
from math import isqrt

from benchmarks.math_reward.forms import (
    FRACTION,
    TUPLE,
    UNIT,
    Form,
    bare_number,
    letter,
    rewritten,
    value_of,
    with_items,
    with_number,
)


def _shifted(by: int) -> Form:
    return lambda gold: str(int(n) + by) if (n := bare_number(gold)) and re.fullmatch("-?[0-9]+", n) else None


def _swapped(gold: str) -> str | None:
    number = bare_number(gold)
    return rewritten(r"([0-9])((?!\1)[1-9])", r"\2\1")(number) if number else None


def _flipped(gold: str) -> str | None:
    if re.search(r"[,+]|.-|\\(?:pm|text|in)|[a-zA-Z]\b(?<!\\pi)", gold.replace(r"\!", "")) or value_of(gold) == 0:
        return None
    return gold[1:] if gold.startswith("-") else f"-{gold}"


def _rounded(gold: str) -> str | None:
    """A rounded decimal where the gold is a root or a fraction without end."""
    root, value = re.fullmatch(r"\\sqrt\{([0-9]+)\}", gold), value_of(gold)
    if root and isqrt(int(root[1])) ** 2 != int(root[1]):
        return f"{int(root[1]) ** 0.5:.6f}"
    return f"{float(value):.6f}" if value is not None and (10**6 * value).denominator > 1 else None


def _other_unit(gold: str) -> str | None:
    match = UNIT.fullmatch(gold)
    return rf"{match[1]}\text{{ miles}}" if match else None


NEAR_MISSES: dict[str, Form] = {
    "X + 1": _shifted(1),
    "X - 1": _shifted(-1),
    "two digits swapped": _swapped,
    "sign flipped": _flipped,
    "ten times": lambda gold: f"{n}0" if (n := bare_number(gold)) and re.fullmatch("-?[1-9][0-9]*", n) else None,
    "numerator + 1": lambda gold: (
        rf"{m[1]}\frac{{{int(m[2]) + 1}}}{{{m[3]}}}" if (m := FRACTION.fullmatch(gold)) else None
    ),
    "rounded to six decimals": _rounded,
    "X million": lambda gold: with_number(r"X\text{ million}")(gold) if value_of(gold) else None,
    "X and a half": with_number(r"X\text{ and a half}"),
    "X or another number": with_number(r"X\text{ or }77777"),
    "list: last item dropped": with_items(lambda found: ", ".join(found[:-1])),
    "list: an item too many": with_items(lambda found: ", ".join([*found, "77777"])),
    "list: an item twice": with_items(lambda found: ", ".join([*found, found[0]])),
    "tuple: last place changed": lambda gold: (
        rewritten(r",[^,]*$", ", 77777)")(m[0]) if (m := TUPLE.fullmatch(gold)) and r"\infty" not in gold else None
    ),
    "interval: bracket changed": lambda gold: (
        gold.replace(")", "]") if r"\infty" not in gold and re.search(r"[\[(][^()\[\]]*,[^()\[\]]*\)", gold) else None
    ),
    "another unit": _other_unit,
    "another base": rewritten(r"(?<=[0-9])_\{?[0-9]\}?$", "_3"),
    "another letter": lambda gold: {"A": "B"}.get(found, "A") if (found := letter(gold)) else None,
}
