r"""Numbers as they are written: thousands, repeating decimals, mixed numbers, powers of ten, number words."""

import re
from decimal import Decimal
from fractions import Fraction

_NUMERAL = re.compile(r"([-+]?)(?:([1-9][0-9]{0,2}(?:(?:,[0-9]{3})+|(?: [0-9]{3})+)|[0-9]+)(\.[0-9]*)?|(\.[0-9]+))")
_EXPONENT = re.compile(r"(?<![A-Za-z0-9.\\])([0-9]+(?:\.[0-9]+)?)[eE]([-+]?[0-9]{1,3})(?![A-Za-z0-9.])")
_REPEATING = re.compile(
    r"(?<![0-9.])([0-9]*)\.([0-9]*)\\(?:overline|bar|dot|overbar)\s*\{?([0-9]+)\}?(?:\\dot\s*\{?([0-9])\}?)?(?![0-9])"
)
_BRACKETED = re.compile(r"(?<![0-9.])([0-9]*)\.()\(([0-9]+)\)(?![0-9(^!])")
_MIXED = re.compile(r"(?<![0-9./^_{])([0-9]+)(?: | ?\\text\{and\} ?)([0-9]+)/([0-9]+)(?![0-9./^])")
_GROUPED = re.compile(r"(?<![0-9.,])([0-9]{1,3})((?: [0-9]{3})+)(?![0-9])")
_THOUSANDS = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])")
_MAX_REPEATING_DIGITS = 40


def rewrite_numbers(text: str) -> str:
    r"""Write ``0.1\overline{6}`` as a fraction, ``1 4/5`` as a mixed number, ``1e3`` as a power, ``1 000`` as 1000."""
    text = _REPEATING.sub(_fraction, text)
    text = _BRACKETED.sub(_fraction, text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _EXPONENT.sub(lambda found: rf"{found[1]}\cdot 10^{{{int(found[2])}}}", text)
    return _GROUPED.sub(lambda found: found[1] + found[2].replace(" ", ""), text)


def without_thousands(answer: str) -> str:
    """Remove the commas that group thousands; inside brackets commas are separators."""
    parts, end = [], 0
    for found in _THOUSANDS.finditer(answer) if "," in answer else ():
        before = answer[: found.start()]
        is_inside = any(before.count(opening) > before.count(closing) for opening, closing in ("()", "[]", "{}"))
        parts += [answer[end : found.start()], found[0] if is_inside else found[0].replace(",", "")]
        end = found.end()
    return "".join(parts) + answer[end:]


def _fraction(found: re.Match[str]) -> str:
    whole, fixed, repeated = found[1] or "0", found[2], found[3]
    if found.lastindex == 4 and found[4]:
        repeated += found[4]
    if len(whole + fixed + repeated) > _MAX_REPEATING_DIGITS:
        return found[0]
    value = Fraction(int(whole + fixed), 10 ** len(fixed))
    value += Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(fixed))
    return str(value) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def numeral(answer: str) -> Decimal | None:
    """Read a plain decimal numeral, with commas or spaces only where they group thousands; None for anything else."""
    return Decimal(answer.replace(",", "").replace(" ", "")) if _NUMERAL.fullmatch(answer) else None
