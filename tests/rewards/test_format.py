import contextlib
import time

import pytest
from trl.rewards import think_format_reward

from redraft.rewards import RewardError, RewardMixture, RewardTerm, Sample, boxed_format, format_match
from redraft.rewards.library.format import think_answer_format
from redraft.rewards.text import answer_region, boxes, completion_text, extract_answer


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\boxed{4}", ["4"]),
        (r"\boxed{\frac{1}{2}} and \boxed {5}", [r"\frac{1}{2}", "5"]),
        (r"\boxed{\{1, 2\}}", [r"\{1, 2\}"]),
        (r"\boxed{a \\}", [r"a \\"]),
        (r"\boxed{\boxed{5}}", [r"\boxed{5}", "5"]),
        (r"\boxed{1} \boxed{2", ["1", None]),
        (r"}} \boxed{3}", ["3"]),
        (r"\fbox{7}", ["7"]),
        (r"\boxed 4", []),
        ("", []),
    ],
)
def test_boxes_are_matched_by_their_braces(text, found):
    assert boxes(text) == found


def test_hostile_text_is_read_in_linear_time():
    started = time.process_time()
    assert boxes("\\boxed{" * 7_000) == [None] * 7_000
    for hostile in ("\\boxed{", "<answer>", "####", "1,111", "<think>", "\\boxed "):
        extract_answer(
            hostile * (50_000 // len(hostile)), ["boxed_last", "answer_tag", "gsm8k_hash", "anchor", "last_number"]
        )
    assert time.process_time() - started < 5  # a tenth of a second


@pytest.mark.parametrize(
    ("text", "policies", "answer"),
    [
        (r"\boxed{1} then \boxed{2}", ["boxed_last"], "2"),
        (r"\boxed{1} then \boxed{2", ["boxed_last"], None),
        (r"\boxed{1}, \boxed{2} and \boxed{1}", ["boxed_all"], "1, 2"),
        (r"\boxed{1} then \boxed{2", ["boxed_all"], None),
        ("1", ["boxed_all"], None),
        (r"<think>\boxed{1}</think> so \boxed{2}", ["boxed_last"], "2"),
        (r"<think>\boxed{1}</think> no box", ["boxed_last"], None),
        (r"<think>\boxed{1} and never closed", ["boxed_last"], None),
        (r"<answer>3</answer> <answer> 4 </answer>", ["answer_tag"], "4"),
        (r"<answer>so \boxed{4}</answer>", ["answer_tag"], "4"),
        ("work\n#### 1,234\n", ["gsm8k_hash"], "1,234"),
        ("from 3 to 1,200.5 dollars", ["last_number"], "1,200.5"),
        ("#### 7", ["boxed_last", "gsm8k_hash"], "7"),
        (r"#### 7 \boxed{8}", ["boxed_last", "gsm8k_hash"], "8"),
        (r"\boxed{ }", ["boxed_last"], None),
        (r"\boxed{1}" + "x" * 60_000, ["boxed_last"], None),
        ("x" * 60_000 + r"\boxed{1}", ["boxed_last"], "1"),
    ],
)
def test_the_answer_is_extracted_by_the_named_policies(text, policies, answer):
    assert extract_answer(text, policies) == answer


@pytest.mark.parametrize("policies", [["boxed_first"], [], "boxed_last"])
def test_an_unknown_extraction_policy_is_an_error_that_lists_the_valid_ones(policies):
    with pytest.raises(RewardError, match="out of boxed_last, boxed_all, answer_tag, gsm8k_hash, anchor, last_number"):
        extract_answer("", policies)


def test_a_completion_is_text_or_messages():
    assert completion_text("a") == "a"
    assert completion_text([{"role": "assistant", "content": "a"}]) == "a"
    assert completion_text([{"role": "assistant", "content": [{"type": "text", "text": "a"}]}]) == "a"
    with pytest.raises(RewardError, match="string or a list of messages, got int 3"):
        completion_text(3)
    assert answer_region([{"role": "assistant", "content": "<think>a</think>b"}]) == "b"


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        (r"so \boxed{4}", 1.0),
        (r"\boxed{\frac{1}{2}}", 1.0),
        (r"\boxed{4} or \boxed{5}", 0.0),
        (r"\boxed{}", 0.0),
        (r"\boxed{ }", 0.0),
        (r"\boxed{4", 0.0),
        (r"\boxed{\boxed{4}}", 0.0),
        ("4", 0.0),
        (r"<think>\boxed{3}</think>\boxed{4}", 1.0),
        ([{"role": "assistant", "content": r"\boxed{4}"}], 1.0),
    ],
)
def test_boxed_format_wants_exactly_one_whole_box(completion, score):
    assert boxed_format([completion]) == [score]


WELL_FORMED = "<think>2 + 2\nmakes 4</think>\n<answer>4</answer>"


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        (WELL_FORMED, 1.0),
        (f"\n{WELL_FORMED}\n", 1.0),
        ([{"role": "assistant", "content": WELL_FORMED}], 1.0),
        (f"{WELL_FORMED} and so on", 0.0),
        (f"Well: {WELL_FORMED}", 0.0),
        (WELL_FORMED * 2, 0.0),
        (f"{WELL_FORMED}<answer>5</answer>", 0.0),
        ("<think>2 + 2 makes 4</think> so <answer>4</answer>", 0.0),
        ("<think>2 + 2 makes 4<answer>4</answer></think>", 0.0),
        ("<answer>4</answer><think>2 + 2 makes 4</think>", 0.0),
        ("<think>2 + 2 makes 4</think><answer>4", 0.0),
        ("2 + 2 makes 4</think><answer>4</answer>", 0.0),
        ("<think></think><answer></answer>", 0.0),
        ("<think>2 + 2 makes 4</think><answer> </answer>", 0.0),
        ("<think> short \n </think><answer>4</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_think_answer_format_wants_both_parts_once_and_nothing_else(completion, score):
    assert think_answer_format([completion]) == [score]
    if score and isinstance(completion, str) and not completion.startswith("\n"):
        assert think_format_reward([[{"role": "assistant", "content": completion}]]) == [1.0]  # TRL's asks for less


def test_the_least_reasoning_is_the_recipes_choice():
    short = "<think>4</think><answer>4</answer>"
    assert [think_answer_format([short], min_think_chars=least) for least in (0, 1, 2)] == [[1.0], [1.0], [0.0]]


def test_think_answer_format_is_linear_in_the_text():
    hostile = [
        "<think>" * 20_000,
        "<think>" + " " * 100_000 + "</think>" + "\n" * 100_000 + "<answer>",
        WELL_FORMED * 5_000,
    ]
    started = time.process_time()
    assert think_answer_format(hostile) == [0.0] * 3
    tags = (
        "<think>"
        + "x<" * 50_000
        + "</think>"
        + " " * 100_000
        + "<answer>"
        + "/ " * 50_000
        + "</answer>"
        + " " * 100_000
    )
    assert think_answer_format([tags, f"{tags}."]) == [1.0, 0.0]
    assert time.process_time() - started < 5  # a tenth of a second


def test_format_match_wants_the_whole_completion():
    pattern = r"<think>.*</think>\s*\d+"
    assert format_match(["<think>a\nb</think> 4", "<think>a</think> 4!", "4"], pattern) == [1.0, 0.0, 0.0]


def test_format_match_through_a_mixture_survives_a_bad_and_a_catastrophic_pattern():
    bad = RewardTerm(fn="format_match", kwargs={"pattern": "("})
    with (
        contextlib.closing(RewardMixture([bad])) as mixture,
        pytest.raises(RewardError, match=r"pattern '\(' is not a regular expression"),
    ):
        mixture.score([Sample("p", "a")])
    catastrophic = RewardTerm(fn="format_match", kwargs={"pattern": "(a+)+b"}, timeout_s=0.5)
    with contextlib.closing(RewardMixture([catastrophic])) as mixture:
        good, hopeless = mixture.score([Sample("p", "aab"), Sample("p", "a" * 60)])
    assert (good.total, hopeless.total, hopeless.status) == (1.0, None, {"format_match": "timeout"})
