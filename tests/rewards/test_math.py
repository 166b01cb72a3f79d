import asyncio
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rewards import RewardError, math_accuracy
from rewards.math import _pool, math_verdicts

DATA = Path(os.environ.get("REDRAFT_DATA", Path(__file__).parents[2] / "../shared/data"))
HANG, SLOW_GOLD = r"\boxed{9^{9^{9^{9}}}}", "x+1"  # text cannot decide this pair, and sympy never ends on it


def boxed(*answers):
    return [rf"\boxed{{{answer}}}" for answer in answers]


def statuses(golds, completions, **kwargs):
    return [str(verdict.status) for verdict in math_verdicts(completions, completions, golds, **kwargs)]


def read_jsonl(name):
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"no {path}; set REDRAFT_DATA to the folder with the data sets")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_8792_gsm8k_gold_answers_score_one():
    rows = read_jsonl("gsm8k/train.jsonl") + read_jsonl("gsm8k/test.jsonl")
    golds = [row["answer"].rpartition("####")[2].strip() for row in rows]
    completions = [f"{row['answer']}\n\\boxed{{{gold}}}" for row, gold in zip(rows, golds, strict=True)]
    assert len(golds) == 8792
    assert sum(filter(None, math_accuracy(golds, completions, golds))) == 8792
    unboxed = [row["answer"] for row in rows]
    assert sum(filter(None, math_accuracy(golds, unboxed, golds, extract=["boxed_last", "gsm8k_hash"]))) == 8792
    assert sum(filter(None, math_accuracy(golds, unboxed, golds))) == 0


def test_all_500_math500_solutions_and_60_aime_gold_answers_score_one():
    rows = read_jsonl("math500/math500_test.jsonl")
    solutions, golds = [row["solution"] for row in rows], [row["answer"] for row in rows]
    assert math_accuracy(solutions, solutions, golds) == [1.0] * 500
    aime = [row["expected_answer"] for year in (24, 25) for row in read_jsonl(f"aime/aime{year}.jsonl")]
    assert math_accuracy(aime, boxed(*aime), aime) == [1.0] * 60


EQUAL = [
    ("42", "42"),
    ("42", "42."),
    ("42", "42.0"),
    ("42", "+42"),
    ("42", " 042 "),
    ("42", "x = 42"),
    ("42", r"\$42"),
    ("42", r"\text{42}"),
    ("42", r"42\text{ cm}"),
    ("-5", "\u22125"),
    ("1,234", "1234"),
    ("1234", "1{,}234"),
    ("1000", r"1\,000"),
    ("90", r"90^\circ"),
    ("10", r"10\%"),
    ("0.5", r"\frac{1}{2}"),
    ("0.5", r"50\%"),
    (r"\frac{1}{2}", ".5"),
    (r"\frac{3}{4}", r"\dfrac34"),
    (r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2"),
    (r"2\sqrt{3}", r"2 \cdot \sqrt{3}"),
    (r"3\frac{1}{2}", "7/2"),
    ("x^2+2x+1", "(x+1)^2"),
    ("y=2x+3", "y = 3+2x"),
    ("x=5", "5"),
    (r"(3, \frac{\pi}{2})", r"\left(3,\pi/2\right)"),
    ("(5,3)", "(x,y)=(5,3)"),
    ("1,2", "2, 1"),
    ("1,2", r"\{1,2\}"),
    ("[1,2)", r"x \in \left[1, 2\right)"),
    (r"(-\infty,1)\cup(2,\infty)", r"(-\infty, 1) \cup (2, +\infty)"),
    (r"\text{Evelyn}", "Evelyn"),
]

NOT_EQUAL = [
    ("42", "43"),
    ("42", "41 = 42"),
    ("42", "1 + x = 42"),
    ("42", "42, 43"),
    ("42", r"42 \text{ or } 43"),
    ("42", r"42 \text{ 43 }"),
    ("42", r"43 \to 42"),
    ("42", "6*7"),
    ("42", r"6 \cdot 7"),
    ("42", "(6)(7)"),
    ("42", "6(7)"),
    ("42", "44-2"),
    ("42", "-(-42)"),
    ("24", "48/2"),
    ("24", r"\frac{48}{2}"),
    ("2", r"\sqrt{4}"),
    ("1024", "2^{10}"),
    ("85", "42 43"),
    ("10", "1,0"),
    ("0.3333", "1/3"),
    ("3.14", r"\pi"),
    ("17_9", "17"),
    ("17", "17_9"),
    ("17_9", "17_8"),
    ("(1,2)", r"\{1,2\}"),
    ("(1,2)", "1,2"),
    ("1,2", "(1,2)"),
    ("[1,2]", "(1,2)"),
    ("x=5", "y=5"),
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
    ("x+1", "x+2"),
    ("x+1", r"\undefined"),
]


def test_equal_answers_score_one_however_they_are_written():
    golds, answers = zip(*EQUAL, strict=True)
    wrong = [pair for pair, status in zip(EQUAL, statuses(golds, boxed(*answers)), strict=True) if status != "ok"]
    assert wrong == []


def test_answers_that_math_verify_alone_would_accept_score_zero():
    golds, answers = zip(*NOT_EQUAL, strict=True)
    accepted = [pair for pair, s in zip(NOT_EQUAL, statuses(golds, boxed(*answers)), strict=True) if s != "wrong"]
    assert accepted == []


def test_no_answer_scores_zero_with_its_own_status():
    completions = ["4", r"\boxed{4", r"\boxed{}", r"\boxed{" + "1" * 2_001 + "}", ""]
    assert statuses(["4"] * 5, completions) == ["no_answer"] * 5
    assert math_accuracy(completions, completions, ["4"] * 5) == [0.0] * 5


def test_message_lists_and_numeric_gold_answers_are_accepted():
    completions = [[{"role": "assistant", "content": r"\boxed{4}"}]] * 3
    assert math_accuracy(completions, completions, ["4", 4, 4.0]) == [1.0] * 3


@pytest.mark.parametrize("gold", [None, "", "  ", [4], True])
def test_a_gold_answer_that_is_missing_is_an_error_with_its_row(gold):
    with pytest.raises(RewardError, match="row 1: ground_truth must be a non-empty string or a number"):
        math_accuracy(["p"] * 2, boxed("4", "4"), ["4", gold])


@pytest.mark.parametrize("limit", [{"timeout_s": 0}, {"num_workers": 0}])
def test_a_limit_that_would_time_out_every_answer_is_refused(limit):
    with pytest.raises(RewardError, match="timeout_s and num_workers must be positive"):
        math_accuracy(["p"], boxed("4"), ["4"], **limit)


def test_a_gold_answer_that_cannot_be_parsed_is_an_error_with_its_row():
    with pytest.raises(RewardError, match=r"row 1: math-verify cannot parse the ground_truth '\\\\frac\{x'"):
        math_accuracy(["p"] * 2, boxed("4", "4+x"), ["4", r"\frac{x"])


def check_hang_next_to_good_rows():
    golds = [SLOW_GOLD, r"\frac{2}{3}", "x+1", "7"]
    completions = [HANG, *boxed("4/6", "1+x", "8")]
    started = time.monotonic()
    verdicts = math_verdicts(completions, completions, golds, timeout_s=1.0, num_workers=2)
    assert [str(verdict.status) for verdict in verdicts] == ["timeout", "ok", "ok", "wrong"]
    assert [verdict.score for verdict in verdicts] == [0.0, 1.0, 1.0, 0.0]
    assert time.monotonic() - started < 10  # the deadline, and a fresh worker


def test_a_hanging_expression_scores_zero_and_its_neighbours_keep_their_scores_from_the_main_thread():
    check_hang_next_to_good_rows()


def test_a_hanging_expression_is_handled_from_a_plain_thread():
    with ThreadPoolExecutor(1) as thread:
        thread.submit(check_hang_next_to_good_rows).result()


def test_a_hanging_expression_is_handled_inside_asyncio():
    async def run():
        check_hang_next_to_good_rows()

    asyncio.run(run())


def test_killing_both_workers_in_the_middle_of_a_batch_changes_no_score():
    golds = [rf"\frac{{{n}}}{{{n + 1}}}" for n in range(1, 301)]
    completions = boxed(*(f"{n + n % 2}/{n + 1}" for n in range(1, 301)))  # every odd row is wrong
    math_verdicts(completions[:50], completions[:50], golds[:50], num_workers=2)
    before = [worker.pid for worker in _pool(2).workers]
    assert None not in before
    killers = [
        threading.Timer(delay, os.kill, (pid, signal.SIGKILL)) for delay, pid in zip((0.05, 0.1), before, strict=True)
    ]
    for killer in killers:
        killer.start()
    scores = [verdict.score for verdict in math_verdicts(completions, completions, golds, num_workers=2)]
    for killer in killers:
        assert not killer.is_alive()  # it struck before the batch was done
    assert not {worker.pid for worker in _pool(2).workers} & set(before)
    assert scores == [float(n % 2 == 0) for n in range(1, 301)]


def test_a_worker_that_dies_twice_on_one_answer_masks_it(monkeypatch):
    from rewards.process import WorkerPool

    monkeypatch.setattr("rewards.math._pool", lambda _: WorkerPool(1))
    monkeypatch.setattr(WorkerPool, "call", lambda pool, _, args, timeout_s: pool.workers[0].call("os:_exit", (7,), 20))
    (verdict,) = math_verdicts(["p"], boxed("1+x"), ["x+1"])
    assert (verdict.score, verdict.status) == (None, "infra_error")
    assert "exit code 7" in verdict.detail
