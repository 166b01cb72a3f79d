r"""Format rewards: 1.0 when a completion has the wanted shape, else 0.0."""

import re
from collections.abc import Sequence

from rewards.result import RewardError
from rewards.reward import reward
from rewards.text import answer_region, boxes, completion_text


@reward("boxed_format", isolation="inline")
def boxed_format(prompts: Sequence[object], completions: Sequence[object]) -> list[float]:
    r"""1.0 for exactly one ``\boxed{...}`` after the reasoning, balanced and not empty; else 0.0."""
    return [float(_has_one_box(answer_region(completion))) for completion in completions]


@reward("format_match")  # in a worker: a recipe's pattern may backtrack for ever on some completion
def format_match(prompts: Sequence[object], completions: Sequence[object], pattern: str) -> list[float]:
    r"""1.0 where the whole completion matches ``pattern`` (``.`` matches newlines too); else 0.0.

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
