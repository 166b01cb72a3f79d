"""The trusted checker: a warm worker process that holds the tests and has one sandbox for candidates.

Everything here runs in that worker; the parent's side is `code.reward`.

**Guarantees**

* Every job ends in a `Finding`, or with a deadline of the parent. No text of a completion makes the checker raise.
* A broken row is ``gold_error`` and a failed machine ``infra_error``; neither is ever a score of the candidate.
* A test that calls nothing of the candidate's does not pass (``gold_error``).
* One program runs at a time in a worker, so that CPU time can be attributed to it.

**Assumes**

* The tests are the data's and mean no harm; they run here, with our rights.
* The parent keeps the deadline: values that a candidate returns can make a test slow.

**Rejected alternatives**

* Check in the process that asks: a test that hangs could not be stopped.
* A fresh worker for every completion: an interpreter with the modules of the tests takes longer than most tests.
"""

import contextlib
import importlib
import os
import resource
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redraft.rewards.library.code.compare import same_output
from redraft.rewards.library.code.extract import find_code, prompt_code
from redraft.rewards.library.code.formats import MAX_DIGITS, BrokenTestsError
from redraft.rewards.library.code.programs import ProgramRunner, SandboxedPrograms
from redraft.rewards.library.code.provided import provided_for
from redraft.rewards.library.code.session import (
    BreachError,
    Caller,
    Session,
    StopTestsError,
    UncheckableError,
    children_cpu_s,
)
from redraft.rewards.library.code.suite import Suite, build_suite, name_under_test
from redraft.rewards.result import RewardError, Status
from redraft.rewards.sandbox.choose import open_sandbox
from redraft.rewards.sandbox.program import ProgramLimits, Sandbox

_CHECKER_MEMORY_BYTES = 4 << 30
_MAX_DETAIL_CHARS = 300
UNSUPPORTED = "unsupported"  # in place of a status: the recipe asks for what cannot work
SECONDS_PER_PROGRAM = 0.5  # wall seconds added for every program of a stdio row, as each is a process of its own


@dataclass(frozen=True)
class Job:
    """One completion and the row it answers.

    Attributes:
        region: The part of the completion that may hold the answer.
        prompt: The row's prompt, for the code it may begin.
        row: The columns that hold the tests.
        cpu_s: CPU seconds of one program.
        wall_s: Wall seconds of the candidate.
        memory_mb: Address space of the candidate.
        partial: Score the fraction of tests that pass, instead of all or nothing.
        tolerance: Of floats in call and stdio tests; None for none.
    """

    region: str
    prompt: object
    row: dict[str, Any]
    cpu_s: int
    wall_s: float
    memory_mb: int
    partial: bool = False
    tolerance: float | None = None

    @property
    def limits(self) -> ProgramLimits:
        """The limits of the sandbox."""
        return ProgramLimits(cpu_s=self.cpu_s, wall_s=self.wall_s, memory_mb=self.memory_mb)


@dataclass(frozen=True)
class Finding:
    """What became of a job.

    Attributes:
        status: Of `rewards.result.Status`, or `UNSUPPORTED`.
        fraction: Share of the tests that passed.
        detail: For people.
        retry: Whether the job should be tried once more while nothing else runs, because the machine may be to blame.
        ms: Milliseconds that it took.
        used_s: CPU seconds of the candidate's longest program; wall seconds where a server runs it.
    """

    status: str
    fraction: float | None = None
    detail: str = ""
    retry: bool = False
    ms: float = 0.0
    used_s: float = 0.0


_sandbox: Sandbox | None = None
_programs: ProgramRunner | None = None


def prepare_checker(kind: str, allow_unsafe: bool, url: str | None, packages: Sequence[str] = ()) -> None:
    """Open this worker's sandbox, or its client of a server, and limit its memory; runs once, before the first job."""
    global _sandbox, _programs
    for limit, most in ((resource.RLIMIT_AS, _CHECKER_MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))  # the soft limit: sandboxes set their own
    sys.set_int_max_str_digits(MAX_DIGITS)
    if kind == "http":
        from redraft.rewards.library.code.fusion import FusionPrograms

        _programs = FusionPrograms(url or "")
        return
    _sandbox = open_sandbox(kind, allow_unsafe, packages=packages)  # type: ignore[arg-type] - it checks the kind itself
    for name in packages:
        importlib.import_module(name)  # so that its values can cross, and tests may use it
    _programs = SandboxedPrograms(_sandbox)


def judge_job(job: Job) -> dict[str, Any]:
    """Judge one completion; return a `Finding` as a dict."""
    try:
        return vars(_check(job))
    except Exception:  # noqa: BLE001 - the boundary: one text that we cannot handle must not end the run
        said = traceback.format_exc()[-_MAX_DETAIL_CHARS:]
        return vars(Finding(Status.INFRA_ERROR, detail=f"the checker failed: {said}"))


def _check(job: Job) -> Finding:
    context = prompt_code(job.prompt, name_under_test(job.row))
    try:
        suite = build_suite(job.row, context, job.tolerance)
    except BrokenTestsError as error:
        return Finding(Status.GOLD_ERROR, detail=str(error))
    try:
        sources = find_code(job.region, context, suite.targets)
    except Exception as error:  # noqa: BLE001 - the candidate's text caused it
        return Finding(Status.WRONG, 0.0, _printable(f"its text cannot be read as code: {_name(error)}"))
    if sources is None:
        return Finding(Status.NO_ANSWER)
    if suite.provided:
        sources = [provided_for(sources), *sources]
    try:
        return _run(job, suite, sources)
    except BreachError as error:
        status = Status.TIMEOUT if error.timed_out else Status.WRONG
        return Finding(status, 0.0, _printable(str(error)), retry=error.blameless)
    except UncheckableError as error:
        return Finding(Status.GOLD_ERROR, detail=str(error))
    except (OSError, RewardError) as error:
        return Finding(Status.INFRA_ERROR, detail=f"{type(error).__name__}: {error}")


def _run(job: Job, suite: Suite, sources: list[str]) -> Finding:
    if suite.kind == "stdio":
        return _run_programs(job, suite, sources)
    before = _clock()
    finding = _run_calls_remotely(job, suite, sources) if _sandbox is None else _run_calls(job, suite, sources)
    return replace(finding, used_s=_clock() - before)


def _run_calls(job: Job, suite: Suite, sources: list[str]) -> Finding:
    assert _sandbox is not None
    with Session(_sandbox, job.limits, job.wall_s) as session:
        try:
            session.load(sources)
        except Exception as error:  # noqa: BLE001 - the candidate may raise anything
            return Finding(Status.WRONG, 0.0, _printable(f"the code does not run: {_name(error)}"))
        return run_cases(suite, session, job.partial)


def run_cases(suite: Suite, caller: Caller, partial: bool) -> Finding:
    """Run the cases of a suite, all of them or up to the first that fails.

    Raises:
        StopTestsError: The caller answers no more calls. A test that swallowed this error does not hide it.
    """
    passed, first_failure = 0, ""
    with _silence():
        for number, case in enumerate(suite.cases, 1):
            try:
                case(caller)
                passed += 1
            except StopTestsError:
                raise
            except BaseException as error:  # noqa: BLE001 - the boundary: a test may raise anything, also SystemExit
                first_failure = first_failure or f"test {number} of {len(suite.cases)}: {_name(error)}"
                if not partial:
                    break
            if caller.stopped is not None:
                raise caller.stopped
    if passed == len(suite.cases) and not caller.calls:
        raise UncheckableError("the tests pass without calling the candidate")
    return _finding(passed, len(suite.cases), first_failure, partial)


def _finding(passed: int, total: int, failure: str, partial: bool) -> Finding:
    if passed == total:
        return Finding(Status.OK, 1.0)
    return Finding(Status.WRONG, passed / total if partial else 0.0, _printable(failure))


def _printable(detail: str) -> str:
    """Shorten a detail, and escape what no file can hold: it may quote the candidate, also half a character."""
    return detail[:_MAX_DETAIL_CHARS].encode("utf-8", "backslashreplace").decode()


def _run_programs(job: Job, suite: Suite, sources: list[str]) -> Finding:
    """Run the candidate on every stdin, or up to the first output that is wrong."""
    assert _programs is not None
    total = len(suite.programs)
    passed, failures, most_s = 0, [], 0.0
    deadline = time.monotonic() + job.wall_s + SECONDS_PER_PROGRAM * total
    for number, (stdin, wanted) in enumerate(suite.programs, 1):
        before = _clock()
        output = _programs.run(sources, stdin, job.limits, min(job.wall_s, max(0.1, deadline - time.monotonic())))
        most_s = max(most_s, _clock() - before)
        if not output.failure and same_output(output.stdout, wanted, job.tolerance):
            passed += 1
            continue
        failures.append((f"test {number} of {total}: {output.failure or 'wrong output'}", output))
        if not job.partial:
            break
    finding = replace(_finding(passed, total, failures[0][0] if failures else "", job.partial), used_s=most_s)
    if not any(output.timed_out for _, output in failures):
        return finding
    return replace(finding, status=Status.TIMEOUT, retry=any(output.blameless for _, output in failures))


def _clock() -> float:
    """Seconds that programs have used so far: of CPU, or of wall time where a server runs them."""
    return time.monotonic() if _sandbox is None else children_cpu_s()


def _run_calls_remotely(job: Job, suite: Suite, sources: list[str]) -> Finding:
    from redraft.rewards.library.code.fusion import RecordedCalls

    assert _programs is not None
    if suite.kind != "call":
        return Finding(
            UNSUPPORTED, detail="sandbox: http cannot run assert tests, which need a live channel to the code"
        )
    calls = RecordedCalls(_programs, sources, suite.targets[0], suite.call_inputs)
    calls.record(job.limits, job.wall_s)
    return run_cases(suite, calls, job.partial)


def _name(error: BaseException) -> str:
    """Write an exception in one line, with the line of the tests that raised it."""
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith("<tests")]
    try:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    except Exception:  # noqa: BLE001 - the message quotes a value of the candidate's, which may fail
        said = type(error).__name__
    return f"{said} at {lines[-1]}" if lines and lines[-1] else said


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
