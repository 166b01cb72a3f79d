r"""``math_accuracy``: is the final answer of a completion mathematically the gold one.

Most answers are decided by text (`answers.decide`). The rest goes to math-verify, in warm worker processes whose
deadline is kept here. math-verify's own timeouts need ``signal.alarm`` in a main thread, and without any some
expressions never end. Gold and prediction are both wrapped in ``\boxed{}``, so both are parsed by the same rule.
"""

import functools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from redraft.rewards.library.answers.align import Pair
from redraft.rewards.library.answers.decide import Task, decide
from redraft.rewards.library.answers.gold import MAX_ANSWER_CHARS, gold_text
from redraft.rewards.library.answers.undone import operations
from redraft.rewards.processes.errors import WorkerDiedError, WorkerTimeoutError
from redraft.rewards.processes.pool import WorkerPool, usable_cores
from redraft.rewards.result import RewardError, Status, Verdict
from redraft.rewards.reward import ATTACKS, reward
from redraft.rewards.text import extract_answer

_MAX_DETAIL_CHARS = 200
_SCORES: dict[str, float | None] = {Status.OK: 1.0, Status.INFRA_ERROR: None, Status.GOLD_ERROR: None}  # others: 0


def math_accuracy(
    prompts: Sequence[object],
    completions: Sequence[object],
    ground_truth: Sequence[object],
    *,
    extract: Sequence[str] = ("boxed_last",),
    timeout_s: float = 5.0,
    num_workers: int | None = None,
    strict_form: bool = False,
) -> list[float | None]:
    """Score 1.0 for the gold answer, 0.0 for another or none, None where the machinery failed; see `math_verdicts`."""
    verdicts = math_verdicts(
        prompts,
        completions,
        ground_truth,
        extract=extract,
        timeout_s=timeout_s,
        num_workers=num_workers,
        strict_form=strict_form,
    )
    return [verdict.score for verdict in verdicts]


@reward("math_accuracy", isolation="inline", attacks=ATTACKS)
def math_verdicts(
    prompts: Sequence[object],
    completions: Sequence[object],
    ground_truth: Sequence[object],
    *,
    extract: Sequence[str] = ("boxed_last",),
    timeout_s: float = 5.0,
    num_workers: int | None = None,
    strict_form: bool = False,
) -> list[Verdict]:
    """Compare each completion's answer with its gold answer.

    Args:
        prompts: Strings or lists of messages; an expression copied from it is no answer, unless it is the gold text.
        completions: Strings or lists of messages.
        ground_truth: Gold answers: LaTeX, plain text or numbers.
        extract: Extraction policies in order: boxed_last, boxed_all, answer_tag, gsm8k_hash, last_number.
        timeout_s: Seconds for one comparison; past it the answer scores 0 with status timeout.
        num_workers: Worker processes of this process; by default one per available core, at most 4, and a spare.
        strict_form: Whether an answer has to be computed in full whatever the prompt asks: no ``10^3`` for 1000.

    Returns:
        Per completion: ok 1.0; wrong, no_answer, timeout 0.0; infra_error None; gold_error None for a gold answer that
        is missing, cannot be parsed, or takes longer than the limit whatever it is compared with.

    Raises:
        RewardError: A limit that is not positive, or an unknown extraction policy.
    """
    num_workers = _default_workers() if num_workers is None else num_workers
    if timeout_s <= 0 or num_workers < 1:
        raise RewardError(f"timeout_s and num_workers must be positive, got {timeout_s} and {num_workers}")
    task = Task(strict_form=strict_form)
    answers = [extract_answer(completion, extract) for completion in completions]
    verdicts = [_decide_by_text(*row, task) for row in zip(ground_truth, answers, prompts, strict=True)]
    pairs = [pair for pair in verdicts if isinstance(pair, tuple)]
    # Long computations first: one that reaches the deadline then does so while the others are compared.
    pairs = sorted(dict.fromkeys(pairs), key=lambda pair: -operations(pair[1]))
    compared = _compare_all(pairs, timeout_s, num_workers)
    return [compared[verdict] if isinstance(verdict, tuple) else verdict for verdict in verdicts]


def _prompt_text(prompt: object) -> str:
    """Return all text of a prompt: a string, or the contents of a list of messages."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Sequence):
        return "\n".join(_prompt_text(part) for part in prompt)
    if isinstance(prompt, dict):
        return _prompt_text(prompt.get("content") or prompt.get("text"))
    return ""


def _decide_by_text(ground_truth: object, answer: str | None, prompt: object, task: Task) -> Verdict | Pair:
    """Decide by text; return the (gold, prediction) pair that math-verify has to compare where text cannot tell."""
    gold = gold_text(ground_truth)
    if gold is None:
        valid = f"a finite number or a string of 1 to {MAX_ANSWER_CHARS} characters"
        return _verdict(Status.GOLD_ERROR, f"ground_truth must be {valid}, got {ground_truth!r:.80}")
    if answer is None:
        return _verdict(Status.NO_ANSWER, "")
    if len(answer) > MAX_ANSWER_CHARS:
        return _verdict(Status.NO_ANSWER, f"answer of {len(answer)} characters; at most {MAX_ANSWER_CHARS}")
    if answer == str(ground_truth).strip():
        return _verdict(Status.OK, answer)  # word for word what the data has, in any format
    decided = decide(gold, answer, replace(task, prompt=_prompt_text(prompt)))
    if decided.status is None:
        return decided.pair
    shown = f"{decided.reason}: {answer[: _MAX_DETAIL_CHARS // 2]}" if decided.reason else answer
    return _verdict(decided.status, shown)


def _verdict(status: str, detail: str) -> Verdict:
    """Make the verdict of a status; lone surrogates in the detail are escaped, because no file can hold them."""
    detail = detail[-_MAX_DETAIL_CHARS:].encode(errors="backslashreplace").decode()
    return Verdict(_SCORES.get(status, 0.0), Status(status), detail, ms=0.0)


def _compare_all(pairs: Sequence[Pair], timeout_s: float, num_workers: int) -> dict[Pair, Verdict]:
    """Compare (gold, prediction) pairs in the worker processes, several at a time."""
    if not pairs:
        return {}
    pool = _pool(num_workers)
    executor = ThreadPoolExecutor(max_workers=min(num_workers, len(pairs)), thread_name_prefix="math-verify")
    try:
        verdicts = executor.map(lambda pair: _compare_one(pool, pair, timeout_s), pairs)
        compared = dict(zip(pairs, verdicts, strict=True))
        suspects = _suspects(compared)
        blamed = dict(
            zip(suspects, executor.map(lambda gold: _blame_gold(pool, gold, timeout_s), suspects), strict=True)
        )
    finally:
        executor.shutdown(cancel_futures=True)
    for pair, verdict in compared.items():
        if verdict.status == Status.TIMEOUT:
            compared[pair] = blamed.get(pair[0]) or verdict
    return compared


def _suspects(compared: Mapping[Pair, Verdict]) -> list[str]:
    """Gold answers that timed out with some prediction and were not compared in time with any other."""
    answered = {gold for (gold, _), verdict in compared.items() if verdict.status in (Status.OK, Status.WRONG)}
    late = {gold for (gold, _), verdict in compared.items() if verdict.status == Status.TIMEOUT}
    return sorted(late - answered)


def _compare_one(pool: WorkerPool, pair: Pair, timeout_s: float) -> Verdict:
    started = time.perf_counter()
    verdict = _ask(pool, pair, timeout_s)
    return replace(verdict, ms=1e3 * (time.perf_counter() - started))


def _ask(pool: WorkerPool, pair: Pair, timeout_s: float) -> Verdict:
    gold, prediction = pair
    try:
        status = pool.call("redraft.rewards.library.answers.algebra:compare", pair, timeout_s)
    except WorkerTimeoutError:
        return _verdict(Status.TIMEOUT, f"{prediction} (over {timeout_s:g} s)")
    except WorkerDiedError as error:
        return _verdict(Status.INFRA_ERROR, f"{prediction} ({error})")
    if status == Status.GOLD_ERROR:
        return _verdict(status, f"math-verify cannot parse the ground_truth {gold!r:.120}")
    return _verdict(status, prediction)


def _blame_gold(pool: WorkerPool, gold: str, timeout_s: float) -> Verdict | None:
    """Return a verdict if the gold answer is too slow even for the simplest predictions; then the row is to blame."""
    try:
        pool.call("redraft.rewards.library.answers.algebra:compare_simplest", (gold,), timeout_s)
    except WorkerTimeoutError:
        return _verdict(Status.GOLD_ERROR, f"comparing with the ground_truth {gold!r:.120} takes over {timeout_s:g} s")
    except WorkerDiedError:
        return None  # a death says nothing about the gold answer
    return None


@functools.cache
def _pool(num_workers: int) -> WorkerPool:
    """One pool per process and size, shared by all callers; it ends with the process."""
    return WorkerPool(num_workers, startup_target="redraft.rewards.library.answers.algebra:prepare_worker")


def _default_workers() -> int:
    """One more than the cores, so that a comparison that hangs does not take a core's worth of workers away."""
    return 1 + usable_cores()
