"""What is told beside a score: values by name as one line of detail, numbers as metrics, and what a reward logs."""

import json
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from redraft.rewards.result import InvalidResultError, Verdict, as_python

LOGGERS = ("log_extra", "log_metric")
"""Arguments that a reward gets if it names them, as TRL's trainer gives them."""

_MAX_ENTRY_CHARS = 200
_MAX_DETAIL_CHARS = 1_000


@dataclass
class Notes:
    """What a reward logs during one call.

    Attributes:
        extra: Columns of ``log_extra(column, values)``: one value a completion.
        metrics: Numbers of ``log_metric(name, value)``: of the whole call.
    """

    extra: dict[str, list[Any]] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)

    def log_extra(self, column: str, values: Iterable[Any]) -> None:
        """Keep a column."""
        self.extra.setdefault(str(column), []).extend(values)

    def log_metric(self, name: str, value: Any) -> None:
        """Keep a number."""
        number = as_python(value)
        if not isinstance(number, numbers.Real):
            raise InvalidResultError(f"log_metric({str(name)!r}, ...) got {repr(value)[:80]}; it takes a number")
        self.metrics.setdefault(str(name), []).append(float(number))

    def add_to(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """The verdicts with what was logged: columns as detail (and metric, where a number), metrics on every one."""
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
    """The entries that are finite numbers."""
    found = {str(name): as_python(value) for name, value in entries.items()}
    return {name: float(n) for name, n in found.items() if isinstance(n, numbers.Real) and math.isfinite(n)}


def as_detail(entries: Mapping[str, Any]) -> str:
    """The entries as a JSON object of limited length; "" for none."""
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
