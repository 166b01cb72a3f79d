"""One term of a recipe, ready to score batches: which rows it applies to, in what portions, and what a failure does.

A call of several rows that fails is repeated row by row where the rows are independent (``scope: rows``). What follows
from the failure of a call that cannot be divided further:

| what went wrong | ``on_error: raise`` | ``on_error: mask`` |
|---|---|---|
| it raised, returned something invalid or killed its worker | the run stops | score None |
| it passed its deadline, under a verifier | score 0; the third in a row stops the run | score 0 |
| it passed its deadline, under another reward | score None; the third in a row stops the run | score None |
| the data row is broken (status gold_error) | the run stops | score None |

A late call alone does not stop the run, because a completion can make a reward slow. Mistakes in the recipe (an
unknown kwarg, a missing column) stop the run in every case.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

from redraft.rewards.processes.errors import WorkerClosedError, WorkerError, WorkerTimeoutError
from redraft.rewards.result import InvalidResultError, RewardError, Status, Verdict
from redraft.rewards.reward import Declared
from redraft.rewards.scoring.call import Signature
from redraft.rewards.scoring.failures import FAILURES, Batch, one_row, row_text, stopping_error
from redraft.rewards.scoring.runner import InlineRunner, ProcessRunner, RaisedError, Runner
from redraft.rewards.term import RewardTerm

_PATIENCE = 3  # late calls in a row, after which the reward is to blame and not the completions
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
        self._late = 0  # late calls since the last one that was in time
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
        self._check_declared(signature.declared)
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
        for portion in _portions(self._rows_that_apply(batch, len(groups)), groups, self.term.scope):
            scored = self._score_portion({name: [column[row] for row in portion] for name, column in batch.items()})
            for row, verdict in zip(portion, scored, strict=True):
                verdicts[row] = verdict
        return verdicts

    def close(self) -> None:
        """End the worker process, if there is one."""
        self._runner.close()

    def _check_declared(self, declared: Declared) -> None:
        """Refuse a term that is silent on what its function declares.

        A registered name fills these keys in. A function that is named by its place is not imported when the recipe
        is read, so the recipe has to repeat what its decorator says.
        """
        unset = Declared()
        for key in ("scope", "shaping", "attacks"):
            value = getattr(declared, key)
            if value != getattr(unset, key) and getattr(self.term, key) == getattr(unset, key):
                shown = f"[{', '.join(value)}]" if key == "attacks" else str(value).lower()
                raise RewardError(
                    f"reward {self.term.name!r}: its decorator says {key}; a term that names the function by its place"
                    f" must say it too: {key}: {shown}"
                )

    def _rows_that_apply(self, batch: Batch, size: int) -> list[int]:
        asked = {name: batch[name] for name in self.term.when if name in batch}
        return [row for row in range(size) if self.term.applies({name: asked[name][row] for name in asked})]

    def _score_portion(self, batch: Batch) -> list[Verdict]:
        try:
            verdicts = self._call(batch)
        except FAILURES as error:
            verdicts = self._after_failure(batch, error)
        if self.term.on_error == "raise":
            self._refuse_broken_rows(batch, verdicts)
        return verdicts

    def _refuse_broken_rows(self, batch: Batch, verdicts: Sequence[Verdict]) -> None:
        for row, verdict in enumerate(verdicts):
            if verdict.status == Status.GOLD_ERROR:
                raise RewardError(
                    f"reward {self.term.name!r} on {row_text(batch, row)}: {verdict.detail}; mend the row, or leave "
                    "such rows out with on_error: mask"
                )

    def _call(self, batch: Batch) -> list[Verdict]:
        """Call the function once; raises one of `FAILURES`, or RewardError for a mistake in the recipe."""
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

    def _after_failure(self, batch: Batch, error: Exception) -> list[Verdict]:
        """Return the verdicts on a call that failed; rows that are independent are called again, one by one."""
        if self.term.on_error == "raise" and not isinstance(error, WorkerTimeoutError):
            raise self._stop(error, batch) from error.__cause__ or error
        size = len(batch["completions"])
        if size == 1 or self.term.scope != "rows":
            return [self._verdict_on(error, batch)] * size
        return self._one_by_one(batch, size)

    def _one_by_one(self, batch: Batch, size: int) -> list[Verdict]:
        verdicts, late = [], 0
        for row in range(size):
            if late >= _PATIENCE:
                detail = f"not tried: {late} calls of this batch were late"
                verdicts.append(Verdict(None, Status.INFRA_ERROR, detail))
                continue
            single = one_row(batch, row)
            try:
                verdicts += self._call(single)
                late = 0
            except FAILURES as error:
                verdicts.append(self._verdict_on(error, single))
                late += isinstance(error, WorkerTimeoutError)
        return verdicts

    def _verdict_on(self, error: Exception, batch: Batch) -> Verdict:
        """Return the verdict on what cannot be called in smaller parts; raises where the reward itself is to blame."""
        detail = str(error).partition("\n")[0]
        if isinstance(error, WorkerTimeoutError):
            self._late += 1
            if self.term.on_error == "raise" and self._late >= _PATIENCE:
                raise self._stop(error, batch) from error
            # A verifier is slow because of what the completion wrote. Why another reward is slow cannot be known.
            return Verdict(0.0 if self.term.attacks else None, Status.TIMEOUT, detail)
        if self.term.on_error == "raise":
            raise self._stop(error, batch) from error.__cause__ or error
        return Verdict(None, Status.INFRA_ERROR, detail)

    def _stop(self, error: Exception, batch: Batch) -> RewardError:
        """Return the error that stops the run, with the row that is to blame where it can be found."""
        row = error.row if isinstance(error, InvalidResultError) else None
        if isinstance(error, RaisedError):
            row = self._find_row(batch, error.type_name)
        return stopping_error(self.term, error, batch, row)

    def _find_row(self, batch: Batch, type_name: str) -> int | None:
        """Return the first row that raises the same type of exception when scored alone; None when no row does."""
        for row in range(len(batch["completions"])):
            try:
                self._call(one_row(batch, row))
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
    """Return the rows in the portions that single calls get; no portion for no rows."""
    if scope != "group":
        return [rows] if rows else []
    members: dict[object, list[int]] = {}
    for row in rows:
        members.setdefault(groups[row], []).append(row)
    return list(members.values())
