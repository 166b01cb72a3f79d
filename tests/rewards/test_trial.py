"""A verifier is tried before it is trusted."""

import pytest

from redraft.rewards import RewardError, RewardTerm
from redraft.rewards.reward import ATTACKS
from redraft.rewards.scoring.trial import GOLD, audit_rows, gold_forms, try_reward

ROWS = [{"prompt": "2+2=", "ground_truth": "4"}, {"prompt": "1/2 as a decimal", "ground_truth": "0.5"}]


def passed(term, rows):
    checks = try_reward(term, rows)
    return {(check.row, check.kind): check.passed for check in checks}


def test_math_accuracy_tells_right_answers_from_cheap_ones():
    term = RewardTerm(fn="math_accuracy")
    assert term.attacks == tuple(ATTACKS)
    assert passed(term, ROWS) == {(row, kind): True for row in (0, 1) for kind in (GOLD, *ATTACKS)}


@pytest.mark.parametrize("policy", ["boxed_last", "answer_tag", "gsm8k_hash", "anchor", "last_number"])
def test_a_right_answer_is_written_as_every_extraction_policy_reads_it(policy):
    term = RewardTerm(fn="math_accuracy", kwargs={"extract": [policy]}, attacks=("empty",))
    assert passed(term, ROWS) == {(row, kind): True for row in (0, 1) for kind in (GOLD, "empty")}


def test_a_verifier_that_believes_anything_fails_every_attack(tmp_path):
    path = tmp_path / "naive.py"
    path.write_text("def naive(completions, ground_truth):\n    return [1.0 for _ in completions]\n")
    term = RewardTerm(fn=f"{path}:naive", attacks=tuple(ATTACKS))
    assert passed(term, ROWS[:1]) == {(0, GOLD): True} | {(0, name): False for name in ATTACKS}


def test_a_wrong_gold_answer_and_a_crash_are_seen_and_do_not_end_the_trial(tmp_path):
    path = tmp_path / "fragile.py"
    path.write_text(
        "def fragile(completions, ground_truth):\n"
        "    return [float(int(text) == int(gold)) for text, gold in zip(completions, ground_truth)]\n"
    )
    term = RewardTerm(fn=f"{path}:fragile", attacks=("empty",))
    rows = [{"prompt": "p", "ground_truth": "4"}, {"prompt": "p", "ground_truth": "four"}]
    checks = {(check.row, check.kind): check for check in try_reward(term, rows)}
    assert checks[0, GOLD].passed
    assert not checks[1, GOLD].passed
    assert not checks[0, "empty"].passed
    assert "invalid literal" in checks[0, "empty"].verdict.detail


def test_an_outage_costs_no_data(tmp_path):
    path = tmp_path / "down.py"
    path.write_text("def down(completions, ground_truth):\n    raise ConnectionError('refused')\n")
    term = RewardTerm(fn=f"{path}:down", attacks=("empty",))
    with pytest.raises(RewardError, match=r"'down' could not score row \d .*refused"):
        audit_rows(term, ROWS)


def test_rows_that_the_reward_does_not_apply_to_are_not_tried():
    rows = [{**row, "task": task} for row, task in zip(ROWS, ("math", "law"), strict=True)]
    assert {row for row, _ in passed(RewardTerm(fn="math_accuracy", when={"task": "math"}), rows)} == {0}
    assert try_reward(RewardTerm(fn="math_accuracy", when={"task": "code"}), rows) == []


def test_a_row_without_a_known_answer_has_no_right_form():
    assert gold_forms({"prompt": "say hello", "ground_truth": None}) == []
    assert "```python\ndef f():\n    return 1\n```" in gold_forms(
        {"prompt": "def f():\n", "canonical_solution": "    return 1"}
    )
