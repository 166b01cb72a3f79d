r"""From a completion to the answer in it: its text, the part after the reasoning, and extraction policies.

A policy is a function from that part to the answer, or None; a recipe names policies in ``extract``. All functions take
time linear in the text, and a completion is cut to `MAX_COMPLETION_CHARS` before any of them reads it.
"""

import re
from collections.abc import Callable, Sequence

from redraft.rewards.result import RewardError

MAX_COMPLETION_CHARS = 50_000

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_HASH_LINE = re.compile(r"####[ \t]*([^\n]*)")
_ANCHOR = re.compile(  # every repetition is bounded, so that no text costs more than its length
    r"(?:\b(?:final|correct|right)\s{1,9}(?:answer|result|option|choice)|\banswer|\u7b54\u6848)[*_]{0,9}"
    r"(?:\s{1,9}(?:to|of|for)\s{1,9}(?:the|this)\s{1,9}(?:problem|question|task|exercise))?[*_\s]{0,9}"
    r"(?:\s(?:is|was|equals|should be|must be|will be|would be)\b"
    r"(?:\s{1,9}(?:therefore|thus|simply|just|then)\b)?[*_\s]{0,9}:?|:|\uff1a|=|\u662f|\u4e3a)",
    re.IGNORECASE,
)
_ANCHOR_AFTER = re.compile(
    r"(?<!\S)(\S{1,200})\s{1,9}is\s{1,9}(?:the|my|our)\s{1,9}(?:final\s{1,9}|correct\s{1,9})?answer", re.IGNORECASE
)
_MAX_ANCHORS, _MAX_VALUE_CHARS = 20, 2_500
_FORMULAS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("`", "`"))
_SENTENCE_END = re.compile(
    r"[.!?](?=\s|$)|[.!?](?=\*\*)|\u3002|;\s|,\s+(?=(?:so|because|since|as|which|where|and so)\b)"
    r"|\s(?=because\b|since\b)"
)
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")


def completion_text(completion: object) -> str:
    """Return the text of a completion: a string, or the content of the last of a list of messages.

    A message without content, as servers return for an empty or cut answer, is an empty text.

    Raises:
        RewardError: It is neither of the two.
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence) and completion and isinstance(completion[-1], dict):
        content = completion[-1].get("content")
        if content is None or isinstance(content, str):
            return content or ""
        if isinstance(content, list) and all(isinstance(part, dict) for part in content):
            return "".join(part.get("text") or "" for part in content)
    shown = f"{type(completion).__name__} {completion!r:.80}"
    raise RewardError(f"a completion is a string or a list of messages, got {shown}")


def answer_region(completion: object, most: int = MAX_COMPLETION_CHARS) -> str:
    """Return the part of a completion that may hold the answer: the text after the last ``</think>``.

    Reasoning that was opened again after it and never closed is cut off.

    Args:
        completion: A string or a list of messages.
        most: Characters that are kept, from the end.
    """
    tail = completion_text(completion).rpartition("</think>")[2].partition("<think>")[0]
    return tail[-most:]


def boxes(text: str) -> list[str | None]:
    r"""Return the contents of every ``\boxed{...}`` in order of their start; None for one whose braces never balance.

    Escaped braces, ``\{`` and ``\}``, do not count. The text is read once, with a stack for nested boxes.
    """
    starts = {match.end(): index for index, match in enumerate(_BOX.finditer(text))}
    found: list[str | None] = [None] * len(starts)
    open_boxes: list[tuple[int, int, int]] = []  # (box index, start of content, depth outside the box)
    depth, position = 0, 0
    while position < len(text):
        character = text[position]
        if character == "\\" and position + 1 < len(text) and text[position + 1] in "{}\\":
            position += 2
            continue
        if character == "{":
            depth += 1
            if position + 1 in starts:
                open_boxes.append((starts[position + 1], position + 1, depth - 1))
        elif character == "}" and depth > 0:
            depth -= 1
            if open_boxes and open_boxes[-1][2] == depth:
                index, start, _ = open_boxes.pop()
                found[index] = text[start:position]
        position += 1
    return found


def boxed_last(text: str) -> str | None:
    r"""Extract the content of the last ``\boxed{...}``; None when there is none or it was cut short.

    A later box overrules the earlier ones, so several boxes are still one guess.
    """
    found = boxes(text)
    return found[-1] if found else None


def boxed_all(text: str) -> str | None:
    r"""Extract all different boxes as one list, ``5, 6``; None when there is none or one was cut short."""
    found = boxes(text)
    whole = [content.strip() for content in found if content is not None]
    return ", ".join(dict.fromkeys(whole)) if whole and len(whole) == len(found) else None


def answer_tag(text: str) -> str | None:
    r"""Extract the content of the last ``<answer>...</answer>``, or of the last box in it."""
    before, closing, _ = text.rpartition("</answer>")
    _, opening, content = before.rpartition("<answer>")
    return (boxed_last(content) or content) if opening and closing else None


def gsm8k_hash(text: str) -> str | None:
    """Extract the rest of the line after the last ``####``, GSM8K's own marker."""
    found = _HASH_LINE.findall(text)
    return found[-1] if found else None


def anchor(text: str) -> str | None:
    r"""Extract what follows the last "the answer is" or "answer:", up to the end of its sentence or formula."""
    places = [match.end() for match in _ANCHOR.finditer(text)]
    for place in reversed(places[-_MAX_ANCHORS:]):
        value = _value_at(text[place : place + _MAX_VALUE_CHARS])
        if value:
            return value
    before = _ANCHOR_AFTER.findall(text)
    return before[-1] if before else None


def _value_at(text: str) -> str | None:
    text = text.lstrip(" \t\r\n:*_=")
    line = text.partition("\n\n")[0]
    boxed = boxes(_SENTENCE_END.split(line)[0])
    if boxed and boxed[0]:
        return boxed[0]
    for opening, closing in _FORMULAS:
        if text.startswith(opening):
            inner, found, after = text[len(opening) :].partition(closing)
            if found and inner.strip() and (opening != "$" or "\n" not in inner) and not _goes_on(after):
                return inner.strip()
    return _SENTENCE_END.split(text.partition("\n")[0])[0].replace("**", "").strip(" *_") or None


def _goes_on(text: str) -> bool:
    """Tell whether a sentence goes on after a formula, with a unit or another answer."""
    return bool(_SENTENCE_END.split(text.partition("\n")[0])[0].strip(" *_,"))


def last_number(text: str) -> str | None:
    """Extract the last decimal number in the text. It is lenient, so no reward uses it by default."""
    found = _NUMBER.findall(text)
    return found[-1] if found else None


POLICIES: dict[str, Callable[[str], str | None]] = {
    policy.__name__: policy for policy in (boxed_last, boxed_all, answer_tag, gsm8k_hash, anchor, last_number)
}


def extract_answer(completion: object, policies: Sequence[str]) -> str | None:
    """Extract an answer by the first policy that finds one that is not empty.

    Args:
        completion: A string or a list of messages.
        policies: Names from `POLICIES`, in order.

    Raises:
        RewardError: A policy is unknown, or there is none.
    """
    unknown = [name for name in policies if name not in POLICIES]
    if unknown or not policies or isinstance(policies, str):
        raise RewardError(f"extract={policies!r} must be a list of policies out of {', '.join(POLICIES)}")
    region = answer_region(completion)
    found = (POLICIES[name](region) for name in policies)
    return next((answer.strip() for answer in found if answer is not None and answer.strip()), None)
