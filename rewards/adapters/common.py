"""What the adapters for other libraries' reward functions share: columns under other names, extra results."""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from redraft.rewards.notes import as_detail, as_metrics
from redraft.rewards.result import RewardError, Status, Verdict, as_python
from redraft.rewards.scoring.call import Signature


def renamed(data: Mapping[str, Any], columns: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the data columns under their own names and under the names that a function wants.

    Args:
        data: Data columns.
        columns: Data column by argument of the function; None for no other names.

    Raises:
        RewardError: ``columns`` is no mapping, or names a column that the data lacks.
    """
    columns = as_mapping(columns, "columns")
    for argument, column in columns.items():
        if column not in data:
            valid = ", ".join(sorted(data)) or "none"
            raise RewardError(f"columns.{argument}: the data has no column {column!r}; valid: {valid}")
    return {**data, **{argument: data[column] for argument, column in columns.items()}}


def as_mapping(value: object, name: str) -> dict[str, Any]:
    """Check a recipe's mapping of names; {} for None, RewardError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise RewardError(f"{name} must be a mapping of names, got {value!r:.80}")
    return {str(key): entry for key, entry in value.items()}


def check_arguments(function: str, signature: Signature, arguments: Mapping[str, Any]) -> None:
    """Raise RewardError for an entry of the recipe's ``arguments`` that the function does not take."""
    try:
        signature.check_kwargs(arguments)
    except RewardError as error:
        raise RewardError(f"{function}: {str(error).replace('kwargs.', 'arguments.', 1)}") from error


def as_result(score: Any, entries: Mapping[str, Any]) -> object:
    """Make a verdict of a score that is a number or None; return any other as it is, for `as_verdicts` to refuse.

    Args:
        score: As the function returned it, scalars of numpy and torch included.
        entries: What it returned or logged beside the score. It becomes the detail, a JSON object; a finite number is
            also a metric.
    """
    value = as_python(score)
    if value is not None and not isinstance(value, numbers.Real):
        return score
    status = Status.MASKED if value is None else Status.OK
    return Verdict(None if value is None else float(value), status, as_detail(entries), as_metrics(entries))


def row_of(columns: Mapping[str, Sequence[Any]], row: int) -> dict[str, Any]:
    """Return one row of columns."""
    return {name: column[row] for name, column in columns.items()}
