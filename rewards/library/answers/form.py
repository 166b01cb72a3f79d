r"""The form of an expression: what is written, up to brackets, order, neutral elements and repeated factors.

Two expressions of one form ask the same. Nothing is computed: ``12/16`` and ``3/4`` differ, ``12/(16)`` and
``\frac{12}{16}`` do not. An expression that the grammar does not know has no form.
"""

import math
from collections import Counter
from fractions import Fraction
from typing import Any

Form = tuple[Any, ...]  # ("num", value), ("sym", name), ("add" | "mul" | "pow" | function name, *arguments)

ONE, MINUS_ONE = ("num", Fraction(1)), ("num", Fraction(-1))


class NoFormError(Exception):
    """The grammar does not know the expression."""


def negative(form: Form) -> Form:
    """Make the form with the other sign; in a sum every sign changes."""
    if form[0] == "add":
        return sum_of([negative(term) for term in form[1:]])
    return product_of([form, MINUS_ONE])


def product_of(factors: list[Form]) -> Form:
    """Make a product: flat, without ones, with equal factors counted as a power."""
    sign, odd = 1, []
    exponents: Counter[tuple[Form, int]] = Counter()  # of a number, roots and whole powers are counted apart
    stack = list(reversed(factors))
    while stack:
        factor = stack.pop()
        if factor[0] == "mul":
            stack.extend(factor[1:])
        elif factor[0] == "num" and abs(factor[1]) == 1:
            sign *= int(factor[1])
        elif factor[0] == "num" and factor[1] < 0:
            sign = -sign
            stack.append(("num", -factor[1]))
        elif factor[0] == "pow" and factor[2][0] == "num":
            exponents[factor[1], factor[2][1].denominator if factor[1][0] == "num" else 1] += factor[2][1]
        elif factor[0] == "pow":
            odd.append(factor)
        else:
            exponents[factor, 1] += Fraction(1)  # pyright: ignore[reportArgumentType]
    parts = [base if count == 1 else ("pow", base, ("num", count)) for (base, _), count in exponents.items() if count]
    parts = sorted([*parts, *odd], key=repr)
    if sign < 0 and len(parts) == 1 and parts[0][0] == "add":
        return sum_of([product_of([term, MINUS_ONE]) for term in parts[0][1:]])
    parts = [MINUS_ONE, *parts] if sign < 0 else parts
    return parts[0] if len(parts) == 1 else ("mul", *parts) if parts else ONE


def sum_of(terms: list[Form]) -> Form:
    """Make a sum: flat, without zeros and terms that cancel, with equal terms counted."""
    counts = Counter[Form]()
    stack = list(terms)
    while stack:
        term = stack.pop()
        if term[0] == "add":
            stack.extend(term[1:])
        elif term != ("num", Fraction(0)):
            is_negative = term == MINUS_ONE or (term[0] == "mul" and term[1] == MINUS_ONE)
            counts[product_of([term, MINUS_ONE]) if is_negative else term] += -1 if is_negative else 1
    parts = [term if n == 1 else product_of([("num", Fraction(n)), term]) for term, n in counts.items() if n]
    parts = sorted(parts, key=repr)
    return parts[0] if len(parts) == 1 else ("add", *parts) if parts else ("num", Fraction(0))


def power(base: Form, exponent: Form) -> Form:
    """Make a power; one of a power, of a product or by one is made simpler."""
    if base == ("num", Fraction(0)) and exponent[0] == "num" and exponent[1] <= 0:
        raise NoFormError
    if exponent == ONE or base == ONE:
        return base
    number = _number(exponent)
    exponent = exponent if number is None else ("num", number)  # the half of a square root
    if exponent[0] == "num" and exponent[1].denominator == 1:
        if base[0] == "pow" and base[2][0] == "num":
            return power(base[1], ("num", base[2][1] * exponent[1]))
        if base[0] == "mul":
            return product_of([power(factor, exponent) for factor in base[1:]])
        if base == MINUS_ONE:
            return ONE if exponent[1] % 2 == 0 else MINUS_ONE
    return ("pow", base, exponent)


def _number(found: Form) -> Fraction | None:
    """Value of an exponent that is a number, a fraction, or one of them with a sign."""
    if found[0] == "num":
        return found[1]
    if found[0] == "pow" and found[1][0] == found[2][0] == "num" and found[2] == MINUS_ONE:
        return 1 / found[1][1] if found[1][1] else None
    if found[0] == "mul" and len(found) < 5:
        parts = [_number(part) for part in found[1:]]
        return None if None in parts else math.prod((part for part in parts if part is not None), start=Fraction(1))
    return None


def nodes(found: Form) -> set[Form]:
    """Return the form and all forms inside it that are more than a number or a symbol."""
    if found[0] in ("num", "sym"):
        return set()
    return {found}.union(*(nodes(part) for part in found[1:] if isinstance(part, tuple)))
