r"""An answer that leaves its task undone, although its value is right.

``6/8`` or ``\sqrt{8}`` where the task is to simplify, ``x+x`` for ``2x``, ``1+0.5`` for ``\frac32``. Only a prompt that
asks to compute or transform an expression gives reason to look; see `prompt.asked_task`.
"""

import math
import re
from fractions import Fraction

from redraft.rewards.library.answers.form import Form
from redraft.rewards.library.answers.numbers import numeral
from redraft.rewards.library.answers.parse import form
from redraft.rewards.library.answers.typeset import without_words
from redraft.rewards.library.answers.values import value

_COMMAND = re.compile(r"\\[A-Za-z]+")
_LEAF = re.compile(r"[0-9]+(?:\.[0-9]+)?|[A-Za-z]")
_SYMBOLS = re.compile(r"[A-Za-z0-9]+")
_LETTER_CONSTANT = re.compile(r"\\(?:pi|infty|emptyset)(?![A-Za-z])")
_NO_OPERATION = re.compile(r"\\(?:l?dots|cup|cap|in)(?![A-Za-z])")
_IMPLIED_PRODUCT = re.compile(r"(?:\\cdot|\\times|\*)\s*(?=\\(?:sqrt|pi)(?![A-Za-z]))")
_PRODUCT_OF_ROOT = re.compile(r"(\\sqrt\{[0-9]+\}|\\pi)\s*(?:\\cdot|\\times|\*)\s*(?=[0-9])")
_OPERATION = re.compile(
    r"""\\[A-Za-z]+ | [*/^!|<>:]  # commands and operators
    | (?<=[0-9A-Za-z)}])\s*[-+] | -\s*(?=[-(])  # a sign between two values, a minus before a bracket
    | \)\s*\( | [0-9}]\s*\((?=[^,]*\)) | [0-9]\s+[0-9]  # products and mixed numbers without a sign
    """,
    re.VERBOSE,
)
_KINDS = (  # operations that no other kind of operation in the gold answer makes up for
    re.compile(r"(?<=[0-9A-Za-z)}])\s*[-+]"),
    re.compile(r"\\(?:cdot|times|div)(?![A-Za-z])|\*|\)\s*\("),
    re.compile(r"!|\\binom"),
    re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|gcd|lcm|max|min)(?![A-Za-z])"),
)
_PLAIN_FRACTION = re.compile(r"-?(?:[0-9]*\\frac\{[0-9]+\}\{[0-9]+\}|[0-9]+/[0-9]+)")
_QUOTIENT = re.compile(
    r"\\frac\{-?([0-9]+)(?![0-9.])[^{}+-]*\}\{([0-9]+)(?![0-9.])|(?<![0-9.}])([0-9]+)/([0-9]+)(?![0-9.])"
)
_RADICAL = re.compile(r"\\sqrt(?:\[([0-9])\])?\{([0-9.]+)\}")
_LOWEST_TERMS = re.compile(r"simplif|reduc|rational", re.IGNORECASE)
_MAX_FACTOR = 1000


def operations(answer: str) -> int:
    r"""Count what is left to compute: operators, implied products and commands such as ``\frac`` or ``\sqrt``."""
    return len(_OPERATION.findall(_bare(answer)))


def _bare(answer: str) -> str:
    answer = _PRODUCT_OF_ROOT.sub(r"\1", _IMPLIED_PRODUCT.sub("", without_words(answer)))
    return _NO_OPERATION.sub(" ", _LETTER_CONSTANT.sub("0", answer))


def is_uncomputed(gold: str, answer: str) -> bool:
    """Tell whether a numeric answer has operations that a numeric gold answer has not.

    A plain fraction may stand for a decimal.
    """
    wanted = numeral(gold)
    if wanted is not None and wanted != wanted.to_integral_value() and _PLAIN_FRACTION.fullmatch(answer):
        return False
    ours, theirs = _bare(gold), _bare(answer)
    more = any(len(kind.findall(theirs)) > len(kind.findall(ours)) for kind in _KINDS)
    return more or operations(answer) > operations(gold)


def is_unreduced(gold: str, answer: str, verb: str) -> bool:
    """Tell whether a fraction or root can be reduced, where the task is to do so and the gold answer has done it."""
    return bool(_LOWEST_TERMS.match(verb)) and _is_reducible(answer) and not _is_reducible(gold)


def _is_reducible(answer: str) -> bool:
    for found in _QUOTIENT.finditer(answer):
        above, below = (int(number) for number in found.groups() if number is not None)
        if math.gcd(above, below) > 1:
            return True
    return any(_is_reducible_root(int(found[1] or 2), found[2]) for found in _RADICAL.finditer(answer))


def _is_reducible_root(degree: int, radicand: str) -> bool:
    """Tell whether a root is of a decimal, or of a number with a power in it that it can take out."""
    if not radicand.isdigit():
        return True
    rest, powers = int(radicand), []
    for prime in range(2, _MAX_FACTOR):
        if prime * prime > rest:
            break
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        powers += [power] if power else []
    powers += [1] if rest > 1 else []
    return any(power >= degree for power in powers) or math.gcd(degree, *powers) > 1


def is_undone(gold: str, prediction: str, verb: str) -> bool:
    """Tell whether an answer with variables leaves a step of its task to do that the gold answer has done."""
    ours, wanted = form(prediction), form(gold)
    if ours is None or wanted is None:
        return False
    # A factored answer may hold factors that cancel, as in (x-1)(x+1)/(x-1). Then it names more symbols.
    if ours == wanted and verb.startswith("factor"):
        return len(_SYMBOLS.findall(prediction)) > 2 * len(_SYMBOLS.findall(gold))
    # Forms collect x+x, x\cdot x and x^2/x, which may be the task itself, so equal forms are not enough.
    if ours == wanted:
        return _is_longer(prediction, gold)
    if verb.startswith(("expand", "multiply")) and _has_product_of_sums(ours) and not _has_product_of_sums(wanted):
        return True
    if verb.startswith("factor") and (_factors(ours) < _factors(wanted) or _content(ours) > _content(wanted)):
        return True
    if _has_square_of_i(ours) and not _has_square_of_i(wanted):
        return True
    return _has_like_terms(ours) and not _has_like_terms(wanted)


def _is_longer(answer: str, gold: str) -> bool:
    """Tell whether an answer names its variables, or its numbers but for ones, more often than the gold answer."""
    ours, theirs = ([leaf for leaf in _LEAF.findall(_COMMAND.sub(" ", text)) if leaf != "1"] for text in (gold, answer))
    return len(theirs) > len(ours) or sum(map(str.isalpha, theirs)) > sum(map(str.isalpha, ours))


def _parts(found: Form) -> list[Form]:
    return [part for part in found[1:] if isinstance(part, tuple)] if found[0] not in ("num", "sym") else []


def _has_product_of_sums(found: Form) -> bool:
    kind, *arguments = found
    if kind == "mul" and any(part[0] == "add" for part in arguments):
        return True
    if kind == "pow" and arguments[0][0] in ("add", "abs") and arguments[1][0] == "num" and arguments[1][1] > 1:
        return True
    return any(_has_product_of_sums(part) for part in _parts(found))


def _factors(found: Form) -> int:
    """Count the factors with variables of a product, with their powers."""
    if found[0] == "mul":
        return sum(_factors(part) for part in _parts(found) if value(part) is None)
    if found[0] == "pow" and found[2][0] == "num" and found[2][1] > 1 and found[2][1].denominator == 1:
        return int(found[2][1]) * _factors(found[1])
    return 1


def _content(found: Form) -> int:
    """Return the largest whole number that divides every term of a sum among the factors; 1 for none."""
    if found[0] == "mul":
        return max((_content(part) for part in _parts(found)), default=1)
    if found[0] != "add":
        return 1
    return math.gcd(*(_coefficient(term) for term in found[1:]))


def _coefficient(term: Form) -> int:
    numbers = [number for part in (term[1:] if term[0] == "mul" else (term,)) if (number := value(part)) is not None]
    product = math.prod(numbers, start=Fraction(1))
    return abs(product.numerator) if product.denominator == 1 else 1


def _has_square_of_i(found: Form) -> bool:
    if found[0] == "pow" and found[1] == ("sym", "i"):
        return True
    return any(_has_square_of_i(part) for part in _parts(found))


def _has_like_terms(found: Form) -> bool:
    """Tell whether a sum holds two terms that differ in a number only, or a product two numbers."""
    if found[0] == "add":
        variables = [_variable_part(term) for term in found[1:]]
        if len(set(variables)) < len(variables):
            return True
    if found[0] == "mul":
        whole = [part for part in found[1:] if part[0] == "num" and abs(part[1]) != 1]
        if len(whole) > 1:
            return True
    return any(_has_like_terms(part) for part in _parts(found))


def _variable_part(term: Form) -> Form:
    if value(term) is not None:
        return ("num", Fraction(1))
    if term[0] == "mul":
        return ("mul", *(part for part in term[1:] if value(part) is None))
    return ("mul", term)
