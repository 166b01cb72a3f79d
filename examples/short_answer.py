r"""A reward of your own: 1 for the right boxed answer, half for a right last word, for at most twelve characters.

redraft train quickstart short_answer
"""

from collections.abc import Sequence
from typing import Any


def short_answer(completions: Sequence[str], ground_truth: Sequence[str | None], **columns: Any) -> list[float | None]:
    """Columns of the data arrive as lists; None masks a completion: here, one whose row has no answer."""
    scores: list[float | None] = []
    for completion, answer in zip(completions, ground_truth, strict=True):
        boxed = completion == rf"\boxed{{{answer}}}"
        half = len(completion) <= 12 and completion.split()[-1:] == [answer]
        scores.append(None if answer is None else 1.0 if boxed else 0.5 if half else 0.0)
    return scores
