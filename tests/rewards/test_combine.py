import pytest

from redraft.rewards import RewardTerm, Verdict
from redraft.rewards.scoring.combine import combine, is_failure, summed_parts

MASKED, FAILED = Verdict(None, "masked"), Verdict(None, "infra_error")


def term(name, **settings):
    return RewardTerm(fn=f"module:{name}", **settings)


def combined(terms, *verdicts):
    named = {one.name: v if isinstance(v, Verdict) else Verdict(v) for one, v in zip(terms, verdicts, strict=True)}
    scored = combine(terms, named)
    return scored.total, scored.unshaped


def test_the_weighted_sum_leaves_out_what_does_not_apply():
    terms = [term("a"), term("b", weight=0.5), term("metric", weight=0)]
    assert combined(terms, 1.0, 2.0, 4.0) == (2.0, 2.0)  # 1*1 + 0.5*2, the third is a metric only
    assert combined(terms, MASKED, 2.0, 4.0) == (1.0, 1.0)
    assert combined(terms, MASKED, MASKED, 4.0) == (None, None)
    assert combined([term("a"), term("b", weight=-1)], 1.0, 1.0) == (0.0, 0.0)


@pytest.mark.parametrize("status", ["infra_error", "gold_error", "timeout"])
def test_a_part_that_failed_masks_the_completion_and_never_lowers_its_reward(status):
    terms = [term("task"), term("style", weight=0.1)]
    assert combined(terms, Verdict(None, status), 1.0) == (None, None)
    assert combined([term("task", weight=0), terms[1]], Verdict(None, status), 1.0) == (0.1, 0.1)
    assert is_failure(Verdict(None, status))


def test_a_timeout_with_a_score_counts_as_that_score():
    assert combined([term("task"), term("style")], Verdict(0.0, "timeout"), 1.0) == (1.0, 1.0)


def test_gates_multiply_the_task_rewards_and_shaping_is_added_after_them():
    terms = [term("task", weight=2), term("format", gate=True), term("length", shaping=True, weight=0.5)]
    assert combined(terms, 1.0, 1.0, -1.0) == (1.5, 2.0)
    assert combined(terms, 1.0, 0.0, -1.0) == (-0.5, 0.0)
    assert combined(terms, 1.0, MASKED, MASKED) == (2.0, 2.0)  # a gate that does not apply is open
    assert combined(terms, 1.0, FAILED, -1.0) == (None, None)
    assert combined(terms, MASKED, 1.0, -1.0) == (None, None)  # shaping alone is no reward for the task


def test_a_mixture_of_nothing_but_shaping_is_its_own_task():
    assert combined([term("length", shaping=True, weight=2)], -0.5) == (-1.0, -1.0)
    assert combined([term("length", shaping=True)], MASKED) == (None, None)


def test_what_is_normalised_before_a_sum_is_gated_and_without_the_masked():
    terms = [term("task"), term("format", gate=True), term("length", shaping=True), term("metric", weight=0)]
    verdicts = {"task": Verdict(2.0), "format": Verdict(0.5), "length": Verdict(-1.0), "metric": Verdict(7.0)}
    assert summed_parts(terms, combine(terms, verdicts)) == {"task": 1.0, "length": -1.0}
    masked = combine(terms, verdicts | {"task": FAILED})
    assert summed_parts(terms, masked) == {"task": None, "length": None}
