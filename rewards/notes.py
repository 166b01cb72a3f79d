"""What a reward reports beside a score: named values as one line of detail, numbers as metrics."""

import json
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from redraft.rewards.result import InvalidResultError, Verdict, as_python

LOGGERS = ("log_extra", "log_metric")
"""Logging functions that a reward gets if it names them as arguments, as TRL's trainer gives them."""

_MAX_ENTRY_CHARS = 200
_MAX_DETAIL_CHARS = 1_000


@dataclass
class Notes:
    """What a reward logs during one call.

    Attributes:
        extra: What ``log_extra(column, values)`` was given: by column, one value for each completion.
        metrics: What ``log_metric(name, value)`` was given: by name, numbers of the whole call.
    """

    extra: dict[str, list[Any]] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)

    def log_extra(self, column: str, values: Iterable[Any]) -> None:
        """Keep a column, one value for each completion; it becomes their detail and, where it is a number, a metric."""
        self.extra.setdefault(str(column), []).extend(values)

    def log_metric(self, name: str, value: Any) -> None:
        """Keep a number of the whole call, which becomes a metric; the mean, where a name is logged several times."""
        number = as_python(value)
        if not isinstance(number, numbers.Real):
            raise InvalidResultError(f"log_metric({str(name)!r}, ...) got {repr(value)[:80]}; it takes a number")
        self.metrics.setdefault(str(name), []).append(float(number))

    def add_to(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Return the verdicts with what was logged added to their details and metrics.

        A verdict's own metric of the same name stays. A column of another length than the verdicts is left out.
        """
        columns = {name: values for name, values in self.extra.items() if len(values) == len(verdicts)}
        whole = {name: math.fsum(values) / len(values) for name, values in self.metrics.items()}
        noted = []
        for row, verdict in enumerate(verdicts):
            entries = {name: values[row] for name, values in columns.items()}
            detail = " ".join(filter(None, [verdict.detail, as_detail(entries)]))
            noted.append(
                replace(verdict, detail=detail, metrics={**as_metrics({**whole, **entries}), **verdict.metrics})
            )
        return noted


def as_metrics(entries: Mapping[str, Any]) -> dict[str, float]:
    """Return the entries that are finite numbers."""
    found = {str(name): as_python(value) for name, value in entries.items()}
    return {name: float(n) for name, n in found.items() if isinstance(n, numbers.Real) and math.isfinite(n)}


def as_detail(entries: Mapping[str, Any]) -> str:
    """Write the entries as a JSON object of limited length; "" for none."""
    if not entries:
        return ""
    text = json.dumps({str(name): _as_entry(value) for name, value in entries.items()}, ensure_ascii=False)
    return text if len(text) <= _MAX_DETAIL_CHARS else f"{text[:_MAX_DETAIL_CHARS]}..."


def _as_entry(value: Any) -> Any:
    value = as_python(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= _MAX_ENTRY_CHARS else f"{text[: _MAX_ENTRY_CHARS - 3]}..."
