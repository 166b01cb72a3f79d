r"""Is a predicted answer the gold one: what text and exact arithmetic can decide, and what has to be refused.

math-verify answers whether two texts parse to equal values, which is true of more than right answers. So before it is
asked, every part of an answer is accounted for: words, units, options, sides of an equation. What cannot be accounted
for is refused, because reinforcement learning finds and exploits false positives.
"""

import re
import unicodedata
from dataclasses import dataclass

from redraft.rewards.library.answers import prompt as tasks
from redraft.rewards.library.answers import undone
from redraft.rewards.library.answers.align import Pair, align
from redraft.rewards.library.answers.items import compare_items, is_deep, split_items
from redraft.rewards.library.answers.numbers import numeral, without_thousands
from redraft.rewards.library.answers.options import Option, gold_option, read_option
from redraft.rewards.library.answers.reading import read_answer
from redraft.rewards.library.answers.typeset import normalise, text_words, without_words
from redraft.rewards.library.answers.values import rational
from redraft.rewards.library.answers.words import join_amounts
from redraft.rewards.result import Status

_DIGIT_SUBSCRIPT = re.compile(r"[0-9A-F)}]\s*_")
_TWO_NUMBERS = re.compile(r"(?<![_^0-9])[0-9]+ +[0-9]")
_AMBIGUOUS = re.compile(r"!!|\^\s*(?:\{[^{}]*\}|[0-9A-Za-z])\s*\^")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_ONLY_THOUSANDS = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})*,0[0-9]{2}(?![0-9])")
_LABELLED = re.compile(r"\(?\\text\{[A-J]\}|\(?[A-J]\)?[:.]|[A-J]\)|\([A-J]\) ?-?[0-9\\]")
_CONSTANT_WORDS = {"infinity", "infty"}


@dataclass(frozen=True)
class Task:
    """What a comparison needs to know beside the two answers.

    Attributes:
        prompt: Text of the task.
        strict_form: Whether an answer must be computed in full whatever the task asks.
    """

    prompt: str = ""
    strict_form: bool = False


@dataclass(frozen=True)
class Decision:
    """A verdict, or what is left to compare.

    Attributes:
        status: OK or WRONG; None where a computer algebra system has to decide.
        reason: Why an answer is refused; "" where it is plainly another one.
        pair: Gold answer and prediction without words and names, to be compared.
    """

    status: Status | None
    reason: str = ""
    pair: Pair = ("", "")


FREE = Task()
_OK, _WRONG = Decision(Status.OK), Decision(Status.WRONG)


def decide(gold_text: str, answer_text: str, task: Task = FREE) -> Decision:
    """Decide what text and exact arithmetic can decide.

    Args:
        gold_text: The gold answer.
        answer_text: The answer of the completion.
        task: What the prompt asks for.
    """
    if gold_text == answer_text:
        return _OK
    ours, theirs = numeral(gold_text), numeral(answer_text)
    if ours is not None and theirs is not None:
        return _OK if ours == theirs else _WRONG
    if is_deep(gold_text) or is_deep(answer_text):
        return Decision(Status.WRONG, "nested too deeply")
    gold, answer = (join_amounts(normalise(text)) for text in (gold_text, answer_text))
    if gold == answer:
        return _OK
    if (option := gold_option(gold)) is not None:
        return _decide_option(option, answer, task)
    if tasks.is_unconverted(gold, answer, task.prompt):
        return Decision(Status.WRONG, "copied from the prompt")
    words = _words(gold)
    # A computer algebra system would read words as products of letters, and take any anagram for the same.
    if words is not None:
        return _OK if _words(answer) == words else _WRONG
    return _decide_values(gold_text, gold, answer, task)


def _decide_values(gold_text: str, gold: str, answer: str, task: Task) -> Decision:
    """Decide on an answer where the gold answer is neither an option nor a word."""
    option = read_option(answer)
    if option is not None and option.text and _LABELLED.match(answer):
        return decide(gold_text, option.text, task)
    decisions = [_decide_pair(*pair, task) for pair in _readings(gold, answer, task.prompt)]
    for status in (Status.OK, None):
        if (best := next((decision for decision in decisions if decision.status is status), None)) is not None:
            return best
    return decisions[0] if decisions else Decision(Status.WRONG, "a word, unit or item of it cannot be accounted for")


def _decide_option(gold: Option, answer: str, task: Task) -> Decision:
    option = read_option(answer)
    if option is None:
        return decide(gold.text, answer, task) if gold.text else _WRONG
    if option.letter.upper() != gold.letter:
        return _WRONG
    values = [rational(text) if text else None for text in (gold.text, option.text)]
    return _WRONG if None not in values and values[0] != values[1] else _OK


def _words(answer: str) -> str | None:
    """Return an answer of words alone, without case and hyphens; None for any other, such as the product ``xy``."""
    tagged = text_words(answer)
    rest = without_words(answer).replace("-", " ")
    if not all(letter in " '()." or unicodedata.category(letter)[0] in "LM" for letter in rest):
        return None
    plain = " ".join(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", answer.replace("-", " ")).split()).casefold().strip("(). ")
    if not tagged and plain != "no":
        return None
    return None if plain in _CONSTANT_WORDS else re.sub(r"\s+(?=')|[()]", "", plain)


def _readings(gold: str, answer: str, prompt: str) -> list[Pair]:
    """Return pairs of plain expressions, without words and names, that the two answers may mean; [] for none."""
    ours = read_answer(without_thousands(gold), None)
    if ours is None:
        return []
    spellings = dict.fromkeys((without_thousands(answer), answer))
    if _ONLY_THOUSANDS.search(answer):
        spellings.pop(answer)  # 1,024 is no list of 1 and 24
    readings = [read_answer(spelling, prompt, ours) for spelling in spellings]
    return [pair for theirs in readings if theirs is not None for pair in align(ours, theirs)]


def _decide_pair(gold: str, answer: str, task: Task) -> Decision:
    """Decide on two answers without words and names."""
    if gold == answer:
        return _OK
    if _is_refused(gold, answer):
        return _WRONG
    last = answer.rpartition("=")[2].strip() if "=" not in gold else answer
    reason = _left_to_do(gold, last, task)
    if reason:
        return Decision(Status.WRONG, reason)
    same = compare_items(gold, answer, same_by_arithmetic)
    return Decision(None, pair=(gold, answer)) if same is None else _OK if same else _WRONG


def same_by_arithmetic(gold: str, answer: str) -> bool | None:
    """Tell whether text and rational arithmetic find two items the same; every side of a chain counts."""
    if gold == answer:
        return True
    if "=" in answer and "=" not in gold:
        sides = [same_by_arithmetic(gold, side.strip()) for side in answer.split("=")]
        return False if False in sides else None if None in sides else True
    ours, theirs = rational(gold), rational(answer)
    return ours == theirs if ours is not None and theirs is not None else None


def _left_to_do(gold: str, answer: str, task: Task) -> str:
    """Say what an answer leaves undone of its task; "" for nothing."""
    found = split_items(answer)
    is_single = found is not None and len(found.items) == 1
    answer = found.items[0] if found is not None and is_single else answer  # brackets around one value change nothing
    if tasks.is_echo(gold, answer, task.prompt):
        return "copied from the prompt"
    if tasks.OPERATOR.search(answer) and not tasks.OPERATOR.search(gold):
        return "left to compute"
    if tasks.is_restated(gold, answer, task.prompt):
        return "left to compute"
    verb = tasks.asked_task(task.prompt)
    if not task.strict_form and verb is None:
        return ""
    if verb and undone.is_unreduced(gold, answer, verb):
        return f"left to {verb}"
    if _is_numeric(gold):
        return "left to compute" if undone.is_uncomputed(gold, answer) else ""
    return f"left to {verb}" if verb and is_single and undone.is_undone(gold, answer, verb) else ""


def _is_refused(gold: str, answer: str) -> bool:
    if "%" in gold or "%" in answer:
        return True  # inside an expression a percent sign has no reading
    if _differs_in_case(gold, answer):
        return True  # math-verify would take c for C
    if gold.count("'") != answer.count("'"):
        return True  # math-verify would take y' for y
    if _TWO_NUMBERS.search(answer):
        return True  # math-verify would add them
    if _AMBIGUOUS.search(answer):
        return True  # a double factorial, a power of a power without brackets
    return bool(_DIGIT_SUBSCRIPT.search(gold) or _DIGIT_SUBSCRIPT.search(answer))  # a number in another base


def _differs_in_case(gold: str, prediction: str) -> bool:
    ours, theirs = (set(_COMMAND.sub("", answer)) for answer in (gold, prediction))
    return any(letter.swapcase() in ours - theirs for letter in theirs - ours if letter.isalpha() and letter < "\x7f")


def _is_numeric(answer: str) -> bool:
    """Tell whether an answer has no variables, so that every letter belongs to a command."""
    return not re.search(r"[A-Za-z]", _COMMAND.sub("", answer))
