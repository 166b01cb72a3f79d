"""What a reward may return, and the one place where it is checked.

A reward returns a list with one entry for each completion. An entry is

* a finite number, the score;
* None, which masks the sample: it counts neither in the baseline nor in the advantage;
* a `Verdict`, or a dict with its fields, where there is more to say than a number.

Anything else stops the run as a `RewardError`, because a broken reward must never look like a reward of 0.0.
"""

import math
import numbers
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any


class RewardError(Exception):
    """A reward is missing, broken or does not return; the run stops.

    A reward may raise it too, where a data row or a setting makes no sense: its message is then shown as it is.
    """


class InvalidResultError(RewardError):
    """A reward returned something else than one finite number, None or `Verdict` for each completion."""

    def __init__(self, message: str, row: int | None = None) -> None:
        """Keep the message.

        Args:
            message: What was returned, and what may be.
            row: Index in the batch of the row that is to blame; None where it is not a single one.
        """
        super().__init__(message)
        self.row = row


class Status(StrEnum):
    """What became of one completion under one reward. A reward may use words of its own as well."""

    OK = "ok"  # it has a score; under a verifier: the answer is right
    WRONG = "wrong"  # score 0, or a fraction: there is an answer, and it is not right
    NO_ANSWER = "no_answer"  # score 0: there is no answer in the completion
    TIMEOUT = "timeout"  # score 0: the answer takes too long to check
    GOLD_ERROR = "gold_error"  # score None: the data row is broken, so that no answer to it can be scored
    INFRA_ERROR = "infra_error"  # score None: the machinery failed, not the completion
    MASKED = "masked"  # score None: the reward returned None, or its `when` excludes the row


@dataclass(frozen=True, slots=True)
class Verdict:
    """Score of one completion, with its reason.

    A worked example: a reward ``budget`` gives 1.0 for at most 50 words and less for more, and says of three
    completions

        Verdict(1.0, metrics={"words": 42})
        Verdict(0.5, "wrong", "75 words, 25 over the limit", {"words": 75})
        Verdict(None, "infra_error", "the counter is down")

    As the only reward of a recipe, with ``weight: 2``, it makes the totals 2.0, 1.0 and None. The third sample is
    masked: the mean reward is (2.0 + 1.0) / 2 = 1.5, and only the first two are learned from. The step's metrics are
    ``rewards/budget/mean`` (1.0 + 0.5) / 2 = 0.75, ``rewards/budget/words`` (42 + 75) / 2 = 58.5, and a third each for
    ``rewards/budget/ok_fraction``, ``wrong_fraction`` and ``infra_error_fraction``.

    Attributes:
        score: A finite number; None where the completion cannot be scored, which masks the sample.
        status: One of `Status`, or a reward's own word.
        detail: The reason, for people who read samples.
        metrics: Further numbers of this completion, averaged into ``rewards/<name>/<metric>``.
        ms: Milliseconds that this completion took; None for its share of the call that scored it.
    """

    score: float | None
    status: str = Status.OK
    detail: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    ms: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class SampleScore:
    """Score of one sample under all rewards of a mixture.

    Attributes:
        total: What is learned from: gates times weighted task rewards, plus shaping; None when the sample is masked.
        unshaped: The same without shaping.
        verdicts: Verdict of each reward, by its name.
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
        """Status by reward name, see `Status`."""
        return {name: str(verdict.status) for name, verdict in self.verdicts.items()}

    @property
    def detail(self) -> dict[str, str]:
        """Reason by reward name; "" where a reward gave none."""
        return {name: verdict.detail for name, verdict in self.verdicts.items()}


def as_verdicts(result: object, expected: int) -> list[Verdict]:
    """Check what a reward returned: one finite number, None or `Verdict` per completion.

    Args:
        result: The reward's return value; arrays and tensors of one dimension count as lists.
        expected: Number of completions in the batch.

    Raises:
        InvalidResultError: It is something else; with the row where one is to blame.
    """
    listed = None if isinstance(result, str | bytes | Mapping | Set) else _listed(result)
    if listed is None:
        raise InvalidResultError(f"returned a {type(result).__name__}; a reward returns a list, one score a completion")
    if len(listed) != expected:
        raise InvalidResultError(f"returned {len(listed)} scores for {expected} completions")
    return [_as_verdict(value, row) for row, value in enumerate(listed)]


def _listed(result: object) -> list[Any] | None:
    """Return the scores as a list; None for what has no parts, such as a number or an array of no dimension."""
    if not isinstance(result, Iterable) or getattr(result, "shape", None) == ():
        return None
    return list(result)


def as_python(value: Any) -> Any:
    """Return a number of numpy, torch or decimal, or an array that holds just one, as Python's own; others as they are.

    It asks what the value can do and not what class it has, because this module imports neither library.
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
