"""``code_tests``: does the code of a completion pass the tests of its row.

The tests run in a trusted, killable worker (`code.checker`); only the candidate runs in the sandbox, and only
typed values come back from it. Nothing that a candidate can write, print or exit with is a verdict.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from redraft.rewards.library.code.checker import SECONDS_PER_PROGRAM, UNSUPPORTED, Finding, Job
from redraft.rewards.library.code.formats import COLUMNS, BrokenTestsError, plain_row
from redraft.rewards.processes.errors import RemoteError, WorkerDiedError, WorkerTimeoutError
from redraft.rewards.processes.pool import WorkerPool, usable_cores
from redraft.rewards.result import RewardError, Status, Verdict
from redraft.rewards.reward import ATTACKS, reward
from redraft.rewards.text import answer_region

SANDBOXES = ("auto", "bubblewrap", "landlock", "unsafe", "http")
_MAX_CHARS = 200_000  # of the text that may hold code, which is longer than other answers: tables, literals
_WALL_PER_CPU = 1.6  # the backstop for programs that sleep: 64 of them on 2 workers must not fill the 300 s that a
_WALL_MORE_S = 3.0  # run waits for its rewards; at least this much more than the CPU time
_MOST_RETRIES = 4  # of one call; a machine that disturbs more programs than that is too small for them
_GRACE_S = 15.0  # past the candidate's wall time, for the tests themselves
_SCORES = {Status.NO_ANSWER: 0.0, Status.TIMEOUT: 0.0, Status.GOLD_ERROR: None, Status.INFRA_ERROR: None}


@dataclass(frozen=True)
class CodeOptions:
    """How candidates are run; the ``kwargs`` of the reward, described at `code_tests`."""

    sandbox: str = "auto"
    allow_unsafe: bool = False
    timeout_s: float = 5.0
    memory_mb: int = 512
    num_workers: int | None = None
    partial: bool = False
    tolerance: float | None = None
    sandbox_fusion_url: str | None = None
    packages: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.sandbox not in SANDBOXES:
            raise RewardError(f"sandbox={self.sandbox!r}; valid: {', '.join(SANDBOXES)}")
        if (self.sandbox == "http") != (self.sandbox_fusion_url is not None):
            raise RewardError("sandbox: http and sandbox_fusion_url belong together; give both or neither")
        if isinstance(self.packages, str) or not all(isinstance(name, str) for name in self.packages):
            raise RewardError(f"packages={self.packages!r} must be a list of names, [numpy]")
        if self.packages and self.sandbox == "http":
            raise RewardError("packages and sandbox: http exclude each other; install packages on the server")
        if self.tolerance is not None and not (0 <= self.tolerance < math.inf):
            raise RewardError(f"tolerance must be a number of at least 0, got {self.tolerance}")
        for name in ("timeout_s", "memory_mb", "num_workers"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise RewardError(f"{name} must be positive, got {value}")

    @property
    def cpu_s(self) -> int:
        """The kernel counts whole seconds."""
        return math.ceil(self.timeout_s)

    def pool(self) -> WorkerPool:
        """The workers with these sandboxes; shared by all callers of this process, they end with it."""
        packages = tuple(sorted(self.packages))
        workers = self.num_workers or usable_cores()
        return _pool(self.sandbox, self.allow_unsafe, self.sandbox_fusion_url, packages, workers)


@reward("code_tests", isolation="inline", attacks=ATTACKS, audit="redraft.rewards.library.code.audit:quarantine")
def code_tests(
    prompts: Sequence[object],
    completions: Sequence[object],
    test: Sequence[Any] | None = None,
    entry_point: Sequence[Any] | None = None,
    test_list: Sequence[Any] | None = None,
    test_imports: Sequence[Any] | None = None,
    test_setup_code: Sequence[Any] | None = None,
    inputs: Sequence[Any] | None = None,
    outputs: Sequence[Any] | None = None,
    fn_name: Sequence[Any] | None = None,
    input_output: Sequence[Any] | None = None,
    ground_truth: Sequence[Any] | None = None,
    reward_model: Sequence[Any] | None = None,
    verification_info: Sequence[Any] | None = None,
    tests: Sequence[Any] | None = None,
    test_cases: Sequence[Any] | None = None,
    public_test_cases: Sequence[Any] | None = None,
    private_test_cases: Sequence[Any] | None = None,
    metadata: Sequence[Any] | None = None,
    sandbox: str = "auto",
    allow_unsafe: bool = False,
    timeout_s: float = 5.0,
    memory_mb: int = 512,
    num_workers: int | None = None,
    partial: bool = False,
    tolerance: float | None = None,
    sandbox_fusion_url: str | None = None,
    packages: Sequence[str] = (),
) -> list[Verdict]:
    """Run the code of each completion against the tests of its row.

    Args:
        prompts: HumanEval's prompt, as text or in a fenced block, gives the code before the completion; else not used.
        completions: Strings or lists of messages: the last fenced block counts.
        test: A script with assertions, or one that defines ``check(candidate)`` (HumanEval).
        entry_point: The name that ``test`` or ``test_list`` is about.
        test_list: Assertions, one text each (MBPP).
        test_imports: Import lines before each assertion.
        test_setup_code: Code before each assertion.
        inputs: With ``fn_name``: arguments of each call. Else: stdin of each run.
        outputs: The value of each call, or the stdout of each run.
        fn_name: Name of the function, or of a method of the class ``Solution`` (LiveCodeBench).
        input_output: Where there are none of the above: a mapping with ``inputs``, ``outputs`` and ``fn_name`` (APPS,
            TACO); all from here to ``test_cases`` may be any form that `code.formats` knows, and JSON.
        ground_truth: The same, as in verl and PRIME.
        reward_model: The same, inside verl's own column.
        verification_info: The same, as in SYNTHETIC-1.
        tests: The same, as in DeepCoder.
        test_cases: The same.
        public_test_cases: LiveCodeBench's cases.
        private_test_cases: More of them, packed or as JSON.
        metadata: With ``func_name``, LiveCodeBench's name of the function.
        sandbox: ``auto``, ``bubblewrap``, ``landlock``, ``unsafe`` (none at all) or ``http`` (a SandboxFusion server).
        allow_unsafe: Consent to ``unsafe``.
        timeout_s: CPU seconds of the candidate, for every program where the tests are stdio; rounded up.
        memory_mb: Address space of the candidate.
        num_workers: Checkers of this process; by default one per available core, at most 4.
        partial: Score the fraction of tests that pass; by default all must.
        tolerance: Of floats in inputs and outputs tests, relative and absolute; by default none.
        sandbox_fusion_url: The server of ``http``, which runs call and stdio tests.
        packages: Installed packages that candidates and tests may import, ``[numpy]``; by default none.

    Returns:
        Per completion: ok 1.0; wrong (the fraction, with ``partial``), no_answer, timeout 0.0; infra_error and
        gold_error None.

    Raises:
        RewardError: The sandbox does not start, or an argument makes no sense.
    """
    options = CodeOptions(
        sandbox, allow_unsafe, timeout_s, memory_mb, num_workers, partial, tolerance, sandbox_fusion_url, packages
    )
    given = {"test": test, "entry_point": entry_point, "test_list": test_list, "test_imports": test_imports}
    given |= {"test_setup_code": test_setup_code, "inputs": inputs, "outputs": outputs, "fn_name": fn_name}
    given |= {"input_output": input_output, "ground_truth": ground_truth, "reward_model": reward_model}
    given |= {"verification_info": verification_info}
    given |= {"tests": tests, "test_cases": test_cases, "public_test_cases": public_test_cases}
    given |= {"private_test_cases": private_test_cases, "metadata": metadata}
    rows = [
        {
            name: column if isinstance(column, str) else column[row]  # one text of a recipe is for all rows
            for name, column in given.items()
            if column is not None
        }
        for row in range(len(completions))
    ]
    jobs = [make_job(*parts, options) for parts in zip(prompts, completions, rows, strict=True)]
    return [_verdict(finding, row) for row, finding in enumerate(check_all(jobs, options))]


def make_job(prompt: object, completion: object, row: dict[str, Any], options: CodeOptions) -> Job:
    """What a checker needs to judge one completion."""
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
    """Judge all jobs, several at a time; then the first few that the machine may have disturbed once more, alone."""
    pool = options.pool()
    findings = map_workers(lambda job: check_one(pool, job), jobs, len(pool.workers))
    disturbed = [index for index, finding in enumerate(findings) if finding.retry]
    for index in disturbed[:_MOST_RETRIES]:
        again = check_one(pool, jobs[index])
        findings[index] = replace(again, ms=findings[index].ms + again.ms)
    return findings


def check_one(pool: WorkerPool, job: Job, target: str = "redraft.rewards.library.code.checker:check") -> Finding:
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
    except BrokenTestsError as error:  # the checker says it of the row
        return {"broken": str(error)}


def _verdict(finding: Finding, row: int) -> Verdict:
    if finding.status == UNSUPPORTED:
        raise RewardError(f"row {row}: {finding.detail}")
    status = Status(finding.status)
    return Verdict(_SCORES.get(status, finding.fraction), status, finding.detail, ms=finding.ms)


@functools.cache
def _pool(sandbox: str, allow_unsafe: bool, url: str | None, packages: tuple[str, ...], num_workers: int) -> WorkerPool:
    return WorkerPool(
        num_workers, "redraft.rewards.library.code.checker:prepare", (sandbox, allow_unsafe, url, packages)
    )
