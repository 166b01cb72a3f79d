"""One term of a recipe, ready to score batches: which rows it applies to, in what portions, and what a failure does.

Under ``on_error: raise`` whatever goes wrong becomes one `RewardError` that names the reward, the row and the prompt,
with the cause chained. Under ``mask`` it becomes a score of None on the completions it concerns, and is counted. A late
call alone stops nothing: a completion can make a reward slow, and must not end the run by that.
Mistakes in the recipe (an unknown kwarg, a missing column) stop the run in both cases.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from redraft.rewards.processes.errors import WorkerClosedError, WorkerError, WorkerTimeoutError
from redraft.rewards.result import InvalidResultError, RewardError, Status, Verdict
from redraft.rewards.reward import Declared
from redraft.rewards.scoring.call import Signature
from redraft.rewards.scoring.runner import InlineRunner, ProcessRunner, RaisedError, Runner
from redraft.rewards.term import RewardTerm

Batch = dict[str, list[Any]]
"""``prompts``, ``completions``, ``completion_ids`` and the data columns: one list each, over the completions."""

_EXCERPT_CHARS = 80
FAILURES = (RaisedError, InvalidResultError, WorkerError)
_PATIENCE = 3  # calls in a row past their deadline, after which the reward is to blame and not the completions
_NOT_APPLICABLE = Verdict(None, Status.MASKED, "does not apply to this row")


class ConfiguredReward:
    """A reward term with its runner.

    Args:
        term: The reward as written in the recipe.

    Raises:
        RewardError: The function cannot be found, or cannot be reached from a worker process.
    """

    def __init__(self, term: RewardTerm) -> None:
        """Prepare the runner; a worker process starts with `start` or the first `score`."""
        self.term = term
        self._late = 0  # calls past their deadline, without one in time between
        if term.isolation == "process":
            assert term.timeout_s is not None
            self._runner: Runner = ProcessRunner(term.fn, term.timeout_s)
        else:
            self._runner = InlineRunner(term.fn)

    def start(self) -> Signature:
        """Import the function and check the term against it.

        Raises:
            RewardError: It does not import, does not take a kwarg, or declares what its term does not say.
        """
        try:
            signature = self._runner.start()
            signature.check_kwargs(self.term.kwargs)
        except (RewardError, WorkerError) as error:
            raise RewardError(f"reward {self.term.name!r}: {error}") from error
        for name in ("scope", "shaping", "attacks"):
            declared = getattr(signature.declared, name)
            if declared != getattr(Declared(), name) and getattr(self.term, name) == getattr(Declared(), name):
                shown = f"[{', '.join(declared)}]" if name == "attacks" else str(declared).lower()
                raise RewardError(
                    f"reward {self.term.name!r}: its decorator says {name}; a term that names the function by its place"
                    f" must say it too: {name}: {shown}"
                )
        return signature

    def score(self, batch: Batch, groups: Sequence[object]) -> list[Verdict]:
        """Score one batch.

        Args:
            batch: See `Batch`.
            groups: What tells the groups apart, one a completion; read under ``scope: group`` only.

        Returns:
            One verdict per completion.

        Raises:
            RewardError: Under ``on_error: raise``, the function raised, passed its deadline, returned something
                invalid or met a broken data row; in any case, it needs a column that is not there.
        """
        verdicts = [_NOT_APPLICABLE] * len(groups)
        asked = {name: batch[name] for name in self.term.when if name in batch}
        rows = [row for row in range(len(groups)) if self.term.applies({name: asked[name][row] for name in asked})]
        for portion in _portions(rows, groups, self.term.scope):
            scored = self._score_portion({name: [column[row] for row in portion] for name, column in batch.items()})
            for row, verdict in zip(portion, scored, strict=True):
                verdicts[row] = verdict
        return verdicts

    def close(self) -> None:
        """Give back the worker process, if there is one."""
        self._runner.close()

    def _score_portion(self, batch: Batch) -> list[Verdict]:
        try:
            verdicts = self._call(batch)
        except FAILURES as error:
            verdicts = self._failed(batch, error)
        for row, verdict in enumerate(verdicts):
            if verdict.status == Status.GOLD_ERROR and self.term.on_error == "raise":
                raise RewardError(
                    f"reward {self.term.name!r} on {_where(batch, row)}: {verdict.detail}; mend the row, or leave such "
                    "rows out with on_error: mask"
                )
        return verdicts

    def _failed(self, batch: Batch, error: Exception) -> list[Verdict]:
        """What to make of a call that failed: rows that stand alone are tried one by one, if that may help."""
        late = isinstance(error, WorkerTimeoutError)
        if not late and self.term.on_error == "raise":
            raise self._told(error, batch) from error.__cause__ or error
        size = len(batch["completions"])
        if size == 1 or self.term.scope != "rows":
            return [self._verdict_of(error, batch)] * size
        verdicts, in_a_row = [], 0
        for row in range(size):
            if in_a_row >= _PATIENCE:
                verdicts.append(
                    Verdict(None, Status.INFRA_ERROR, f"not tried: {in_a_row} calls of this batch were late")
                )
                continue
            single = {name: [column[row]] for name, column in batch.items()}
            try:
                verdicts += self._call(single)
                in_a_row = 0
            except FAILURES as error:
                verdicts.append(self._verdict_of(error, single))
                in_a_row += isinstance(error, WorkerTimeoutError)
        return verdicts

    def _verdict_of(self, error: Exception, batch: Batch) -> Verdict:
        """The verdict on completions scored alone and in vain; raises where that is the reward's own fault."""
        detail = str(error).partition("\n")[0]
        if isinstance(error, WorkerTimeoutError):
            self._late += 1
            if self.term.on_error == "raise" and self._late >= _PATIENCE:
                raise self._told(error, batch) from error
            # A verifier's time is spent on what the completion wrote; of another reward nobody knows.
            return Verdict(0.0 if self.term.attacks else None, Status.TIMEOUT, detail)
        if self.term.on_error == "raise":
            raise self._told(error, batch) from error.__cause__ or error
        return Verdict(None, Status.INFRA_ERROR, detail)

    def _call(self, batch: Batch) -> list[Verdict]:
        started = time.perf_counter()
        try:
            arguments = self._runner.start().select(batch, self.term.kwargs)
            verdicts = self._runner.call(arguments, len(batch["completions"]))
        except (InvalidResultError, RaisedError):
            raise
        except RewardError as error:
            raise RewardError(f"reward {self.term.name!r}: {error}") from error
        self._late = 0
        ms = 1e3 * (time.perf_counter() - started) / len(verdicts)
        return [verdict if verdict.ms is not None else replace(verdict, ms=ms) for verdict in verdicts]

    def _told(self, error: Exception, batch: Batch) -> RewardError:
        """The error that stops the run, in words that name the reward and the row."""
        name = f"reward {self.term.name!r}"
        if isinstance(error, RaisedError):
            return RewardError(f"{name} raised on {_where(batch, self._find_row(batch, error.type_name))}: {error}")
        if isinstance(error, InvalidResultError):
            return RewardError(f"{name} on {_where(batch, error.row)}: {error}")
        if isinstance(error, WorkerTimeoutError):
            return RewardError(
                f"{name} did not return within timeout_s={self.term.timeout_s} on {_where(batch, None)}; its worker "
                "process was killed. If a call needs longer, raise this reward's timeout_s in the recipe"
            )
        return RewardError(f"{name} on {_where(batch, None)}: {error}")

    def _find_row(self, batch: Batch, type_name: str) -> int | None:
        """First row that raises the same type of exception when scored alone; None when no row does."""
        for row in range(len(batch["completions"])):
            try:
                self._call({name: [column[row]] for name, column in batch.items()})
            except RaisedError as error:
                if error.type_name == type_name:
                    return row
            except RewardError as error:
                if isinstance(error.__cause__, WorkerClosedError):
                    return None
                continue  # it fails in another way when alone: not the failure we are looking for
            except WorkerError:
                return None
        return None


def _portions(rows: list[int], groups: Sequence[object], scope: str) -> list[list[int]]:
    """The rows, in the portions that single calls get; none for no rows."""
    if scope != "group":
        return [rows] if rows else []
    members: dict[object, list[int]] = {}
    for row in rows:
        members.setdefault(groups[row], []).append(row)
    return list(members.values())


def _where(batch: Batch, row: int | None) -> str:
    prompts = batch["prompts"]
    if row is None:
        return f"a batch of {len(prompts)} (first prompt {_excerpt(prompts[0])})"
    return f"row {row} (prompt {_excerpt(prompts[row])})"


def _excerpt(prompt: object) -> str:
    if isinstance(prompt, list) and prompt and isinstance(prompt[-1], dict):
        prompt = prompt[-1].get("content", "")
    text = str(prompt)
    return repr(text if len(text) <= _EXCERPT_CHARS else f"{text[: _EXCERPT_CHARS - 3]}...")
