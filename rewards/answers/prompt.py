r"""What the task says about an answer's form: an echo of its own expressions, or a task that is left undone.

A form is free as long as the task does not ask for it. Two answers are none: the question again, in whatever disguise
of brackets, order and neutral elements; and, where the task is to compute or transform an expression, one that still
has to be computed or transformed.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

from rewards.answers.form import Form, nodes
from rewards.answers.items import RELATIONS, split_at
from rewards.answers.numbers import numeral
from rewards.answers.parse import form
from rewards.answers.typeset import normalise, text_words, without_words
from rewards.answers.values import value

MAX_PROMPT_CHARS = 20_000
_MATH = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_VERBS = (
    r"simplif\w+|expand\w*|evaluat\w+|comput\w+|calculat\w+|factor(?:i[sz]e)?|reduc\w+|rationali[sz]\w+|multiply|divide"
    r"|subtract|add|work\s+out|express|write|rewrite|convert|combine|perform|\u8ba1\u7b97|\u5316\u7b80|\u6c42\u503c|\u5c55\u5f00"
)
_ASKS = re.compile(rf"(?<![A-Za-z])(?P<verb>{_VERBS})(?![A-Za-z])(?P<rest>[^?!]{{0,160}})", re.IGNORECASE)
_WHAT_IS = re.compile(
    r"(?<![A-Za-z])(?:what\s+is|what's|find|determine|give)(?:\s+the)?(?:\s+(?:exact|numerical|value|sum|product|result)(?:\s+of)?)*"
    r"(?:\s+the\s+expression)?\s*:?\s*(?P<rest>(?:[$\\(0-9|\u221a-]).{0,160})",
    re.IGNORECASE | re.DOTALL,
)
_CONVERT = re.compile(
    r"(?:as|to|into|in)\s+(?:an?\s+)?(?:\w+\s+){0,2}(?:fraction|decimal|percent\w*|mixed|scientific)", re.IGNORECASE
)
_SYMBOLS = re.compile(r"[A-Za-z0-9]+")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_ARITHMETIC = re.compile(r"(?:[0-9.+\-*/(){} ]|\\(?:cdot|times|div|frac)(?![A-Za-z]))+")
_SENTENCE_END = re.compile(r"[.;:]\s+[A-Z]|\n\s*\n")
_SIGN = re.compile(r"[+*/^(\\|!]|[0-9A-Za-z)}] ?-")
_PLAIN_BREAK = re.compile(r"[?!:;,]|(?<![\\A-Za-z])[A-Za-z]{2,}|\.(?=\s|$)|\\text\{[^{}]*\}|\n")
_RELATION_BREAK = set(RELATIONS) | {",", ";", "&", r"\\"}
_RELATION = re.compile(r"=|<|>|\\(?:le|ge|ne)(?![A-Za-z])")


def relation_form(text: str) -> Form | None:
    """The form of an equation or inequality: one side minus the other, up to its direction."""
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
    """Formulas of a prompt, and its plain text cut at words and punctuation."""
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
    """The forms of all expressions in a prompt and of their parts, numbers and symbols left out."""
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
    """Whether an answer is an expression of the prompt again, in a form that the gold answer does not have."""
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
    """Whether an answer is the very percentage that the task is to write in another form."""
    if not prediction.endswith("%") or "%" in gold or not _CONVERT.search(prompt):
        return False
    return prediction.replace(" ", "") in _flat_prompt(prompt).replace(" ", "")


def is_restated(gold: str, prediction: str, prompt: str) -> bool:
    """Whether an answer only puts signs between numbers of the prompt, where the gold answer is what they give."""
    numbers = _NUMBER.findall(prediction)
    wanted = numeral(gold)
    if len(numbers) < 2 or wanted is None or not _ARITHMETIC.fullmatch(prediction):
        return False
    if len(numbers) == 2 and wanted % 1:  # a fraction for a decimal is another form of it
        return False
    return set(numbers) <= set(_NUMBER.findall(prompt[:MAX_PROMPT_CHARS].replace(",", "")))


def _is_copied(gold: str, prediction: str, prompt: str) -> bool:
    """Whether an answer that has no form is a piece of the prompt's text, and not the gold answer."""
    bare, whole = (re.sub(r"[\s{}]", "", text) for text in (prediction, _flat_prompt(prompt)))
    return (
        len(bare) >= 5 and bool(re.search(r"[+*/^\\-]", bare)) and bare != re.sub(r"[\s{}]", "", gold) and bare in whole
    )


@lru_cache(maxsize=512)
def _flat_prompt(prompt: str) -> str:
    return normalise(" ".join(prompt[:MAX_PROMPT_CHARS].split()))


@lru_cache(maxsize=512)
def asked_task(prompt: str) -> str | None:
    """The verb of a task that is to compute or transform an expression; None where no expression is the task."""
    for found in _ASKS.finditer(prompt[:MAX_PROMPT_CHARS]):
        rest = _SENTENCE_END.split(found["rest"])[0]
        if _has_compound(rest):
            return found["verb"].casefold()
    for found in _WHAT_IS.finditer(prompt[:MAX_PROMPT_CHARS]):
        first = next(_spans(found["rest"]), "")
        expression = form(first.strip())
        if expression is not None and nodes(expression) and value(expression) is not None:
            return "compute"
    return None


def _has_compound(text: str) -> bool:
    for span in _spans(text):
        for part in split_at(span, _RELATION_BREAK):
            expression = form(part) if _SIGN.search(part) else None
            if expression is not None and nodes(expression):
                return True
    return False


def is_undone(gold: str, prediction: str, verb: str) -> bool:
    """Whether an answer with variables leaves a step of its task to do that the gold answer has done."""
    ours, wanted = form(prediction), form(gold)
    if ours is None or wanted is None:
        return False
    if ours == wanted:  # but for factors that cancel, as in (x-1)(x+1)/(x-1)
        return len(_SYMBOLS.findall(prediction)) > 2 * len(_SYMBOLS.findall(gold))
    if verb.startswith(("expand", "multiply")) and _has_product_of_sums(ours) and not _has_product_of_sums(wanted):
        return True
    if verb.startswith("factor") and _factors(ours) < _factors(wanted):
        return True
    return _has_like_terms(ours) and not _has_like_terms(wanted)


def _parts(found: Form) -> list[Form]:
    return [part for part in found[1:] if isinstance(part, tuple)] if found[0] not in ("num", "sym") else []


def _has_product_of_sums(found: Form) -> bool:
    kind, *arguments = found
    if kind == "mul" and any(part[0] == "add" for part in arguments):
        return True
    if kind == "pow" and arguments[0][0] == "add" and arguments[1][0] == "num" and arguments[1][1] > 1:
        return True
    return any(_has_product_of_sums(part) for part in _parts(found))


def _factors(found: Form) -> int:
    """How many factors with variables a product has, counted with their powers."""
    if found[0] == "mul":
        return sum(_factors(part) for part in _parts(found) if value(part) is None)
    if found[0] == "pow" and found[2][0] == "num" and found[2][1] > 1 and found[2][1].denominator == 1:
        return int(found[2][1]) * _factors(found[1])
    return 1


def _has_like_terms(found: Form) -> bool:
    """Whether a sum holds two terms that differ in a number only, or a product two numbers."""
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
