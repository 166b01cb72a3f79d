"""``code_tests``: does the code of a completion pass the tests of its row.

The tests run in a trusted worker that can be killed (`code.checker`). Only the candidate runs in the sandbox, and only
typed values come back from it. Nothing that a candidate writes, prints or exits with is a verdict.
"""

import time
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Unpack

from redraft.rewards.library.code.checker import SECONDS_PER_PROGRAM, UNSUPPORTED, Finding, Job
from redraft.rewards.library.code.columns import COLUMNS, CodeColumns, rows_of
from redraft.rewards.library.code.formats import BrokenTestsError, plain_row
from redraft.rewards.library.code.options import CodeOptions
from redraft.rewards.processes.errors import RemoteError, WorkerDiedError, WorkerTimeoutError
from redraft.rewards.processes.pool import WorkerPool
from redraft.rewards.result import RewardError, Status, Verdict
from redraft.rewards.reward import ATTACKS, reward
from redraft.rewards.text import answer_region

_MAX_CHARS = 200_000  # of the text that may hold code, which is longer than other answers: tables, literals
# Wall time of a program, for one that sleeps: this multiple of its CPU time, and at least so many seconds more. 64 such
# programs on 2 workers must not use up the 300 s that a run waits for its rewards.
_WALL_PER_CPU = 1.6
_WALL_MORE_S = 3.0
_MOST_RETRIES = 4  # in one call; a machine that disturbs more programs than that is too small for them
_GRACE_S = 15.0  # past the candidate's wall time, for the tests themselves
_SCORES = {Status.NO_ANSWER: 0.0, Status.TIMEOUT: 0.0, Status.GOLD_ERROR: None, Status.INFRA_ERROR: None}


@reward("code_tests", isolation="inline", attacks=ATTACKS, audit="redraft.rewards.library.code.audit:quarantine")
def code_tests(
    prompts: Sequence[object],
    completions: Sequence[object],
    *,
    sandbox: str = "auto",
    allow_unsafe: bool = False,
    timeout_s: float = 5.0,
    memory_mb: int = 512,
    num_workers: int | None = None,
    partial: bool = False,
    tolerance: float | None = None,
    sandbox_fusion_url: str | None = None,
    packages: Sequence[str] = (),
    **columns: Unpack[CodeColumns],
) -> list[Verdict]:
    """Run the code of each completion against the tests of its row.

    The last fenced block of a completion counts. Where a prompt begins the function under test (HumanEval), its code
    is run before the completion's; other prompts are not read. `CodeColumns` describes the columns of a row, and
    `CodeOptions` the options.

    Returns:
        Per completion: ok 1.0; wrong (the fraction, with ``partial``), no_answer, timeout 0.0; infra_error and
        gold_error None.

    Raises:
        RewardError: The sandbox does not start, or an option makes no sense.
    """
    options = CodeOptions(
        sandbox=sandbox,
        allow_unsafe=allow_unsafe,
        timeout_s=timeout_s,
        memory_mb=memory_mb,
        num_workers=num_workers,
        partial=partial,
        tolerance=tolerance,
        sandbox_fusion_url=sandbox_fusion_url,
        packages=packages,
    )
    rows = rows_of(columns, len(completions))
    jobs = [make_job(*parts, options) for parts in zip(prompts, completions, rows, strict=True)]
    return [_verdict(finding, row) for row, finding in enumerate(check_all(jobs, options))]


def make_job(prompt: object, completion: object, row: dict[str, Any], options: CodeOptions) -> Job:
    """Put together what a checker needs to judge one completion."""
    return Job(
        region=answer_region(completion, _MAX_CHARS),
        prompt=prompt,
        row=_plain(row),
        cpu_s=options.cpu_s,
        wall_s=max(_WALL_PER_CPU * options.cpu_s, options.cpu_s + _WALL_MORE_S),
        memory_mb=options.memory_mb,
        partial=options.partial,
        tolerance=options.tolerance,
    )


def check_all(jobs: Sequence[Job], options: CodeOptions) -> list[Finding]:
    """Judge all jobs, several at a time, then judge the first few that the machine may have disturbed again, alone."""
    pool = options.pool()
    findings = map_workers(lambda job: check_one(pool, job), jobs, len(pool.workers))
    disturbed = [index for index, finding in enumerate(findings) if finding.retry]
    for index in disturbed[:_MOST_RETRIES]:
        again = check_one(pool, jobs[index])
        findings[index] = replace(again, ms=findings[index].ms + again.ms)
    return findings


def check_one(pool: WorkerPool, job: Job, target: str = "redraft.rewards.library.code.checker:judge_job") -> Finding:
    """Judge one job on an idle worker.

    Raises:
        RewardError: The worker cannot start: there is no such sandbox here.
    """
    started = time.perf_counter()
    finding = _ask(pool, job, target)
    return replace(finding, ms=1e3 * (time.perf_counter() - started))


def _ask(pool: WorkerPool, job: Job, target: str) -> Finding:
    inputs = job.row.get("inputs")
    programs = len(inputs) if isinstance(inputs, Sized) else 0
    deadline_s = job.wall_s + SECONDS_PER_PROGRAM * programs + _GRACE_S
    try:
        return Finding(**pool.call(target, (job,), deadline_s))
    except WorkerTimeoutError:
        return Finding(Status.TIMEOUT, detail=f"the tests did not end within {deadline_s:g} s")
    except WorkerDiedError as error:
        return Finding(Status.INFRA_ERROR, detail=str(error))
    except RemoteError as error:
        raise RewardError(f"code_tests: {error.summary.partition(': ')[2] or error.summary}") from error


def map_workers(function: Callable[[Job], Finding], jobs: Sequence[Job], threads: int) -> list[Finding]:
    """Apply a function that waits for workers to all jobs, in order."""
    executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="code-tests")
    try:
        return list(executor.map(function, jobs))
    finally:
        executor.shutdown(cancel_futures=True)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    try:
        return plain_row({name: row.get(name) for name in COLUMNS})
    except BrokenTestsError as error:  # the checker makes it the verdict on the row
        return {"broken": str(error)}


def _verdict(finding: Finding, row: int) -> Verdict:
    if finding.status == UNSUPPORTED:
        raise RewardError(f"row {row}: {finding.detail}")
    status = Status(finding.status)
    return Verdict(_SCORES.get(status, finding.fraction), status, finding.detail, ms=finding.ms)
