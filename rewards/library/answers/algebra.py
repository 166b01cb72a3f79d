r"""Comparison by computer algebra, inside a worker process: math-verify reads an expression, sympy compares exactly.

No decimal places are compared: decimals become fractions before they are read. Two constants are equal when sympy
proves that their difference is zero, or, where it can prove nothing, when a thousand digits of it are zero.
"""

import re
from fractions import Fraction
from typing import Any

from redraft.rewards.library.answers.decide import same_by_arithmetic
from redraft.rewards.library.answers.items import compare_items, split_at
from redraft.rewards.result import RewardError, Status

_WORKER_MEMORY_BYTES = 2 << 30
_DECIMAL = re.compile(r"(?<![0-9.^_])([0-9]*)\.([0-9]+)(?![0-9.])|(?<![0-9.^_])([0-9]+)\.(?![0-9.])")
_MATRIX = re.compile(
    r"\\begin\{([pb]?(?:small)?matrix|array)\}(?:\{[^{}]*\})?((?:(?!\\begin).)*)\\end\{\1\}", re.DOTALL
)
_RELATION = re.compile(r"=|<|>|\\(?:le|ge|ne)(?![A-Za-z])")
_WHOLE_LINE = (r"\mathbb{R}", r"(-\infty,\infty)", r"(-\infty,+\infty)")
_DIGITS = 1000


class GoldError(Exception):
    """The gold answer cannot be parsed."""


def prepare_worker() -> None:
    """Limit the memory, build math-verify's parsers, and test that it finds what is equal and what is not.

    Raises:
        RewardError: It does not. Its own errors look like "not equal", so a broken one would score everything 0.
    """
    import gc
    import logging
    import resource
    import warnings

    resource.setrlimit(resource.RLIMIT_AS, (_WORKER_MEMORY_BYTES, _WORKER_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # otherwise it warns that its timeouts are off
    warnings.simplefilter("ignore")  # under PYTHONWARNINGS=error its parser would fail on everything
    found = [compare(r"\frac{\sqrt{2}}{2}", prediction) for prediction in (r"\sqrt{2}/2", "x+1")]
    if found != [Status.OK, Status.WRONG]:
        raise RewardError(f"math-verify does not work here: its self-test gave {', '.join(found)} for ok, wrong")
    gc.freeze()  # sympy makes a million objects; to look through them again and again cost 10 % of the time


def compare(gold: str, prediction: str) -> str:
    """Compare two plain answers; return the status ok, wrong or gold_error."""
    try:
        return Status.OK if compare_items(gold, prediction, same_answer) else Status.WRONG
    except GoldError:
        return Status.GOLD_ERROR
    except Exception:  # noqa: BLE001 - the boundary: sympy may raise anything on an odd expression, and has then found no equality
        return Status.WRONG


def compare_simplest(gold: str) -> list[str]:
    """Compare a gold answer with a number and with a symbolic expression; return both statuses."""
    return [compare(gold, prediction) for prediction in ("1", "x+1")]


def same_answer(gold: str, prediction: str) -> bool:
    """Tell whether two items are equal."""
    decided = same_by_arithmetic(gold, prediction)
    if decided is not None:
        return decided
    if "=" in prediction and not _RELATION.search(gold):
        return all(same_answer(gold, side.strip()) for side in prediction.split("="))
    ours, theirs = _MATRIX.fullmatch(gold), _MATRIX.fullmatch(prediction)
    if ours and theirs:
        return _same_matrix(ours[2], theirs[2])
    if gold in _WHOLE_LINE and prediction in _WHOLE_LINE:
        return True
    pieces = [split_at(text, (r"\cup",)) for text in (gold, prediction)]
    if len(pieces[0]) == len(pieces[1]) > 1:
        return compare_items(",".join(pieces[0]), ",".join(pieces[1]), same_answer) is True
    return _same_expression(gold, prediction)


def _same_matrix(gold: str, prediction: str) -> bool:
    """Tell whether two matrices have equal entries; the kind of their brackets does not count."""
    ours, theirs = ([split_at(row, ("&",)) for row in _rows(body)] for body in (gold, prediction))
    if [len(row) for row in ours] != [len(row) for row in theirs]:
        return False
    return all(
        compare_items(left, right, same_answer) is True
        for our_row, their_row in zip(ours, theirs, strict=True)
        for left, right in zip(our_row, their_row, strict=True)
    )


def _rows(body: str) -> list[str]:
    rows = split_at(body, (r"\\",))
    return rows[:-1] if rows and not rows[-1] else rows


def _same_expression(gold: str, prediction: str) -> bool:
    import sympy

    ours = _parse(gold)
    if ours is None:
        raise GoldError
    theirs = _parse(prediction)
    if theirs is None:
        return False
    if isinstance(ours, sympy.Expr) and isinstance(theirs, sympy.Expr):
        return _same_number_or_function(ours, theirs)
    if isinstance(ours, sympy.core.relational.Relational) and isinstance(theirs, sympy.core.relational.Relational):
        return _same_relation(ours, theirs)
    return _same_other(ours, theirs)


def _parse(answer: str) -> Any:
    """Read an expression into sympy's object; None if math-verify cannot read it."""
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse
    from sympy import I

    exact = _DECIMAL.sub(_exact, answer)
    # Units stay off: math-verify would drop letters that it takes for units.
    config = NormalizationConfig(malformed_operators=True)
    found = parse(f"\\boxed{{{exact}}}", [LatexExtractionConfig(normalization_config=config)], parsing_timeout=0)
    if not found or isinstance(found[0], str):
        return None
    imaginary = [symbol for symbol in getattr(found[0], "free_symbols", ()) if symbol.name == "i"]
    return found[0].subs(dict.fromkeys(imaginary, I)) if imaginary else found[0]


def _exact(found: re.Match[str]) -> str:
    if found[3] is not None:
        return found[3]
    value = Fraction(f"{found[1] or 0}.{found[2]}")
    return str(value.numerator) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _same_number_or_function(ours: Any, theirs: Any) -> bool:
    import sympy

    ours, theirs = ours.doit(), theirs.doit()
    if ours == theirs:
        return ours is not sympy.nan and ours is not sympy.zoo
    infinite = {sympy.oo, -sympy.oo, sympy.zoo, sympy.nan}
    if ours in infinite or theirs in infinite or ours.has(*infinite) or theirs.has(*infinite):
        return False
    difference = ours - theirs
    return _is_zero_number(difference) if not difference.free_symbols else _is_zero_function(difference)


def _is_zero_number(difference: Any) -> bool:
    """Tell whether a constant is proved to be zero, or, where nothing is proved, zero to a thousand digits."""
    if difference.is_Rational:
        return bool(difference == 0)
    digits = difference.evalf(3, maxn=60)
    if _is_certain(digits):
        return False
    proved = difference.is_zero
    if proved is None:
        proved = difference.expand().is_zero
    if proved is None:
        proved = difference.equals(0)
    return bool(proved) if proved is not None else not _is_certain(difference.evalf(3, maxn=_DIGITS))


def _is_certain(value: Any) -> bool:
    """Tell whether a numeric evaluation has digits other than zero."""
    return any(part.is_Float and part._prec > 1 and part != 0 for part in value.atoms() if part.is_number)


def _is_zero_function(difference: Any) -> bool:
    import sympy

    if sympy.expand(difference) == 0:
        return True
    symbols = sorted(difference.free_symbols, key=str)
    # Most functions are not zero at two places, and to evaluate them there costs less than to simplify them.
    for shift in (3, 7):
        place = {symbol: sympy.Rational(shift + 2 * index, 11) for index, symbol in enumerate(symbols)}
        if _is_certain(difference.subs(place).evalf(3, maxn=60)):
            return False
    return bool(sympy.simplify(difference).is_zero)


def _same_relation(ours: Any, theirs: Any) -> bool:
    """Tell whether one equation or inequality is a multiple of the other."""
    import sympy

    turned = {sympy.Gt: sympy.Lt, sympy.Ge: sympy.Le}
    pairs = []
    for relation in (ours, theirs):
        kind, difference = type(relation), relation.lhs.doit() - relation.rhs.doit()
        pairs.append((turned.get(kind, kind), -difference if kind in turned else difference))
    (kind, left), (their_kind, right) = pairs
    if kind is not their_kind or _is_zero_function(right) or _is_zero_function(left):
        return False
    ratio = sympy.simplify(left / right)
    if not ratio.is_number:
        return False
    return True if kind in (sympy.Eq, sympy.Ne) else bool(ratio.is_positive)


def _same_other(ours: Any, theirs: Any) -> bool:
    """Compare sets, matrices in expressions and the like as math-verify does; no decimals are left in them."""
    from math_verify import verify

    return verify([ours], [theirs], numeric_precision=_DIGITS, timeout_seconds=0)
