r"""``math_accuracy``: is the final answer of a completion mathematically the gold one.

Most answers are decided by text (`rewards.equivalence`). The rest goes to math-verify, in warm worker processes with
the deadline kept here: math-verify's own timeouts need ``signal.alarm`` in a main thread, and without them some
expressions take for ever. Gold and prediction are both wrapped in ``\boxed{}``, so both are parsed by the same rule.
"""

import functools
import numbers
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rewards.equivalence import decide, drop_assignment, normalise
from rewards.process import WorkerDiedError, WorkerPool, WorkerTimeoutError
from rewards.result import RewardError, Status, Verdict
from rewards.reward import reward
from rewards.text import boxes, extract_answer

MAX_ANSWER_CHARS = 2_000
_MAX_DETAIL_CHARS = 200
_WORKER_MEMORY_BYTES = 2 << 30
_Pair = tuple[str, str]  # gold answer, predicted answer
_SCORES: dict[str, float | None] = {Status.OK: 1.0, Status.INFRA_ERROR: None}  # every other status scores 0


def math_accuracy(
    prompts: Sequence[object],
    completions: Sequence[object],
    ground_truth: Sequence[object],
    extract: Sequence[str] = ("boxed_last",),
    timeout_s: float = 5.0,
    num_workers: int | None = None,
) -> list[float | None]:
    """1.0 for the gold answer, 0.0 for any other or none, None where the machinery failed; see `math_verdicts`."""
    verdicts = math_verdicts(prompts, completions, ground_truth, extract, timeout_s, num_workers)
    return [verdict.score for verdict in verdicts]


@reward("math_accuracy", isolation="inline")
def math_verdicts(
    prompts: Sequence[object],
    completions: Sequence[object],
    ground_truth: Sequence[object],
    extract: Sequence[str] = ("boxed_last",),
    timeout_s: float = 5.0,
    num_workers: int | None = None,
) -> list[Verdict]:
    """Compare each completion's answer with its gold answer.

    Args:
        prompts: Not used.
        completions: Strings or lists of messages.
        ground_truth: Gold answers: LaTeX, plain text or numbers.
        extract: Extraction policies in order: boxed_last, answer_tag, gsm8k_hash, last_number.
        timeout_s: Seconds for one comparison; past it the answer scores 0 with status timeout.
        num_workers: Worker processes of this process; by default one per available core, at most 4.

    Returns:
        Per completion: ok 1.0; wrong, no_answer, timeout 0.0; infra_error None.

    Raises:
        RewardError: A gold answer that is missing or cannot be parsed, with its row; a limit that is not positive.
    """
    num_workers = _default_workers() if num_workers is None else num_workers
    if timeout_s <= 0 or num_workers < 1:
        raise RewardError(f"timeout_s and num_workers must be positive, got {timeout_s} and {num_workers}")
    golds = [_gold_text(gold, row) for row, gold in enumerate(ground_truth)]
    answers = [extract_answer(completion, extract) for completion in completions]
    verdicts = [_decide_by_text(gold, answer) for gold, answer in zip(golds, answers, strict=True)]
    pairs = [pair for pair in verdicts if isinstance(pair, tuple)]
    compared = _compare_all(list(dict.fromkeys(pairs)), timeout_s, num_workers)
    for row, pair in enumerate(verdicts):
        if isinstance(pair, tuple) and compared[pair].status == Status.GOLD_ERROR:
            raise RewardError(f"row {row}: math-verify cannot parse the ground_truth {ground_truth[row]!r:.200}")
    return [compared[verdict] if isinstance(verdict, tuple) else verdict for verdict in verdicts]


def _gold_text(gold: object, row: int) -> str:
    text = str(gold) if isinstance(gold, str | numbers.Real) and not isinstance(gold, bool) else ""
    boxed = boxes(text)
    text = normalise(boxed[0] if len(boxed) == 1 and boxed[0] else text)
    if not text:
        raise RewardError(f"row {row}: ground_truth must be a non-empty string or a number, got {gold!r:.80}")
    return text


def _decide_by_text(gold: str, answer: str | None) -> Verdict | _Pair:
    """A verdict, or the (gold, prediction) pair that math-verify has to compare."""
    if answer is None:
        return Verdict(0.0, Status.NO_ANSWER)
    if len(answer) > MAX_ANSWER_CHARS:
        return Verdict(0.0, Status.NO_ANSWER, f"answer of {len(answer)} characters; at most {MAX_ANSWER_CHARS}")
    pair = drop_assignment(gold, normalise(answer))
    status = decide(*pair)
    return pair if status is None else _verdict(status, answer)


def _verdict(status: str, detail: str) -> Verdict:
    return Verdict(_SCORES.get(status, 0.0), Status(status), detail[-_MAX_DETAIL_CHARS:])


def _compare_all(pairs: Sequence[_Pair], timeout_s: float, num_workers: int) -> dict[_Pair, Verdict]:
    """Compare (gold, prediction) pairs in the worker processes, several at a time."""
    if not pairs:
        return {}
    pool = _pool(num_workers)
    executor = ThreadPoolExecutor(max_workers=min(num_workers, len(pairs)), thread_name_prefix="math-verify")
    try:
        return dict(zip(pairs, executor.map(lambda pair: _compare_one(pool, pair, timeout_s), pairs), strict=True))
    finally:
        executor.shutdown(cancel_futures=True)


def _compare_one(pool: WorkerPool, pair: _Pair, timeout_s: float) -> Verdict:
    try:
        return _verdict(pool.call("rewards.math:compare", pair, timeout_s), pair[1])
    except WorkerTimeoutError:
        return _verdict(Status.TIMEOUT, f"{pair[1]} (over {timeout_s:g} s)")
    except WorkerDiedError as error:
        return _verdict(Status.INFRA_ERROR, f"{pair[1]} ({error})")


@functools.cache
def _pool(num_workers: int) -> WorkerPool:
    """One pool per process and size, shared by all callers; it ends with the process."""
    return WorkerPool(num_workers, startup_target="rewards.math:prepare_worker")


def _default_workers() -> int:
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


# --- inside the worker process ---


def prepare_worker() -> None:
    """Limit the memory, import math-verify and build its parsers, so that the first comparison is a warm one."""
    import logging
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_WORKER_MEMORY_BYTES, _WORKER_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we switch its timeouts off
    compare(r"\frac{\sqrt{2}}{2}", "x+1")


def compare(gold: str, prediction: str) -> str:
    """Status of one comparison by math-verify: ok, wrong or gold_error."""
    from math_verify import verify

    golds = _parse(gold)
    if all(isinstance(parsed, str) for parsed in golds):
        return Status.GOLD_ERROR
    predictions = _parse(prediction)
    if not verify(golds, predictions, timeout_seconds=0):
        return Status.WRONG
    return Status.WRONG if _is_tiny_mismatch(golds[0], predictions[0]) else Status.OK


def _parse(answer: str) -> list[Any]:
    from math_verify import parse

    return parse(f"\\boxed{{{answer}}}", parsing_timeout=0)


def _is_tiny_mismatch(gold: Any, prediction: Any) -> bool:
    """Whether two small numbers pass as equal only because math-verify compares them to absolute digits."""
    if not (getattr(gold, "is_number", False) and getattr(prediction, "is_number", False)):
        return False
    left, right = (abs(value.doit().evalf(30)) for value in (gold, prediction))
    return max(left, right) < 1e-3 and abs(left - right) > 1e-5 * max(left, right)
