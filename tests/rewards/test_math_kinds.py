"""Every kind of fault in the table of `math_kinds`: no wrong answer is paid, no right answer is lost."""

import pytest

from oracles.math_kinds import KINDS, cases
from redraft.rewards.library.math import math_verdicts


@pytest.mark.parametrize("kind", KINDS)
def test_no_wrong_answer_is_paid_and_no_right_answer_is_lost(kind):
    prompts, golds, answers, right = zip(*cases(kind), strict=True)
    completions = [rf"So the answer is \boxed{{{answer}}}." for answer in answers]
    verdicts = math_verdicts(prompts, completions, golds, num_workers=2)
    found = [(case, str(verdict.status)) for case, verdict in zip(cases(kind), verdicts, strict=True)]
    assert [(case, status) for case, status in found if status != ("ok" if case[3] else "wrong")] == []
    assert {0, 1} == set(right)


PLACES = [
    ("The answer is 42.", 1),
    ("The answer is $42$.", 1),
    ("Answer: 42", 1),
    ("**Answer:** 42", 1),
    ("**Final Answer:**\n\n$42$", 1),
    ("Therefore, the final answer is $42$. I hope it is correct.", 1),
    ("the answer is **42**.", 1),
    ("The answer to the question is 42 apples.", 1),
    ("The answer is 41. No, the answer is 42.", 1),
    ("The answer is:\n\\[\n42\n\\]", 1),
    (r"The final answer is: $\boxed{42}$.", 1),
    ("The answer is 42, since 6*7=42", 1),
    ("The correct answer is (B) 42.", 1),
    ("42 is the answer.", 1),
    ("\u7b54\u6848\u662f42\u3002", 1),
    ("The answer is $42.00.", 1),
    ("The answer is 42. No, the answer is 41.", 0),
    ("The answer is not 42.", 0),
    ("The answer is 41 or 42.", 0),
    ("The answer is $42$ or $41$.", 0),
    ("The answer is $42$ million.", 0),
    ("The answer is unknown. It might be 42", 0),
    ("I will answer the question.\nThe total is 42", 0),
]


@pytest.mark.parametrize(("completion", "right"), PLACES)
def test_the_anchor_policy_reads_the_value_after_the_last_phrase_that_announces_it(completion, right):
    (verdict,) = math_verdicts([""], [completion], ["42"], extract=["anchor"])
    assert verdict.score == right


def test_the_anchor_stands_before_the_last_number():
    completion = "The answer is 42. It took 7 steps."
    (verdict,) = math_verdicts([""], [completion], ["42"], extract=["boxed_last", "anchor", "last_number"])
    assert verdict.score == 1.0


def test_a_message_without_content_is_an_empty_answer():
    for message in ({"role": "assistant", "content": None}, {"role": "assistant"}):
        (verdict,) = math_verdicts(["q"], [[message]], ["7"])
        assert (verdict.score, verdict.status) == (0.0, "no_answer")


@pytest.mark.parametrize("gold", ['["1","2"]', ["1", "2"], "18;", "Tom has 6.\n#### 6", r"So it is $\boxed{\frac12}$."])
def test_a_gold_answer_in_the_format_of_its_data_set_is_equal_to_itself(gold):
    """The audit scores what a row holds, word for word: a row may not be put aside for its format."""
    (verdict,) = math_verdicts([""], [rf"\boxed{{{gold}}}"], [gold])
    assert verdict.score == 1.0
