import asyncio
import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from redraft.rewards import RewardError, math_accuracy
from redraft.rewards.library.answers.algebra import prepare_worker
from redraft.rewards.library.answers.typeset import normalise
from redraft.rewards.library.math import _pool, math_verdicts
from redraft.rewards.processes.pool import WorkerPool
from tiers import every

HANGING_GOLD = "9^{9^{9^{9}}}"
HANG, SLOW_GOLD = rf"\boxed{{{HANGING_GOLD}}}", "x+1"  # text cannot decide this pair, and sympy never ends on it


def boxed(*answers):
    return [rf"\boxed{{{answer}}}" for answer in answers]


def statuses(golds, completions, **kwargs):
    return [str(verdict.status) for verdict in math_verdicts([""] * len(golds), completions, golds, **kwargs)]


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@every(20)
def test_all_8792_gsm8k_gold_answers_score_one(shared_data, part):
    rows = read_jsonl(shared_data / "gsm8k/train.jsonl") + read_jsonl(shared_data / "gsm8k/test.jsonl")
    assert len(rows) == 8792
    rows = rows[part]
    golds = [row["answer"].rpartition("####")[2].strip() for row in rows]
    completions = [f"{row['answer']}\n\\boxed{{{gold}}}" for row, gold in zip(rows, golds, strict=True)]
    assert math_accuracy(golds, completions, golds) == [1.0] * len(rows)
    unboxed = [row["answer"] for row in rows]
    assert math_accuracy(golds, unboxed, golds, extract=["boxed_last", "gsm8k_hash"]) == [1.0] * len(rows)
    assert sum(filter(None, math_accuracy(golds, unboxed, golds))) == 0


def test_all_500_math500_solutions_and_60_aime_gold_answers_score_one(shared_data):
    rows = read_jsonl(shared_data / "math500/math500_test.jsonl")
    solutions, golds = [row["solution"] for row in rows], [row["answer"] for row in rows]
    assert math_accuracy(solutions, solutions, golds) == [1.0] * 500
    aime = [row["expected_answer"] for year in (24, 25) for row in read_jsonl(shared_data / f"aime/aime{year}.jsonl")]
    assert math_accuracy(aime, boxed(*aime), aime) == [1.0] * 60


@every(10)
def test_math500_gold_answers_are_equal_to_themselves_by_computer_algebra_too(shared_data, part):
    """Text decides gold against gold; compare() must agree, or a right answer in other words could never score."""
    rows = read_jsonl(shared_data / "math500/math500_test.jsonl")
    assert len(rows) == 500
    golds = [normalise(row["answer"]) for row in rows[part]]
    found = [_pool(2).call("redraft.rewards.library.answers.algebra:compare", (gold, gold), 5.0) for gold in golds]
    assert found == ["ok"] * len(golds)


def test_warnings_turned_into_errors_do_not_turn_right_answers_into_wrong_ones(monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    pool = WorkerPool(1, "redraft.rewards.library.answers.algebra:prepare_worker")
    assert pool.call("redraft.rewards.library.answers.algebra:compare", ("x+1", "1+x"), 5.0) == "ok"
    pool.close()


def test_a_math_verify_that_does_not_work_is_an_error_and_not_a_zero(monkeypatch):
    monkeypatch.setattr("redraft.rewards.library.answers.algebra.compare", lambda gold, prediction: "wrong")
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    monkeypatch.setattr("warnings.simplefilter", lambda _: None)
    with pytest.raises(RewardError, match="math-verify does not work here: its self-test gave wrong, wrong"):
        prepare_worker()


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
    ("1000", "1 000"),
    ("12345", r"12,\! 345"),
    ("42", "\uff14\uff12"),  # full-width digits
    ("42", "42 apples"),
    ("33", "033"),
    (r"\frac59", r"\frac 5 9"),
    (r"\frac{5}{9}", "5/9"),
    ("9/5", "1 4/5"),
    ("1 4/5", r"1\frac{4}{5}"),
    (r"50\%", "0.5"),
    ("17_9", "17_{9}"),
    ("2^{10}", "1024"),  # the gold answer may be left to compute
    ("90", r"90^\circ"),
    ("0.1", r"10\%"),
    (r"50\%", r"\frac{1}{2}"),
    (r"28\%", "28 percent"),
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
    ("2x+4y-3=0", r"y=-\frac{1}{2}x+\frac{3}{4}"),
    (r"x \leq 2", "x <= 2"),
    (r"x \neq 5", "x != 5"),
    (r"(3, \frac{\pi}{2})", r"\left(3,\pi/2\right)"),
    ("(5,3)", "(x,y)=(5,3)"),
    ("1,2", "2, 1"),
    ("1,2", r"\{1,2\}"),
    ("5,6", r"5 \text{ or } 6"),
    ("(5,8), (8,5)", r"(x,y) = (5, 8) \quad \text{and} \quad (8, 5)"),
    ("[1,2)", r"x \in \left[1, 2\right)"),
    (r"(-\infty,1)\cup(2,\infty)", r"(-\infty, 1) \cup (2, +\infty)"),
    (r"\text{Evelyn}", "Evelyn"),
]

NOT_EQUAL = [
    ("42", "43"),
    ("42", "41 = 42"),
    ("42", "1 + x = 42"),
    ("42", "42, 43"),
    ("42", "41, 42, 43"),
    ("42", r"\{41, 42\}"),
    ("42", "41 < 42"),
    ("42", r"\text{either 41 or 42}"),
    ("42", "42 or 41"),
    ("42", r"42 \text{ (or 41)}"),
    ("42", r"42 \pm 1"),
    ("42", "\uff16\uff1d42"),
    ("42", "4\u00b2"),
    ("50", "0.5"),
    ("0.5", r"0.5\%"),
    ("4/5", "1 4/5"),
    ("1234", "12 34"),
    ("1.5", "1,5"),
    ("x=5", "2x=10"),
    ("2x+4y-3=0", "0=0"),
    ("2x+4y-3=0", "y=y"),
    ("5,6", "5,6,7"),
    ("5,6", "5"),
    (r"10^{-20}", r"10^{-21}"),
    ("0", r"10^{-20}"),
    ("42", r"42 \text{ or } 43"),
    ("42", r"42 \text{ 43 }"),
    ("42", r"43 \to 42"),
    ("85", "42 43"),
    ("10", "1,0"),
    ("0.3333", "1/3"),
    ("3.14", r"\pi"),
    ("17_9", "17"),
    ("17", "17_9"),
    ("17_9", "17_8"),
    ("(1,2)", r"\{1,2\}"),
    ("1,2", "(1,2)"),
    ("[1,2]", "(1,2)"),
    ("x=5", "y=5"),
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
    ("x+1", "x+2"),
    ("x+1", r"\undefined"),
]

LEFT_TO_COMPUTE = [
    ("42", "|-42|"),
    ("42", "6\u22c57"),  # operators that are not ASCII: dot, asterisk, bullet, slash
    ("42", "6\u22177"),
    ("42", "6\u22197"),
    ("42", "84\u22152"),
    ("42", "\uff16\uff0a\uff17"),  # full-width 6*7 and 6=42
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
]


def test_equal_answers_score_one_however_they_are_written():
    golds, answers = zip(*EQUAL, strict=True)
    wrong = [pair for pair, status in zip(EQUAL, statuses(golds, boxed(*answers)), strict=True) if status != "ok"]
    assert wrong == []


def test_answers_that_math_verify_alone_would_accept_score_zero():
    golds, answers = zip(*NOT_EQUAL, strict=True)
    accepted = [pair for pair, s in zip(NOT_EQUAL, statuses(golds, boxed(*answers)), strict=True) if s != "wrong"]
    assert accepted == []


def test_an_answer_may_be_left_to_compute_unless_the_prompt_or_the_setting_asks_for_its_value():
    golds, answers = zip(*LEFT_TO_COMPUTE, strict=True)
    completions = boxed(*answers)
    assert statuses(golds, completions) == ["ok"] * len(golds)
    assert statuses(golds, completions, strict_form=True) == ["wrong"] * len(golds)
    asking = ["Evaluate $3^5 - 201$."] * len(golds)
    asked = math_verdicts(asking, completions, golds)
    assert [(verdict.score, verdict.detail.split(":")[0]) for verdict in asked] == [(0.0, "left to compute")] * len(
        golds
    )


def test_strict_form_refuses_no_answer_that_is_computed():
    golds, answers = zip(*EQUAL, strict=True)
    assert set(statuses(golds, boxed(*answers), strict_form=True)) == {"ok"}


def test_no_answer_scores_zero_with_its_own_status():
    completions = ["4", r"\boxed{4", r"\boxed{}", r"\boxed{" + "1" * 2_001 + "}", ""]
    assert statuses(["4"] * 5, completions) == ["no_answer"] * 5
    assert math_accuracy(completions, completions, ["4"] * 5) == [0.0] * 5


def test_message_lists_and_numeric_gold_answers_are_accepted():
    completions = [[{"role": "assistant", "content": r"\boxed{4}"}]] * 3
    assert math_accuracy(completions, completions, ["4", 4, 4.0]) == [1.0] * 3


@pytest.mark.parametrize(
    ("completion", "extract", "status"),
    [
        (r"\boxed{41} or \boxed{42}", "boxed_last", "ok"),  # one guess, the last: the first box earns nothing
        (r"\boxed{42} or \boxed{41}", "boxed_last", "wrong"),
        (r"\boxed{41} or \boxed{42}", "boxed_all", "wrong"),
        (r"\boxed{42}, that is \boxed{42}", "boxed_all", "ok"),
        (
            r"\boxed{42} and so \boxed{4",
            "boxed_last",
            "no_answer",
        ),  # a box cut short does not bring an earlier one back
        (r"\boxed{42} and so \boxed{4", "boxed_all", "no_answer"),
        (r"\boxed{42} and so \boxed{}", "boxed_last", "no_answer"),
        (r"<think>\boxed{42}</think> That was it.", "boxed_last", "no_answer"),
        (r"<think>\boxed{42}", "boxed_last", "no_answer"),
        ("The answer is 42. My id is 5", "boxed_last", "no_answer"),
        ("The answer is 42. My id is 5", "last_number", "wrong"),
    ],
)
def test_which_of_several_answers_counts(completion, extract, status):
    assert statuses(["42"], [completion], extract=[extract]) == [status]


@pytest.mark.parametrize("gold", [None, "", "  ", [], [None], True, float("nan"), "4" * 2_001])
def test_a_gold_answer_that_cannot_be_one_masks_its_row_and_says_so(gold):
    completions = boxed("4", "4")
    right, masked = math_verdicts(completions, completions, ["4", gold])
    assert right.score == 1.0
    assert (masked.score, masked.status) == (None, "gold_error")
    assert "ground_truth must be a finite number or a string of 1 to 2000 characters, got" in masked.detail


def test_a_gold_answer_that_cannot_be_parsed_masks_its_row_and_is_named():
    completions = boxed("4", "4+x", "4")
    right, masked, wrong = math_verdicts([""] * 3, completions, ["4", r"\frac{x", "5"])
    assert (right.score, masked.score, wrong.score) == (1.0, None, 0.0)
    assert (masked.status, masked.detail) == ("gold_error", r"math-verify cannot parse the ground_truth '\\frac{x'")


def test_a_gold_answer_that_hangs_is_not_the_completions_fault():
    completions = boxed("x+1", "x+2")
    masked, wrong = math_verdicts(["", ""], completions, [HANGING_GOLD, "x+1"], timeout_s=1.0, num_workers=2)
    assert (masked.score, masked.status, wrong.score) == (None, "gold_error", 0.0)
    assert masked.detail == r"comparing with the ground_truth '9^{9^{9^{9}}}' takes over 1 s"


@pytest.mark.parametrize("limit", [{"timeout_s": 0}, {"num_workers": 0}])
def test_a_limit_that_would_time_out_every_answer_is_refused(limit):
    with pytest.raises(RewardError, match="timeout_s and num_workers must be positive"):
        math_accuracy(["p"], boxed("4"), ["4"], **limit)


def check_hang_next_to_good_rows():
    golds = [SLOW_GOLD, r"\frac{2}{3}", "x+1", "7"]
    completions = [HANG, *boxed("4/6", "1+x", "8")]
    verdicts = math_verdicts([""] * 4, completions, golds, timeout_s=1.0, num_workers=2)
    assert [str(verdict.status) for verdict in verdicts] == ["timeout", "ok", "ok", "wrong"]
    assert [verdict.score for verdict in verdicts] == [0.0, 1.0, 1.0, 0.0]


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
    golds = [rf"\frac{{{n}x}}{{{n + 1}}}" for n in range(1, 301)]
    completions = boxed(*(f"{n + n % 2}x/({n + 1})" for n in range(1, 301)))  # every odd row is wrong
    math_verdicts(completions[:50], completions[:50], golds[:50], num_workers=2)
    before = [worker.pid for worker in _pool(2).workers]
    assert None not in before
    killers = [
        threading.Timer(delay, os.kill, (pid, signal.SIGKILL)) for delay, pid in zip((0.05, 0.1), before, strict=True)
    ]
    for killer in killers:
        killer.start()
    scores = [verdict.score for verdict in math_verdicts(golds, completions, golds, num_workers=2)]
    for killer in killers:
        assert not killer.is_alive()  # it struck before the batch was done
    assert not {worker.pid for worker in _pool(2).workers} & set(before)
    assert scores == [float(n % 2 == 0) for n in range(1, 301)]


def test_a_worker_that_dies_on_one_answer_every_time_masks_it(monkeypatch):
    monkeypatch.setattr("redraft.rewards.library.math._pool", lambda _: WorkerPool(1))
    monkeypatch.setattr(WorkerPool, "call", lambda pool, _, args, timeout_s: pool.workers[0].call("os:_exit", (7,), 20))
    (verdict,) = math_verdicts(["p"], boxed("1+x"), ["x+1"])
    assert (verdict.score, verdict.status) == (None, "infra_error")
    assert "exit code 7" in verdict.detail


WORDS = [
    ("north", "south", "wrong"),
    ("north", "North", "ok"),
    ("north", r"\text{north}", "ok"),
    ("north", "thorn", "wrong"),
    ("north", "5", "wrong"),
    ("5", "north", "wrong"),
    (r"\text{east}", "seat", "wrong"),
    (r"\text{north east}", "north-east", "ok"),
    ("Evelyn", "nylevE", "wrong"),
    (r"\text{No}", r"\text{on}", "wrong"),
    (r"\text{No}", "no", "ok"),
    ("No", "on", "wrong"),
    ("No", "no", "ok"),
    ("Yes", "seY", "wrong"),
    ("True", "true", "ok"),
    ("e", "E", "wrong"),
    (r"\text{C}", "c", "ok"),
    (r"\text{C}", "C", "ok"),
    (r"\text{(C)}", "(c)", "ok"),
    ("C", "(C)", "ok"),
    ("x+1", "X+1", "wrong"),
    ("\u5317", "\u5357", "wrong"),  # north, south in Chinese
    ("\u5317", "\u5317", "ok"),
    ("xy", "yx", "ok"),  # two letters are a product
    (r"\pi", "\u03c0", "ok"),
    (r"\infty", "infinity", "ok"),
]


def test_words_are_compared_as_text_and_letters_by_case():
    golds, answers, expected = zip(*WORDS, strict=True)
    found = statuses(golds, boxed(*answers))
    assert list(zip(golds, answers, found, strict=True)) == list(zip(golds, answers, expected, strict=True))


PERCENT = [
    ("5", r"5\%", "ok"),
    ("0.05", r"5\%", "ok"),
    ("0.5", r"0.5\%", "wrong"),
    (r"0.5\%", "0.5", "wrong"),
    ("5", r"500\%", "ok"),
    ("5", r"50\%", "wrong"),
    (r"5\%", "5", "ok"),
    (r"5\%", "0.05", "ok"),
    (r"5\%", "5%", "ok"),
    (r"5\%", r"5.0\%", "ok"),
    (r"5\%", r"5 \text{ percent}", "ok"),
    ("10", "10 percent", "ok"),
    ("10", "10 Percent", "ok"),
    ("0.1", "10 percent", "ok"),
    ("10", r"10 \text{ percent}", "ok"),
    ("10", r"10\text{\%}", "ok"),
    (r"50\%", r"\frac{100}{2}", "ok"),
    (r"12.5\%", r"\frac{25}{2}\%", "ok"),
    (r"\frac{25}{2}\%", "12.5", "ok"),
]


def test_a_percentage_is_a_hundredth_or_above_one_its_bare_number():
    golds, answers, expected = zip(*PERCENT, strict=True)
    found = statuses(golds, boxed(*answers))
    assert list(zip(golds, answers, found, strict=True)) == list(zip(golds, answers, expected, strict=True))


ECHO = [
    ("Expand $(x+1)^2$.", "x^2+2x+1", "(x + 1)^{2}", "wrong"),
    ("Factor $x^2 - 1$.", "(x-1)(x+1)", "x^2-1", "wrong"),
    ([{"role": "user", "content": r"Simplify \(\dfrac{2}{4}\)."}], r"\frac{1}{2}", "2/4", "wrong"),
    ([{"role": "user", "content": [{"type": "text", "text": "Expand (x+1)^2"}]}], "x^2+2x+1", "(x+1)^2", "wrong"),
    ("Expand $(x+1)^2$.", "x^2+2x+1", "1+2x+x^2", "ok"),
    ("Is x^2+2x+1 or x^2+1 equal to (x+1)^2?", "x^2+2x+1", "x^2 + 2x + 1", "ok"),  # the gold text itself
    ("Is 1/2 or 1/3 larger?", r"\frac{1}{2}", "1/2", "ok"),
    ("Which is 11/20 of 10/11?", "0.5", "1/2", "ok"),  # 1/2 is only a part of 11/20
]


@pytest.mark.parametrize(("prompt", "gold", "answer", "status"), ECHO)
def test_an_expression_copied_from_the_prompt_is_no_answer(prompt, gold, answer, status):
    (verdict,) = math_verdicts([prompt], boxed(answer), [gold])
    assert str(verdict.status) == status
    assert ("copied from the prompt" in verdict.detail) == (status == "wrong")
