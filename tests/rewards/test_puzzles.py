import contextlib
import csv
import json
import time

import pytest

from oracles.puzzles import fill_sudoku, solve_countdown
from redraft.rewards import RewardError, RewardMixture, RewardTerm, Sample
from redraft.rewards.library.puzzles import countdown, countdown_fault, sudoku, sudoku_solutions

PUZZLE, SOLUTION = "3102200002100320", "3142243142131324"
SEVERAL = "1200340000000000"  # a puzzle with more than one solution


def answers(*texts):
    return [f"<think>hm</think> <answer>{text}</answer>" for text in texts]


def verdict(reward, text, **columns):
    (found,) = reward(answers(text), **{name: [value] for name, value in columns.items()})
    return found


@pytest.fixture(scope="module")
def tasks(shared_data):
    lines = (shared_data / "countdown" / "countdown_cd3_test.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def grids(shared_data):
    with (shared_data / "sudoku" / "4x4_test_sudoku.csv").open() as lines:
        return list(csv.DictReader(lines))


def test_the_reference_solution_of_each_of_the_256_countdown_tasks_scores_one(tasks):
    numbers, targets = [task["input"] for task in tasks], [task["output"] for task in tasks]
    expressions = [
        solve_countdown([int(number) for number in given.split(",")], int(target))
        for given, target in zip(numbers, targets, strict=True)
    ]
    assert len(expressions) == 256
    assert None not in expressions
    for completions in (
        answers(*expressions),
        [rf"So \boxed{{{expression}}}" for expression in expressions],
        answers(*(f"{expression[1:-1]} = {target}" for expression, target in zip(expressions, targets, strict=True))),
    ):
        found = countdown(completions, numbers, targets)
        assert [(v.score, str(v.status)) for v in found] == [(1.0, "ok")] * 256
    moved = countdown(answers(*expressions), numbers, [int(target) + 1 for target in targets])
    assert {(v.score, str(v.status)) for v in moved} == {(0.0, "wrong")}


@pytest.mark.parametrize(
    ("numbers", "target", "expression"),
    [
        ([49, 55, 53], 51, "49+55-53=51"),
        ([2, 3, 5], 30, "2 \u00d7 3 \u00d7 5"),
        ([2, 3, 6], 4, "6 \u00f7 3 \u00d7 2 = 4"),
        ([2, 3, 6], 4, r"6 \div 3 \times 2"),
        ([2, 3, 6], 36, r"2\cdot\left(3 \cdot 6\right)"),
        ([5, 3], 2, "5 \u2212 3"),
        ([3, 5], -2, "3 - 5 = -2"),
        ([1, 5, 5, 5], 24, "5 * (5 - 1/5)"),
        ([8, 3, 3, 8], 24, "8/(3 - 8/3)"),
        ([7], 7, "7"),
        ([0, 7], 7, "7 + 0"),
        ([4, 4, 4], 12, "\n4 + 4\n+ 4\n"),
    ],
)
def test_a_right_expression_scores_one_however_its_signs_are_written(numbers, target, expression):
    found = verdict(countdown, expression, numbers=numbers, target=target)
    assert (found.score, found.detail) == (1.0, "")


GAMES = [
    ([4, 2, 5], 21, "4.2*5", "'.' is neither"),
    ([4, 2, 5], 210, "42*5", "does not use each of 4, 2, 5 exactly once"),
    ([2, 3, 5], 40, "2**3*5", "not an expression"),
    ([2, 3, 5], 40, "2^3*5", "'^' is neither"),
    ([7, 2, 1], 4, "7//2+1", "not an expression"),
    ([7, 2, 1], 4, "7%2+3", "'%' is neither"),
    ([3, 5], 2, "-3+5", "not an expression"),
    ([3, 5], 8, "3+(+5)", "not an expression"),
    ([3, 5], 8, "3--5", "not an expression"),
    ([3, 5], -4, "~3", "'~' is neither"),
    ([3, 5], 15, "3(5)", "not an expression"),
    ([3, 5], 15, "(3)(5)", "not an expression"),
    ([3, 5], 15, "3 5", "not an expression"),
    ([3, 5], 15, "(3, 5)", "',' is neither"),
    ([3, 5], 8, "3+5-0", "exactly once"),
    ([3, 5], 8, "5+3*1", "exactly once"),
    ([3, 5, 5], 8, "3+5", "exactly once"),
    ([3, 5], 13, "3+5+5", "exactly once"),
    ([3, 5], 8, "8", "exactly once"),
    ([3, 5], 8, "8 = 8", "exactly once"),
    ([3, 5], 8, "3*5 = 8", "is 15 and not 8"),
    ([3, 5], 8, "3+5 = 9", "what follows '=' is not the target 8"),
    ([3, 5], 8, "3+5 = 8 = 8", "what follows '='"),
    ([3, 5], 8, "3+5 == 8", "what follows '='"),
    ([3, 5], 8, "8 = 3+5", "what follows '='"),
    ([3, 5], 8, "3+5 =", "what follows '='"),
    ([3, 5], 8, "3 + 5 or 4", "neither a number"),
    ([3, 5], 8, "x = 3 + 5", "neither a number"),
    ([3, 5], 8, "03+5", "not an expression"),
    ([3, 5], 8, "3_0+5", "neither a number"),
    ([3, 5], 8, "0x3+5", "neither a number"),
    ([3, 5], 8, "3e0+5", "neither a number"),
    ([3, 5], 8, "\uff13+5", "neither a number"),
    ([2, 5], 7, "\u00b2+5", "neither a number"),
    ([3, 5], 8, "__import__('os').getpid()", "neither a number"),
    ([3, 5], 8, "(3+5", "not an expression"),
    ([3, 5], 8, "3+5)", "not an expression"),
    ([3, 3, 5], 8, "5/(3-3)", "ZeroDivisionError"),
    ([3, 5], 8, r"\frac{3}{5}", "neither a number"),
    ([1, 3], 1, "1/3", "is 1/3 and not 1"),
    ([3, 5], 8, "(" * 21 + "3+5" + ")" * 21, "nested deeper than 20"),
    ([3, 5], 8, "3+5" + " " * 499 + "+0", "at most 500"),
]


@pytest.mark.parametrize(("numbers", "target", "expression", "reason"), GAMES)
def test_an_expression_that_games_countdown_scores_zero_and_says_why(numbers, target, expression, reason):
    found = verdict(countdown, expression, numbers=numbers, target=target)
    assert (found.score, str(found.status)) == (0.0, "wrong")
    assert reason in found.detail


def test_the_last_answer_counts_and_an_answer_tag_before_a_box():
    columns = {"numbers": [[3, 5]], "target": [8]}
    corrected, tagged = "<answer>3+5</answer> no, <answer>3*5</answer>", r"<answer>3*5</answer> \boxed{3+5}"
    completions = [corrected, tagged, r"\boxed{3+5} \boxed{3-5}"]
    assert [countdown([text], **columns)[0].score for text in completions] == [0.0, 0.0, 0.0]
    assert countdown([tagged], **columns, extract=["boxed_last"])[0].score == 1.0
    assert str(countdown(["3+5"], **columns)[0].status) == "no_answer"
    assert str(countdown(["<think><answer>3+5</answer></think>"], **columns)[0].status) == "no_answer"
    with pytest.raises(RewardError, match="out of boxed_last, boxed_all, answer_tag"):
        countdown(["3+5"], **columns, extract=["eval"])


@pytest.mark.parametrize("numbers", ["3,5", "3, 5", "[3, 5]", "3 5", [3, 5], ("3", "5")])
@pytest.mark.parametrize("target", [8, "8", " 8 "])
def test_numbers_and_target_may_be_lists_or_text(numbers, target):
    assert verdict(countdown, "3+5", numbers=numbers, target=target).score == 1.0


@pytest.mark.parametrize(
    ("numbers", "target"),
    [
        (None, 8),
        ([], 8),
        ("", 8),
        ("3,x", 8),
        ([3, -5], 8),
        ([3, True], 8),
        ([3, 5.0], 8),
        ([3, 5], None),
        ([3, 5], "8.5"),
    ],
)
def test_an_unusable_countdown_row_is_reported_and_never_scored(numbers, target):
    found = verdict(countdown, "3+5", numbers=numbers, target=target)
    assert (found.score, str(found.status)) == (None, "gold_error")
    assert found.detail.startswith("row 0: countdown needs whole numbers from 0 and a target, got ")


def test_hostile_expressions_are_decided_at_once():
    started = time.process_time()
    for text in (
        "(" * 500,
        "(" * 50_000,
        "9" * 500,
        "9" * 50_000,
        "-" * 499 + "3",
        "3" + "+3" * 249,
        "3**" * 160,
        "=" * 500,
    ):
        assert countdown_fault(text, [3, 5], 8) != ""
    assert countdown_fault("3" + "+3" * 249, [3] * 250, 750) == ""
    assert countdown_fault("9" * 18 + ("*" + "9" * 18) * 25, [int("9" * 18)] * 26, 1).endswith("and not 1")
    assert time.process_time() - started < 5.0  # a few hundredths


def test_all_500_sudoku_solutions_score_one_in_every_layout(grids):
    puzzles, solutions = [grid["Puzzle"] for grid in grids], [grid["Solution"] for grid in grids]
    assert len(grids) == 500
    for completions in (
        answers(*solutions),
        answers(*("\n" + "\n".join(" ".join(text[row : row + 4]) for row in (0, 4, 8, 12)) for text in solutions)),
        [rf"\boxed{{{text}}}" for text in solutions],
    ):
        found = sudoku(completions, puzzles, solutions)
        assert [(v.score, str(v.status)) for v in found] == [(1.0, "ok")] * 500
    lost_zeros = [int(puzzle) for puzzle in puzzles]  # what a CSV reader makes of the column
    assert sum(v.score for v in sudoku(answers(*solutions), lost_zeros)) == 500


def test_every_other_solution_of_a_puzzle_with_several_scores_one_too(grids):
    unique = 0
    for grid in grids:
        solutions = fill_sudoku(grid["Puzzle"])
        assert sorted(sudoku_solutions(grid["Puzzle"])) == sorted(solutions)
        unique += len(solutions) == 1
        found = sudoku(answers(*solutions), [grid["Puzzle"]] * len(solutions))
        assert {v.score for v in found} == {1.0}
    assert unique == 376


def test_brute_force_finds_the_288_grids_of_an_empty_puzzle():
    assert len(fill_sudoku("0" * 16)) == 288
    assert set(fill_sudoku("0" * 16)) == set(sudoku_solutions("0" * 16))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("0" * 15 + "4", "needs 16 digits from 1 to 4"),  # full marks from a reward that compares blank cells only
        (SOLUTION + "1", "got 17 characters"),
        (SOLUTION + SOLUTION, "got 32 characters"),
        (SOLUTION[:15], "got 15 characters"),
        (PUZZLE, "needs 16 digits"),
        ("2143312413424231", "changes a clue"),  # a valid grid of another puzzle
        ("3142243142131342", "changes a clue"),
        ("3112243142131324", "holds a digit twice"),
        ("3152243142131324", "needs 16 digits"),
        ("|".join(SOLUTION), "needs 16 digits"),
        (SOLUTION.replace("3", "\uff13"), "needs 16 digits"),
        (SOLUTION.replace("3", "\u00b3"), "needs 16 digits"),
        ("The grid is " + SOLUTION, "needs 16 digits"),
    ],
)
@pytest.mark.parametrize("partial", [False, True])
def test_a_grid_that_games_sudoku_scores_zero_and_says_why(answer, reason, partial):
    (found,) = sudoku(answers(answer), [PUZZLE], partial=partial)
    if reason != "holds a digit twice" or not partial:
        assert found.score == 0.0
    assert str(found.status) == "wrong"
    assert reason in found.detail


def test_partial_credit_is_the_share_of_blanks_and_needs_a_unique_solution_and_the_clues():
    blanks = [index for index, clue in enumerate(PUZZLE) if clue == "0"]
    one_wrong = list(SOLUTION)
    one_wrong[blanks[0]] = "1"
    text = "".join(one_wrong)
    assert len(blanks) == 8
    assert sudoku(answers(text), [PUZZLE], partial=True)[0].score == pytest.approx(7 / 8)
    assert sudoku(answers(text), [PUZZLE])[0].score == 0.0
    assert sudoku(answers(SOLUTION), [PUZZLE], partial=True)[0].score == 1.0
    several = fill_sudoku(SEVERAL)
    assert len(several) > 1
    assert sudoku(answers(several[0][:-1] + "0"), [SEVERAL], partial=True)[0].score == 0.0
    broken = several[0][:-1] + next(digit for digit in "1234" if digit != several[0][-1])
    assert sudoku(answers(broken), [SEVERAL], partial=True)[0].score == 0.0


@pytest.mark.parametrize(
    ("puzzle", "solution"),
    [
        (None, None),
        ("310220000210032", None),
        ("31022000021003201", None),
        ("5102200002100320", None),
        ("1100000000000000", None),
        (True, None),
        (-5, None),
        (PUZZLE, "2143312413424231"),
        (PUZZLE, ""),
    ],
)
def test_an_unusable_sudoku_row_is_reported_and_never_scored(puzzle, solution):
    (found,) = sudoku(answers(SOLUTION), [puzzle], [solution])
    assert (found.score, str(found.status)) == (None, "gold_error")
    assert found.detail.startswith("row 0: no solution, or not this one: puzzle ")


def test_both_puzzles_are_registered_and_run_without_a_worker():
    terms = [RewardTerm(fn="countdown"), RewardTerm(fn="sudoku", kwargs={"partial": True})]
    assert [term.isolation for term in terms] == ["inline", "inline"]
    columns = {"numbers": "3,5", "target": "8", "puzzle": PUZZLE}
    with contextlib.closing(RewardMixture(terms)) as mixture:
        (scored,) = mixture.score([Sample("p", answers("3+5")[0], columns=columns)])
    assert scored.parts == {"countdown": 1.0, "sudoku": 0.0}
