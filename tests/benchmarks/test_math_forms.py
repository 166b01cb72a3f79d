"""The forms of `math_reward/recall.py` say what they claim: right ones the same value, near misses another."""

import pytest

from benchmarks.math_reward.forms import VALUES
from benchmarks.math_reward.near_misses import NEAR_MISSES
from benchmarks.math_reward.tries import Golds


@pytest.mark.parametrize(
    ("form", "gold", "written"),
    [
        ("full-width digits", "42", "\uff14\uff12"),
        ("1{,}234", r"\$32,\!348", "32{,}348"),
        ("14/3", r"-\frac{14}{3}", "-14/3"),
        ("14/3", "42", None),
        ("equal: decimal for fraction", r"\frac{5}{8}", "0.625"),
        ("equal: decimal for fraction", r"\frac{1}{3}", None),
        ("equal: fraction for decimal", "-0.25", r"-\frac{1}{4}"),
        ("equal: mixed number", r"\frac{14}{3}", r"4\frac{2}{3}"),
        ("equal: power", "64", "8^{2}"),
        ("equal: power", "65", None),
        ("inequality for interval", r"(-\infty, 0]", r"x \le 0"),
        ("tuple without brackets", "(3, 4)", "3, 4"),
        ("list with and", "3, 5, 7", r"3, 5 \text{ and } 7"),
        ("number with cm", r"\$18.90", None),  # its unit is another one
        ("gold's unit left out", r"15\mbox{ cm}^2", "15"),
        ("option c", r"\text{(C)}", "c"),
        ("x = X", "y = 2x", None),
    ],
)
def test_a_form_writes_the_same_answer_or_does_not_apply(form, gold, written):
    assert VALUES[form](gold) == written


@pytest.mark.parametrize(
    ("form", "gold", "written"),
    [
        ("X + 1", "1,234", "1235"),
        ("two digits swapped", "33", None),
        ("sign flipped", "-5", "5"),
        ("sign flipped", "0", None),
        ("rounded to six decimals", r"\sqrt{2}", "1.414214"),
        ("rounded to six decimals", r"\sqrt{4}", None),
        ("list: last item dropped", "3, 5, 7", "3, 5"),
        ("another base", "52_8", "52_3"),
    ],
)
def test_a_near_miss_is_another_answer_or_does_not_apply(form, gold, written):
    assert NEAR_MISSES[form](gold) == written


def test_another_rows_gold_is_never_one_that_could_count_as_equal():
    equal = ["1/2", "0.5", r"50\%", r"\frac{1}{2}", "50", r"\text{(A)}", "x+1", "1+x"]
    golds = Golds([("d", "", gold) for gold in [*equal, "7", r"\text{(B)}", "x-1"]])
    assert {golds.other("0.5") for _ in range(30)} <= {"7", "x-1", "x+1", "1+x"}
    assert {golds.other("x+1") for _ in range(30)} <= {"7", "x-1", "1/2", "0.5", r"50\%", r"\frac{1}{2}", "50"}
    assert {golds.other(r"\text{(A)}") for _ in range(30)} == {r"\text{(B)}"}
