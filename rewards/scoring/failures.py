"""How a call of a reward can fail, and the error that then stops a run: it names the reward, the row and the prompt."""

from typing import Any

from redraft.rewards.processes.errors import WorkerError, WorkerTimeoutError
from redraft.rewards.result import InvalidResultError, RewardError
from redraft.rewards.scoring.runner import RaisedError
from redraft.rewards.term import RewardTerm

Batch = dict[str, list[Any]]
"""``prompts``, ``completions``, ``completion_ids`` and the data columns: one list each, over the completions."""

FAILURES = (RaisedError, InvalidResultError, WorkerError)
_EXCERPT_CHARS = 80


def one_row(batch: Batch, row: int) -> Batch:
    """Return the batch that holds this row alone."""
    return {name: [column[row]] for name, column in batch.items()}


def stopping_error(term: RewardTerm, error: Exception, batch: Batch, row: int | None) -> RewardError:
    """Return the error that stops the run.

    Args:
        term: The reward.
        error: One of `FAILURES`.
        batch: What the reward was called with.
        row: The row that is to blame; None where no single one is known to be.
    """
    where = row_text(batch, row)
    if isinstance(error, RaisedError):
        return RewardError(f"reward {term.name!r} raised on {where}: {error}")
    if isinstance(error, WorkerTimeoutError):
        return RewardError(
            f"reward {term.name!r} did not return within timeout_s={term.timeout_s} on {where}; its worker "
            "process was killed. If a call needs longer, raise this reward's timeout_s in the recipe"
        )
    return RewardError(f"reward {term.name!r} on {where}: {error}")


def row_text(batch: Batch, row: int | None) -> str:
    """Say which row it is, with the beginning of its prompt; the batch where no row is given."""
    prompts = batch["prompts"]
    if row is None:
        return f"a batch of {len(prompts)} (first prompt {_excerpt(prompts[0])})"
    return f"row {row} (prompt {_excerpt(prompts[row])})"


def _excerpt(prompt: object) -> str:
    if isinstance(prompt, list) and prompt and isinstance(prompt[-1], dict):
        prompt = prompt[-1].get("content", "")
    text = str(prompt)
    return repr(text if len(text) <= _EXCERPT_CHARS else f"{text[: _EXCERPT_CHARS - 3]}...")
