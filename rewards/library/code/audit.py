"""Audit a code data set before training: its own solutions must pass, and answers that do nothing must not.

A row whose tests reject the right answer teaches noise. A row whose tests accept ``return None`` teaches cheating. Both
are put aside, with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from redraft.rewards.library.code.checker import Finding, Job, run_cases
from redraft.rewards.library.code.columns import COLUMNS
from redraft.rewards.library.code.compare import same_output
from redraft.rewards.library.code.extract import prompt_code
from redraft.rewards.library.code.formats import BrokenTestsError, from_json
from redraft.rewards.library.code.options import CodeOptions
from redraft.rewards.library.code.reward import check_one, make_job, map_workers
from redraft.rewards.library.code.session import CandidateError, StopTestsError, StubCaller
from redraft.rewards.library.code.suite import Suite, build_suite, name_under_test
from redraft.rewards.result import RewardError, Status

GOLD_SHARE = 3  # a solution may use a third of the limit, because candidates may be slower than it
_NEVER_SLOW_S = 1.0  # at least this much is allowed, because start-up and noise are not the solution's
PASSED = "passed"
_CHECK_STUBS = "redraft.rewards.library.code.audit:check_stubs"
SOLUTION = "canonical_solution"
SOLUTIONS = (SOLUTION, "code", "solution", "solutions")
"""Columns of a right answer, by the names that public data sets use; the first that has one counts."""


def audit(
    rows: Sequence[Mapping[str, Any]], options: CodeOptions | None = None, gold: str = SOLUTION
) -> dict[int, str]:
    """Run the solution of every row, and stubs in place of it, against the row's tests.

    Args:
        rows: Rows as `code.reward.code_tests` gets them, with ``prompt``.
        options: Where and within what limits.
        gold: Column of the solution: code, or a function body that continues the prompt. A row may have none.

    Returns:
        Why a row must not be trained on, by its index, as ``kind: detail`` with one of the kinds broken_tests,
        gold_failed, gold_slow and stub_passed.

    Raises:
        RewardError: The sandbox failed, so that nothing can be said of a row.
    """
    options = replace(options or CodeOptions(), partial=False)
    pool = options.pool()
    threads = len(pool.workers)
    jobs = [make_job(row.get("prompt"), row.get(gold) or "", dict(row), options) for row in rows]
    stubs = map_workers(lambda job: check_one(pool, job, _CHECK_STUBS), jobs, threads)
    found = {index: _stub_reason(finding) for index, finding in enumerate(stubs)}
    with_gold = [index for index, row in enumerate(rows) if row.get(gold)]
    golds = map_workers(lambda job: check_one(pool, job), [jobs[index] for index in with_gold], threads)
    most_s = max(_NEVER_SLOW_S, options.timeout_s / GOLD_SHARE)
    for index, finding in zip(with_gold, golds, strict=True):
        if finding.retry:
            finding = check_one(pool, jobs[index])
        found[index] = found[index] or _gold_reason(finding, index, most_s)
    return {index: reason for index, reason in sorted(found.items()) if reason}


def quarantine(rows: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any]) -> dict[int, str]:
    """Audit rows as `scoring.trial` asks for it; the solution is in the first of `SOLUTIONS` that a row has.

    Args:
        rows: Data rows.
        kwargs: Of the reward: its options, and columns that are the same for all rows.

    Returns:
        The reason, by index, of each row that must not be trained on.
    """
    names = [option.name for option in fields(CodeOptions)]
    options = CodeOptions(**{name: kwargs[name] for name in names if name in kwargs})
    same = {name: kwargs[name] for name in COLUMNS if name in kwargs}
    return audit([{**row, **same, SOLUTION: _solution(row)} for row in rows], options)


def _solution(row: Mapping[str, Any]) -> str:
    """Return the first solution of a row; APPS and TACO keep several in a list, or its JSON."""
    found = next((row[name] for name in SOLUTIONS if row.get(name)), "")
    several = from_json(found) if isinstance(found, str) and found.startswith("[") else found
    return str(next(iter(several), "")) if isinstance(several, list) else str(found)


def _stub_reason(finding: Finding) -> str:
    if finding.status == PASSED:
        return f"stub_passed: {finding.detail}"
    return "" if finding.status == Status.WRONG else f"broken_tests: {finding.detail}"


def _gold_reason(finding: Finding, index: int, most_s: float) -> str:
    if finding.status == Status.INFRA_ERROR:
        raise RewardError(f"audit of row {index}: {finding.detail}")
    if finding.status == Status.OK:
        return f"gold_slow: took {finding.used_s:.2f} s, at most {most_s:.2f} s" if finding.used_s > most_s else ""
    kinds = {Status.TIMEOUT: "gold_slow", Status.WRONG: "gold_failed", Status.NO_ANSWER: "gold_failed"}
    kind = next((name for status, name in kinds.items() if finding.status == status), "broken_tests")
    return f"{kind}: {finding.detail or finding.status}"


# --- inside the worker process ---


def _identity(*args: Any, **kwargs: Any) -> Any:
    return args[0] if args else next(iter(kwargs.values()), None)


def _exits(*_: Any, **__: Any) -> Any:
    raise CandidateError("SystemExit: 0")  # what a session makes of sys.exit(0) in a function


def _raiser(kind: type[Exception]) -> Callable[..., Any]:
    def stub(*_: Any, **__: Any) -> Any:
        raise kind("stub")

    return stub


def _constant(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: type(value)(value) if isinstance(value, list | dict) else value


CONSTANTS = (None, True, False, 0, 1, "", [], (), {}, float("nan"))
STUBS: dict[str, Callable[..., Any]] = {
    **{f"return {value!r}": _constant(value) for value in CONSTANTS},
    "return the first argument": _identity,
    "sys.exit(0)": _exits,
    **{f"raise {kind.__name__}": _raiser(kind) for kind in (ValueError, TypeError, IndexError)},
}
PROGRAM_STUBS: dict[str, Callable[[str], str]] = {
    "print nothing": lambda _: "",
    "print stdin": lambda stdin: stdin,
    **{f"print {text}": lambda _, text=text: text for text in ("0", "1", "-1", "None", "True", "False")},
}


def check_stubs(job: Job) -> dict[str, Any]:
    """Run all stubs against the tests of a job; return a `Finding` as a dict, with status `PASSED` if one passes."""
    try:
        suite = build_suite(job.row, prompt_code(job.prompt, name_under_test(job.row)), job.tolerance)
    except BrokenTestsError as error:
        return vars(Finding(Status.GOLD_ERROR, detail=str(error)))
    passed = next((label for label in _stubs(suite) if _passes(suite, label, job)), None)
    return vars(Finding(Status.WRONG) if passed is None else Finding(PASSED, detail=passed))


def _stubs(suite: Suite) -> Sequence[str]:
    return list(PROGRAM_STUBS if suite.kind == "stdio" else STUBS)


def _passes(suite: Suite, label: str, job: Job) -> bool:
    if suite.kind == "stdio":
        answer = PROGRAM_STUBS[label]
        return all(same_output(answer(stdin), wanted, job.tolerance) for stdin, wanted in suite.programs)
    try:
        return run_cases(suite, StubCaller(STUBS[label]), partial=False).status == Status.OK
    except StopTestsError:
        return False
