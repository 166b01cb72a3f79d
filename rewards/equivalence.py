r"""Is a predicted answer the gold one: what text alone can decide, and what no computer algebra may be asked.

math-verify answers "do these two parse to equal values", which is more than "is this the answer": it takes ``41 = 42``
and ``6 \cdot 7`` for 42, ``17`` for ``17_9``, a set for a tuple. The rules here are strict on purpose: a false positive
is found and exploited by reinforcement learning, a false negative only slows it.
"""

import re
from decimal import Decimal

from rewards.result import Status

_REWRITES = (
    (re.compile(r"[\u2212\u2013]"), "-"),  # typographic minus signs
    (re.compile(r"\\[dt]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:left|right)(?![A-Za-z])"), ""),
    (re.compile(r"\\[!,]|\\\$"), ""),  # thin spaces, also as thousands separator, and the dollar sign
    (re.compile(r"\\[;: ]|~"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\s+"), " "),
)
_MATH_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_TEXT_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_NUMERAL = re.compile(r"[-+]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)")
_SYMBOL = r"(?:\\?[A-Za-z]+|\\(?:text|mathrm)\{[^{}=]*\})(?:_(?:\w|\{\w+\}))?'?(?:\([A-Za-z]\))?"
_ASSIGNMENT = re.compile(rf"\(?\s*{_SYMBOL}(?:\s*,\s*{_SYMBOL})*\s*\)?\s*(?:=|\\in(?![A-Za-z]))\s*([^=]+)")
_DIGIT_SUBSCRIPT = re.compile(r"[0-9A-F)}]\s*_")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_CONSTANT = re.compile(r"\\(?:pi|infty|emptyset)(?![A-Za-z])")
_NO_OPERATION = re.compile(r"\\(?:degree|q?quad|l?dots|cup|cap|in)(?![A-Za-z])")
_DEGREES = re.compile(r"\^(?:\\circ|\{\s*\\circ\s*\})")
_IMPLIED_PRODUCT = re.compile(r"(?:\\cdot|\\times|\*)\s*(?=\\(?:sqrt|pi)(?![A-Za-z]))")
_OPERATION = re.compile(
    r"""\\[A-Za-z]+ | [*/^!\u00d7\u00f7\u00b7]   # commands and operators, also typographic ones
    | (?<=[0-9A-Za-z)}])\s*[-+] | -\s*(?=[-(])  # a sign between two values, a minus before a bracket
    | \)\s*\( | [0-9}]\s*\((?=[^,]*\)) | [0-9]\s+[0-9]  # products and mixed numbers without a sign
    """,
    re.VERBOSE,
)


def normalise(answer: str) -> str:
    r"""Undo differences of typesetting only: math delimiters, spacing, ``\dfrac``, a final full stop, ``\text{}``."""
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    answer = answer.strip()
    for opening, closing in _MATH_DELIMITERS:
        if answer.startswith(opening) and answer.endswith(closing) and len(answer) > len(opening + closing):
            answer = answer[len(opening) : -len(closing)].strip()
    wrapped = _TEXT_WRAPPER.fullmatch(answer)
    return (wrapped[1] if wrapped else answer).strip().lstrip("$").removesuffix(".").strip()


def numeral(answer: str) -> Decimal | None:
    """Value of a plain decimal numeral, commas only where they group thousands; None for anything else."""
    return Decimal(answer.replace(",", "")) if _NUMERAL.fullmatch(answer) else None


def drop_assignment(gold: str, prediction: str) -> tuple[str, str]:
    r"""Both answers, without a leading ``x =`` or ``x \in`` where only one of them has it."""
    gold_assigned, assigned = _ASSIGNMENT.fullmatch(gold), _ASSIGNMENT.fullmatch(prediction)
    if gold_assigned and not assigned:
        return gold_assigned[1], prediction
    if assigned and not gold_assigned:
        return gold, assigned[1]
    return gold, prediction


def decide(gold: str, prediction: str) -> Status | None:
    """Verdict by text alone, of two normalised answers without a one-sided assignment.

    Returns:
        OK or WRONG; None when only a computer algebra system can tell.
    """
    if gold == prediction:
        return Status.OK
    gold_value, value = numeral(gold), numeral(prediction)
    if gold_value is not None and value is not None:
        return Status.OK if gold_value == value else Status.WRONG
    return Status.WRONG if _is_refused(gold, prediction) else None


def _is_refused(gold: str, prediction: str) -> bool:
    if "=" in prediction and "=" not in gold:
        return True  # math-verify takes the last side of any equation
    if _DIGIT_SUBSCRIPT.search(gold) or _DIGIT_SUBSCRIPT.search(prediction):
        return True  # a number in another base, which math-verify reads without the base; equal text was accepted above
    if "," in gold and _enclosure(gold) != _enclosure(prediction):
        return True  # a tuple, an interval and a list of solutions are three different answers
    if _text_digits(prediction) > _text_digits(gold):
        return True  # math-verify drops \text{...}: a second answer could hide there
    return _is_numeric(gold) and _operations(prediction) > _operations(gold) + _free_operations(gold)


def _enclosure(answer: str) -> str:
    """First and last bracket; "" for a bare list or a set, both unordered."""
    ends = answer[:1] + answer[-1:]
    return ends if ends in {"()", "[]", "(]", "[)"} else ""


def _text_digits(answer: str) -> int:
    return sum(character.isdigit() for content in _TEXT_WRAPPER.findall(answer) for character in content)


def _is_numeric(answer: str) -> bool:
    """No variables: every letter belongs to a command or to a word of text."""
    return not re.search(r"[A-Za-z]", _COMMAND.sub("", _TEXT_WRAPPER.sub("", answer)))


def _operations(answer: str) -> int:
    r"""How much is left to compute: operators, implied products and commands such as ``\frac`` or ``\sqrt``."""
    for harmless in (_DEGREES, _TEXT_WRAPPER, _IMPLIED_PRODUCT):
        answer = harmless.sub("", answer)
    return len(_OPERATION.findall(_NO_OPERATION.sub(" ", _CONSTANT.sub("0", answer))))


def _free_operations(gold: str) -> int:
    """A fraction may stand for a decimal or a percentage, so a gold of that kind allows one operation more."""
    value = numeral(gold.removesuffix("%").removesuffix("\\"))
    return int(value is not None and ("%" in gold or value != value.to_integral_value()))
