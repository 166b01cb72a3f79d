r"""Format rewards: 1.0 when a completion has the wanted shape, else 0.0."""

import re
from collections.abc import Sequence

from redraft.rewards.result import RewardError
from redraft.rewards.reward import reward
from redraft.rewards.text import answer_region, boxes, completion_text

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_THINK_ANSWER = re.compile(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)


@reward("boxed_format", isolation="inline")
def boxed_format(completions: Sequence[object]) -> list[float]:
    r"""Score 1.0 for exactly one ``\boxed{...}`` after the reasoning, balanced and not empty; else 0.0."""
    return [float(_has_one_box(answer_region(completion))) for completion in completions]


@reward("think_answer_format", isolation="inline")
def think_answer_format(completions: Sequence[object], min_think_chars: int = 10) -> list[float]:
    """Score 1.0 for ``<think>...</think><answer>...</answer>`` and nothing else, each tag exactly once; else 0.0.

    White space may stand around the two parts. The tags are those of TRL's `think_format_reward`.

    Args:
        completions: Strings or lists of messages.
        min_think_chars: Fewest characters of reasoning; the answer needs one. A bare skeleton of tags earns nothing.
    """
    return [float(_is_think_answer(completion_text(completion), min_think_chars)) for completion in completions]


@reward("format_match")  # in a worker: a recipe's pattern may backtrack without end on some completion
def format_match(completions: Sequence[object], pattern: str) -> list[float]:
    r"""Score 1.0 where the whole completion matches ``pattern`` (``.`` matches newlines too); else 0.0.

    Raises:
        RewardError: ``pattern`` is not a regular expression.
    """
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise RewardError(f"pattern {pattern!r} is not a regular expression: {error}") from error
    return [float(compiled.fullmatch(completion_text(completion)) is not None) for completion in completions]


def _has_one_box(text: str) -> bool:
    found = boxes(text)
    return len(found) == 1 and found[0] is not None and bool(found[0].strip())


def _is_think_answer(text: str, min_think_chars: int) -> bool:
    # This also keeps the pattern linear, because each tag can match in one place only.
    if any(text.count(tag) != 1 for tag in _TAGS):
        return False
    match = _THINK_ANSWER.fullmatch(text)
    return match is not None and len(match[1].strip()) >= min_think_chars and bool(match[2].strip())
