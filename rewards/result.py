"""What a reward may return, and the one place where it is checked.

``None`` masks a sample from baseline and advantage. Everything else that is not a finite number stops the run as a
`RewardError`: a broken reward must never look like a reward of 0.0.
"""

import math
import numbers
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any


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
    GOLD_ERROR = "gold_error"  # score None: the data row cannot be used to score anything
    INFRA_ERROR = "infra_error"  # score None: the machinery failed, not the completion
    MASKED = "masked"  # the reward does not apply: it returned None, or its `when` excludes the row


@dataclass(frozen=True, slots=True)
class Verdict:
    """Score of one completion, with its reason. A reward may return these, or equal dicts, in place of plain numbers.

    Attributes:
        score: A finite number; None: not scorable.
        status: One of `Status`, or a reward's own word.
        detail: For people: why.
        metrics: Further numbers of this completion, averaged into ``rewards/<name>/<metric>``.
        ms: Milliseconds that this completion took; None: its share of the call it came from.
    """

    score: float | None
    status: str = Status.OK
    detail: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    ms: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class SampleScore:
    """Scores of one completion.

    Attributes:
        total: What is learned from: gates times weighted task rewards, plus shaping; None when the sample is masked.
        unshaped: The same without shaping.
        verdicts: What each reward said, by its name.
    """

    total: float | None
    unshaped: float | None
    verdicts: Mapping[str, Verdict]

    @property
    def parts(self) -> dict[str, float | None]:
        """Score by reward name; None where a reward does not apply or could not score."""
        return {name: verdict.score for name, verdict in self.verdicts.items()}

    @property
    def status(self) -> dict[str, str]:
        """`rewards.result.Status` by reward name."""
        return {name: str(verdict.status) for name, verdict in self.verdicts.items()}

    @property
    def detail(self) -> dict[str, str]:
        """What a reward had to say, by its name; "" for nothing."""
        return {name: verdict.detail for name, verdict in self.verdicts.items()}


def as_verdicts(result: object, expected: int) -> list[Verdict]:
    """Check what a reward returned: one finite number, None or `Verdict` per completion.

    Args:
        result: The reward's return value: whatever gives one score after the other, arrays and tensors included.
        expected: Number of completions in the batch.

    Raises:
        InvalidResultError: Anything else, with the row where one is to blame.
    """
    listed = None if isinstance(result, str | bytes | Mapping | Set) else _listed(result)
    if listed is None:
        raise InvalidResultError(f"returned a {type(result).__name__}; a reward returns a list, one score a completion")
    if len(listed) != expected:
        raise InvalidResultError(f"returned {len(listed)} scores for {expected} completions")
    return [_as_verdict(value, row) for row, value in enumerate(listed)]


def _listed(result: object) -> list[Any] | None:
    """The scores one by one; None for what has no parts, such as a number or an array of no dimension."""
    if not isinstance(result, Iterable) or getattr(result, "shape", None) == ():
        return None
    return list(result)


def as_python(value: Any) -> Any:
    """A number of Python for one of numpy, torch or decimal, or for an array that holds just one; else the value.

    By what the value can do, not by its class: this module imports neither library.
    """
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    item, shape = getattr(value, "item", None), getattr(value, "shape", None)
    if callable(item) and shape is not None and math.prod(shape) == 1:
        return item()
    if isinstance(value, numbers.Real | str) or hasattr(value, "__len__"):
        return value
    for convert in ("__index__", "__float__"):
        if hasattr(value, convert):
            return getattr(value, convert)()
    return value


def _as_verdict(value: object, row: int) -> Verdict:
    if isinstance(value, Mapping):
        value = _from_mapping(value, row)
    if not isinstance(value, Verdict):
        score = as_python(value)
        return Verdict(None, Status.MASKED) if score is None else Verdict(_finite(score, row))
    score = None if value.score is None else _finite(value.score, row)
    if not isinstance(value.metrics, Mapping):
        raise InvalidResultError(f"returned metrics {value.metrics!r:.80}; metrics are numbers by name", row)
    metrics = {str(name): _finite(number, row) for name, number in value.metrics.items()}
    ms = None if value.ms is None else _finite(value.ms, row)
    return Verdict(score, str(value.status), str(value.detail), metrics, ms)


def _from_mapping(value: Mapping[object, object], row: int) -> Verdict:
    try:
        return Verdict(**{**value, "score": as_python(value["score"])})  # pyright: ignore[reportArgumentType, reportCallIssue]
    except (KeyError, TypeError) as error:
        valid = ", ".join(part.name for part in fields(Verdict))
        raise InvalidResultError(
            f"returned {repr(value)[:80]}; a rich result has `score`, and may have {valid}", row
        ) from error


def _finite(number: object, row: int) -> float:
    value = as_python(number)
    if not isinstance(value, numbers.Real):
        shown = f"{repr(number)[:80]} ({type(number).__name__})"  # an array takes no width in a format
        raise InvalidResultError(f"returned {shown}; a score is a number or None", row)
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise InvalidResultError(f"returned {value}; a score is finite, and None masks a sample", row)
    return value
