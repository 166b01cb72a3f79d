"""``verl_score``: run a ``compute_score`` written for verl without a change. verl need not be installed."""

import asyncio
import contextlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redraft.rewards.adapters.common import as_mapping, as_result, check_arguments, renamed, row_of
from redraft.rewards.result import InvalidResultError, RewardError, Status, Verdict, as_python
from redraft.rewards.reward import resolve, reward
from redraft.rewards.scoring.call import BATCH_ARGUMENTS, Signature
from redraft.rewards.text import completion_text
from redraft.rewards.user_files import beside

_PLURALS = {
    "data_source": "data_sources",
    "solution_str": "solution_strs",
    "ground_truth": "ground_truths",
    "extra_info": "extra_infos",
}
_ARGUMENTS = tuple(_PLURALS)
_MAX_NESTING = 4  # a tuple in a dict in a tuple
_CONCURRENCY = 64


@reward("verl_score")
def verl_score(
    completions: Sequence[object],
    function: str,
    data_source: str | Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    **data: Any,
) -> object:
    """Score with a verl ``compute_score(data_source, solution_str, ground_truth, extra_info=None)``, sync or async.

    Args:
        completions: Strings or lists of messages; the function reads the text.
        function: ``pkg.module:function`` or ``path/file.py:function``; it may leave out arguments it does not need.
        data_source: The data's column, or one name for all rows; "" by default.
        arguments: Extra keyword arguments of every call, verl's ``reward_kwargs``.
        columns: Data column by argument of the function.
        data: Data columns. ``ground_truth`` may also be in verl's ``reward_model`` column; ``extra_info`` is the
            column of that name, else the row's other columns.

    Returns:
        One verdict per completion. The score is that of a dict or object, or the first item of a tuple, list or array;
        the rest is the detail. It is an awaitable where the function is asynchronous.

    Raises:
        RewardError: No such function, or it needs an argument that is not there.
        InvalidResultError: It returned something without a score.
    """
    if ":" not in function:
        raise RewardError(f"function={function!r} must be 'pkg.module:function' or 'path/file.py:function'")
    score, extra = resolve(function), as_mapping(arguments, "arguments")
    signature = Signature.of(score)
    check_arguments(function, signature, extra)
    one = data_source or ""
    sources = [one] * len(completions) if isinstance(one, str) else [source or "" for source in one]
    table = renamed({**data, "data_source": sources}, columns)
    rows = [_row_arguments(completion, row_of(table, row)) for row, completion in enumerate(completions)]
    with beside(function):
        if set(_PLURALS.values()) & set(signature.required):
            return _score_batch(score, signature, rows, extra)
        scorable = [_lacks(signature, row, extra, table) for row in rows]
        results = [lack or score(**signature.select(row, extra)) for row, lack in zip(rows, scorable, strict=True)]
    if any(map(inspect.isawaitable, results)):
        return _wait_for_all(results, function)
    return [_as_verdict(result, row) for row, result in enumerate(results)]


def _score_batch(
    score: Callable[..., Any], signature: Signature, rows: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]
) -> list[object]:
    """Make one call for all rows, as verl's batch manager does: arguments in the plural, a list of results."""
    columns = {_PLURALS[name]: [row.get(name) for row in rows] for name in _ARGUMENTS}
    results = list(score(**signature.select(columns, extra)))
    return [_as_verdict(result, row) for row, result in enumerate(results)]


def _lacks(
    signature: Signature, row: Mapping[str, Any], extra: Mapping[str, Any], table: Mapping[str, Any]
) -> Verdict | None:
    """Return the verdict on a row that lacks what the function needs; None where it lacks nothing.

    Raises:
        RewardError: The data has no such column, so that all rows lack it.
    """
    missing = [name for name in signature.required if name not in row and name not in extra]
    if not missing:
        return None
    if "reward_model" in table and missing == ["ground_truth"]:
        return Verdict(None, Status.GOLD_ERROR, "the row's reward_model has no ground_truth")
    valid = ", ".join(sorted(set(table) - {*BATCH_ARGUMENTS, "data_source"})) or "none"
    raise RewardError(f"needs {', '.join(map(repr, missing))}; name its data column in columns; valid: {valid}")


def _row_arguments(completion: object, row: dict[str, Any]) -> dict[str, Any]:
    """Return the four arguments of one row; without ``ground_truth`` where the row has none."""
    row = {name: value for name, value in row.items() if name not in BATCH_ARGUMENTS}
    model = row.get("reward_model")
    with contextlib.suppress(TypeError, ValueError):  # a table may keep it as JSON text
        model = json.loads(model)  # pyright: ignore[reportArgumentType]
    if row.get("ground_truth") is None and isinstance(model, Mapping) and "ground_truth" in model:
        row["ground_truth"] = model["ground_truth"]
    if row.get("extra_info") is None:
        row["extra_info"] = {name: value for name, value in row.items() if name not in _ARGUMENTS}
    row["solution_str"] = completion_text(completion)
    return {name: row[name] for name in _ARGUMENTS if name in row}


async def _wait_for_all(results: Sequence[Any], function: str) -> list[object]:
    """Wait for all calls, `_CONCURRENCY` of them at a time, and return the verdicts."""
    limit = asyncio.Semaphore(_CONCURRENCY)

    async def wait_for(result: Any) -> Any:
        async with limit:
            return await result if inspect.isawaitable(result) else result

    with beside(function):
        found = await asyncio.gather(*map(wait_for, results))
    return [_as_verdict(result, row) for row, result in enumerate(found)]


def _as_verdict(result: Any, row: int) -> object:
    """Read the result of one row as verl's reward managers do: the score, and what came with it."""
    entries: dict[str, Any] = {}
    for _ in range(_MAX_NESTING):
        value, more = _opened(result, row)
        entries = {**more, **entries}
        if value is result:
            break
        result = value
    return result if isinstance(result, Verdict) else as_result(result, entries)


def _opened(result: Any, row: int) -> tuple[Any, dict[str, Any]]:
    """Take one layer off a result; return what holds the score, and the named values beside it."""
    if isinstance(result, Verdict | str | bytes) or as_python(result) is not result:
        return result, {}
    named = _named(result)
    if named is not None:
        if "score" not in named:
            found = ", ".join(map(repr, named)) or "an empty one"
            raise InvalidResultError(f"a verl function's dict needs 'score', got {found}", row)
        return named.pop("score"), named
    if isinstance(result, Sequence) or getattr(result, "shape", ()) != ():
        if not len(result):
            raise InvalidResultError(f"returned an empty {type(result).__name__}; its first item is the score", row)
        first, *rest = result
        more = {str(name): value for item in rest if isinstance(item, Mapping) for name, value in item.items()}
        others = [item for item in rest if not isinstance(item, Mapping)]
        return first, {**more, **({"more": others} if others else {})}
    return result, {}


def _named(result: Any) -> dict[str, Any] | None:
    """Return the fields of a dict, or of an object with a score (a dataclass, a named tuple); None for others."""
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items()}
    if not hasattr(result, "score"):
        return None
    fields = result._asdict() if hasattr(result, "_asdict") else getattr(result, "__dict__", {})
    return {**{name: value for name, value in fields.items() if not name.startswith("_")}, "score": result.score}
