"""Gold answers as data sets hold them: numbers, text, lists of answers, whole solutions."""

import json
import math
import numbers
from collections.abc import Sequence
from decimal import Decimal

from redraft.rewards.library.answers.signs import restore_escapes
from redraft.rewards.text import boxes, gsm8k_hash

MAX_ANSWER_CHARS = 2_000
_MAX_SOLUTION_CHARS = 50_000
_MAX_AROUND_BOXES = 40


def gold_text(gold: object) -> str | None:
    """Return a gold answer as text; None for what cannot be one.

    A list, also as JSON text, holds the items of one answer, all of which count; items that repeat the same text count
    once. Of a whole solution the part after ``####`` or the content of the last box is the answer.
    """
    if isinstance(gold, str):
        return _from_text(gold)
    if isinstance(gold, (numbers.Real, Decimal)) and not isinstance(gold, bool):
        return f"{gold}" if math.isfinite(gold) else None
    if isinstance(gold, Sequence) and not isinstance(gold, (bytes, bytearray)):
        return _from_list(gold)
    return None


def _from_text(text: str) -> str | None:
    if len(text) > _MAX_SOLUTION_CHARS:
        return None
    items = _json_list(text)
    if items is not None:
        return _from_list(items)
    answer = (gsm8k_hash(text) if "####" in text else None) or _from_boxes(text)
    answer = answer.strip()
    return answer if answer and len(answer) <= MAX_ANSWER_CHARS else None


def _from_boxes(text: str) -> str:
    """Return what the boxes of a text hold: all of them where there is little beside, the last one of a solution."""
    boxed = [content for content in boxes(text) if content]
    if not boxed:
        return text
    around = len(text.replace(" ", "")) - sum(len(content.replace(" ", "")) + len(r"\boxed{}") for content in boxed)
    return ", ".join(boxed) if around < _MAX_AROUND_BOXES else boxed[-1]


def _json_list(text: str) -> list[object] | None:
    r"""Read a list of strings, written as JSON or as Python prints it; None for others: ``[1,2]`` is an interval."""
    stripped = text.strip()
    if not (stripped.startswith(('["', "['")) and stripped.endswith(('"]', "']"))):
        return None
    try:
        return [restore_escapes(item) if isinstance(item, str) else item for item in json.loads(stripped)]
    except ValueError:
        return [part.strip().strip("'\"") for part in stripped[1:-1].split("', '")]


def _from_list(items: Sequence[object]) -> str | None:
    texts = [gold_text(item) if not isinstance(item, Sequence) or isinstance(item, str) else None for item in items]
    known = [text for text in texts if text is not None]
    answer = ", ".join(dict.fromkeys(known))
    return answer if known and len(known) == len(texts) and len(answer) <= MAX_ANSWER_CHARS else None
