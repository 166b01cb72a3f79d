"""Exact rational values of forms, within limits that keep every computation short."""

import math
from fractions import Fraction

from redraft.rewards.library.answers.form import Form
from redraft.rewards.library.answers.numbers import numeral
from redraft.rewards.library.answers.parse import form

MAX_BITS, MAX_FACTORIAL = 20_000, 500


def rational(answer: str) -> Fraction | None:
    """Value of a normalised answer if it is a rational number that takes little to compute; None for any other."""
    plain = numeral(answer)
    if plain is not None:
        return Fraction(plain) if abs(plain) >= 1 or len(answer) < MAX_BITS // 8 else None
    found = form(answer)
    return value(found) if found is not None else None


def value(found: Form) -> Fraction | None:
    """Value of a form; None where it has a variable, is irrational, or large."""
    kind, *arguments = found
    if kind == "num":
        return arguments[0]
    if kind == "sym" or (kind.startswith("\\") and kind not in (r"\gcd", r"\lcm", r"\max", r"\min")):
        return None
    values = [value(argument) for argument in arguments]
    known = [item for item in values if item is not None]
    if len(known) < len(values):
        return None
    result = _apply(kind, known)
    return result if result is not None and _bits(result) <= MAX_BITS else None


def _bits(number: Fraction) -> int:
    return number.numerator.bit_length() + number.denominator.bit_length()


def _apply(kind: str, values: list[Fraction]) -> Fraction | None:
    if kind in ("add", "mixed"):
        return sum(values, Fraction(0))
    if kind == "mul":
        return math.prod(values, start=Fraction(1)) if sum(map(_bits, values)) <= MAX_BITS else None
    if kind == "pow":
        return _power(*values)
    if kind in ("abs", "floor", "ceil"):
        function = {"abs": abs, "floor": math.floor, "ceil": math.ceil}[kind]
        return Fraction(function(values[0]))
    if kind in (r"\max", r"\min"):
        return max(values) if kind == r"\max" else min(values)
    return _whole(kind, values)


def _whole(kind: str, values: list[Fraction]) -> Fraction | None:
    """Functions of whole numbers."""
    if any(number.denominator != 1 or abs(number) > 10**9 for number in values):
        return None
    whole = [int(number) for number in values]
    if kind in (r"\gcd", r"\lcm"):
        return Fraction((math.gcd if kind == r"\gcd" else math.lcm)(*whole))
    if min(whole) < 0 or (kind == "factorial" and whole[0] > MAX_FACTORIAL):
        return None
    if kind == "factorial":
        return Fraction(math.factorial(whole[0]))
    above, below = whole
    return Fraction(math.comb(above, below)) if min(below, abs(above - below)) <= MAX_FACTORIAL else None


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    degree = exponent.denominator
    if degree > 1:
        root = _root(base, degree)
        if root is None:
            return None
        base = root
    times = exponent.numerator
    if abs(times) * _bits(base) > MAX_BITS or (base == 0 and times <= 0):
        return None
    return base**times


def _root(base: Fraction, degree: int) -> Fraction | None:
    """Return the exact real root of a number that is not negative; None where there is none."""
    if base < 0 or degree > 64 or _bits(base) > MAX_BITS:
        return None
    parts = [_whole_root(part, degree) for part in (base.numerator, base.denominator)]
    return None if None in parts else Fraction(*[part for part in parts if part is not None])


def _whole_root(number: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(number)
    else:
        low, high = 0, 1 << (number.bit_length() // degree + 1)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if middle**degree <= number else (low, middle - 1)
        root = low
    return root if root**degree == number else None
