"""What a reward may return, and the one place where it is checked.

``None`` masks a sample from baseline and advantage. Everything else that is not a finite number stops the run as a
`RewardError`: a broken reward must never look like a reward of 0.0.
"""

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class RewardError(Exception):
    """A reward is missing, broken or never returned; the run stops."""


class InvalidResultError(RewardError):
    """A reward returned something that is not one finite number or None per completion."""

    def __init__(self, message: str, row: int | None = None) -> None:
        """Keep the message and, where one row is to blame, its index in the batch."""
        super().__init__(message)
        self.row = row


class Status(StrEnum):
    """What became of one completion under one reward."""

    OK = "ok"  # scored; for a verifier: right
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TIMEOUT = "timeout"  # score 0: the answer itself is too expensive to check
    GOLD_ERROR = "gold_error"
    INFRA_ERROR = "infra_error"  # score None: the machinery failed, not the completion
    MASKED = "masked"  # the reward returned None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Score of one completion, with its reason. A reward may return these in place of plain numbers."""

    score: float | None
    status: str = Status.OK
    detail: str = ""


def as_verdicts(result: object, expected: int) -> list[Verdict]:
    """Check what a reward returned: one finite number, None or `Verdict` per completion.

    Args:
        result: The reward's return value.
        expected: Number of completions in the batch.

    Raises:
        InvalidResultError: Anything else, with the row where one is to blame.
    """
    if isinstance(result, str) or not isinstance(result, Sequence):
        raise InvalidResultError(f"returned a {type(result).__name__}; a reward returns a list, one score a completion")
    if len(result) != expected:
        raise InvalidResultError(f"returned {len(result)} scores for {expected} completions")
    return [_as_verdict(value, row) for row, value in enumerate(result)]


def _as_verdict(value: object, row: int) -> Verdict:
    if isinstance(value, Verdict):
        score, status, detail = value.score, str(value.status), value.detail
    else:
        score, status, detail = value, str(Status.MASKED if value is None else Status.OK), ""
    if score is None:
        return Verdict(None, status, detail)
    if not isinstance(score, numbers.Real):
        raise InvalidResultError(f"returned {score!r:.80} ({type(score).__name__}); a score is a number or None", row)
    if not math.isfinite(score):
        raise InvalidResultError(f"returned {float(score)}; a score is finite, and None masks a sample", row)
    return Verdict(float(score), status, detail)
