r"""A reward of your own: full marks for the right boxed answer, half for a right answer that is not boxed.

redraft train recipes/quickstart.yaml output_dir=runs/mine "rewards=[{fn: examples/short_answer.py:short_answer}]"
"""

from collections.abc import Sequence
from typing import Any


def short_answer(
    prompts: Sequence[str], completions: Sequence[str], ground_truth: Sequence[str], **columns: Any
) -> list[float | None]:
    """Columns of the data arrive as keyword lists; None would mask a completion."""
    scores: list[float | None] = []
    for completion, answer in zip(completions, ground_truth, strict=True):
        boxed = completion == rf"\boxed{{{answer}}}"
        scores.append(1.0 if boxed else 0.5 if answer in completion.split() else 0.0)
    return scores
