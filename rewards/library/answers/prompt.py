r"""What a task says about the form of its answers.

An answer may have any form unless the task asks for one. Two kinds of answers are refused: the expression of the task
itself, also with other brackets, another order or neutral elements; and, where the task is to compute or transform an
expression, one that still has to be computed or transformed.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from redraft.rewards.library.answers.form import Form, nodes
from redraft.rewards.library.answers.items import RELATIONS, split_at
from redraft.rewards.library.answers.numbers import numeral
from redraft.rewards.library.answers.parse import form
from redraft.rewards.library.answers.typeset import normalise, text_words, without_words
from redraft.rewards.library.answers.values import value

MAX_PROMPT_CHARS = 20_000
_MATH = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_VERBS = (
    r"simplif\w+|expand\w*|evaluat\w+|comput\w+|calculat\w+|factor(?:i[sz]e)?|reduc\w+|rationali[sz]\w+|multiply|divide"
    r"|subtract|add|work\s+out|express|write|rewrite|convert|combine|perform|\u8ba1\u7b97|\u5316\u7b80|\u6c42\u503c|\u5c55\u5f00"
)
_ASKS = re.compile(
    rf"(?<![A-Za-z])(?P<verb>{_VERBS})(?![A-Za-z])(?P<rest>(?:[^?!]|(?<=[0-9A-Za-z)}}])!){{0,160}})", re.IGNORECASE
)
_WHAT_IS = re.compile(
    r"(?<![A-Za-z])(?:what\s+is|what's|find|determine|give)(?:\s+the)?(?:\s+(?:exact|numerical|value|sum|product|result)(?:\s+of)?)*"
    r"(?:\s+the\s+expression)?\s*:?\s*(?P<rest>(?:[$\\(0-9|\u221a-]).{0,160})",
    re.IGNORECASE | re.DOTALL,
)
_CONVERT = re.compile(
    r"(?:as|to|into|in)\s+(?:an?\s+)?(?:\w+\s+){0,2}(?:fraction|decimal|percent\w*|mixed|scientific)", re.IGNORECASE
)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_ARITHMETIC = re.compile(r"(?:[0-9.+\-*/(){} ]|\\(?:cdot|times|div|frac)(?![A-Za-z]))+")
_SENTENCE_END = re.compile(r"[.;:]\s+[A-Z]|\n\s*\n")
_SIGN = re.compile(r"[+*/^|!]|[0-9A-Za-z)}] ?-|\\(?:cdot|times|div|frac|sqrt)(?![A-Za-z])")
_BRACKET = re.compile(r"[(\\]")
_IN_WORDS = re.compile(
    r"[0-9]\)?\s+(?:times|plus|minus|divided\s+by|multiplied\s+by|to\s+the\s+power|mod|factorial|choose)(?![A-Za-z])"
    r"|root\s+of\s+[0-9]|\blog(?:arithm)?\s+base",
    re.IGNORECASE,
)
OPERATOR = re.compile(
    r"\\(?:int|sum|prod|lim)(?![A-Za-z])|\\frac\{(?:d|\\partial)(?:\^|\})"
)  # the name of a task, never its result
_PLAIN_BREAK = re.compile(  # a comma between numbers in brackets separates arguments
    r"[?:;]|(?<![0-9A-Za-z)}])!|,(?![-0-9., ]*\))|(?<![\\A-Za-z])[A-Za-z]{2,}|\.(?=\s|$)|\\text\{[^{}]*\}|\n"
)
_RELATION_BREAK = set(RELATIONS) | {",", ";", "&", r"\\"}
_RELATION = re.compile(r"=|<|>|\\(?:le|ge|ne)(?![A-Za-z])")


def relation_form(text: str) -> Form | None:
    """Read an equation or inequality; the same form for both directions it can be written in."""
    signs = _RELATION.findall(text)
    sides = [form(side.strip()) for side in _RELATION.split(text)]
    if len(signs) != 1 or None in sides:
        return None
    left, right = (side for side in sides if side is not None)
    turned = signs[0] in (">", r"\ge")
    kind = {">": "<", r"\ge": r"\le"}.get(signs[0], signs[0])
    pair = (right, left) if turned else (left, right)
    return (kind, *(sorted(pair, key=repr) if kind in ("=", r"\ne") else pair))


def _spans(prompt: str) -> Iterator[str]:
    """Yield the formulas of a prompt, and its plain text cut at words and punctuation."""
    position = 0
    for found in _MATH.finditer(prompt):
        yield from _plain(prompt[position : found.start()])
        yield normalise(next(filter(None, found.groups()), ""))
        position = found.end()
    yield from _plain(prompt[position:])


def _plain(text: str) -> Iterator[str]:
    if any(character.isdigit() or character in "()+*/^=\\" for character in text):
        for line in text.splitlines():
            yield from filter(None, (piece.strip(" .") for piece in _PLAIN_BREAK.split(normalise(line))))


@lru_cache(maxsize=512)
def prompt_forms(prompt: str) -> frozenset[Form]:
    """Return the forms of all expressions in a prompt and of their parts, without numbers and symbols."""
    found: set[Form] = set()
    for span in _spans(prompt[:MAX_PROMPT_CHARS]):
        for part in (span, *split_at(span, {",", ";"})):
            relation = relation_form(part) if _RELATION.search(part) else None
            found |= {relation} if relation else set()
        for part in {span, *split_at(span, _RELATION_BREAK)}:
            part = without_words(part.removesuffix("%")).strip(" .,")
            expression = form(part) if part else None
            found |= nodes(expression) if expression is not None else set()
            if expression is not None and expression[0] == "num" and "." in part:
                found.add(expression)
    return frozenset(found)


def is_echo(gold: str, prediction: str, prompt: str) -> bool:
    """Tell whether an answer is an expression of the prompt, in a form that the gold answer does not have."""
    if text_words(prediction):
        return False
    prediction, gold = prediction.removesuffix("%"), gold.removesuffix("%")
    if _RELATION.search(prediction):
        ours, gold_form = relation_form(prediction), relation_form(gold)
    else:
        ours, gold_form = form(prediction), form(gold)
    if ours is None:
        return _is_copied(gold, prediction, prompt)
    if ours[0] == "sym" or ours == gold_form:
        return False
    if ours[0] == "num":
        return (
            "." in prediction
            and numeral(gold) is None
            and bool(_CONVERT.search(prompt))
            and ours in prompt_forms(prompt)
        )
    return ours in prompt_forms(prompt)


def is_unconverted(gold: str, prediction: str, prompt: str) -> bool:
    """Tell whether an answer copies the value that the task asks to convert to or from a percentage."""
    if prediction.endswith("%") == gold.endswith("%") or prediction == gold.removesuffix("%"):
        return False
    if not _CONVERT.search(prompt):
        return False
    if form(prediction) in prompt_forms(prompt):
        return True
    copied = rf"(?<![0-9.]){re.escape(prediction.replace(' ', ''))}(?![0-9.])"
    return bool(re.search(copied, _flat_prompt(prompt).replace(" ", "")))


def is_restated(gold: str, prediction: str, prompt: str) -> bool:
    """Tell whether an answer only joins numbers of the prompt by signs although the gold answer is their result."""
    numbers = _NUMBER.findall(prediction)
    wanted = numeral(gold)
    if len(numbers) < 2 or wanted is None or not _ARITHMETIC.fullmatch(prediction):
        return False
    if len(numbers) == 2 and wanted % 1:  # a fraction for a decimal is another form of it
        return False
    return set(numbers) <= set(_NUMBER.findall(prompt[:MAX_PROMPT_CHARS].replace(",", "")))


def _is_copied(gold: str, prediction: str, prompt: str) -> bool:
    """Tell whether an answer that has no form is a piece of the prompt's text, and not the gold answer."""
    bare, whole = (re.sub(r"[\s{}]", "", text) for text in (prediction, _flat_prompt(prompt)))
    return (
        len(bare) >= 5 and bool(re.search(r"[+*/^\\-]", bare)) and bare != re.sub(r"[\s{}]", "", gold) and bare in whole
    )


@lru_cache(maxsize=512)
def _flat_prompt(prompt: str) -> str:
    return normalise(" ".join(prompt[:MAX_PROMPT_CHARS].split()))


@lru_cache(maxsize=512)
def asked_task(prompt: str) -> str | None:
    """Return the verb of a task to compute or transform an expression; None for other tasks."""
    for found in _ASKS.finditer(prompt[:MAX_PROMPT_CHARS]):
        rest = _SENTENCE_END.split(found["rest"])[0]
        if _IN_WORDS.search(rest) or _has_compound(rest):
            return found["verb"].casefold()
    for found in _WHAT_IS.finditer(prompt[:MAX_PROMPT_CHARS]):
        first = next(_spans(found["rest"]), "").strip()
        expression = form(first)
        is_number = expression is not None and value(expression) is not None
        if _IN_WORDS.match(first[-1:] + found["rest"][len(first) :]) or (is_number and _is_compound(first)):
            return "compute"
    return None


def _has_compound(text: str) -> bool:
    for span in _spans(text):
        for part in split_at(span, _RELATION_BREAK):
            if OPERATOR.search(part) or _is_compound(part):
                return True
    return False


def _is_compound(part: str) -> bool:
    """Tell whether a formula is more than a number or symbol as it is written: ``x^0`` and ``5-5`` are."""
    is_signed = bool(_SIGN.search(part))
    expression = form(part) if is_signed or _BRACKET.search(part) else None
    return expression is not None and (is_signed or bool(nodes(expression)))
