"""Group advantages by hand (docs/math.md eq 30 and 31)."""

import pytest

from redraft.rl.experience.advantage import group_advantages


def test_dr_grpo_subtracts_the_mean_and_divides_by_nothing():
    assert group_advantages([1.0, 0.0, 0.0, 3.0], "dr_grpo") == [0.0, -1.0, -1.0, 2.0]


def test_leave_one_out_subtracts_the_mean_of_the_others():
    rewards = [1.0, 0.0, 0.0, 3.0]
    expected = [reward - (sum(rewards) - reward) / 3 for reward in rewards]
    assert group_advantages(rewards, "leave_one_out") == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["dr_grpo", "leave_one_out"])
def test_masked_samples_get_none_and_do_not_move_the_baseline(kind):
    with_gaps = group_advantages([None, 2.0, None, 4.0, 9.0], kind)
    assert [with_gaps[0], with_gaps[2]] == [None, None]
    assert [with_gaps[1], *with_gaps[3:]] == group_advantages([2.0, 4.0, 9.0], kind)


@pytest.mark.parametrize("kind", ["dr_grpo", "leave_one_out"])
def test_advantages_of_a_group_sum_to_zero(kind):
    found = group_advantages([0.3, 0.9, None, -1.4], kind)
    assert sum(value for value in found if value is not None) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("kind", ["dr_grpo", "leave_one_out"])
@pytest.mark.parametrize("rewards", [[1.0], [None, 1.0, None], [None, None], []])
def test_a_reward_without_company_says_nothing(kind, rewards):
    assert group_advantages(rewards, kind) == [None] * len(rewards)


@pytest.mark.parametrize("kind", ["dr_grpo", "leave_one_out"])
def test_equal_rewards_have_no_advantage(kind):
    assert group_advantages([1.0, 1.0, 1.0], kind) == [0.0, 0.0, 0.0]
