"""What the learner gets and what a person sees."""

import dataclasses

import pytest
import torch

from redraft.rewards.result import SampleScore, Verdict
from redraft.rl.config.choices import BaselineAdvantage
from redraft.rl.experience.assemble import completion_metrics, make_experience, shuffled
from redraft.rl.experience.metrics import MaskedSteps, reward_metrics
from redraft.rl.seeding import derive_seed
from redraft.rollout.trajectory import Completion, DecodeTrace, Prompt

DR_GRPO, LEAVE_ONE_OUT = BaselineAdvantage(), BaselineAdvantage(kind="leave_one_out")
PROMPTS = [Prompt(f"p{i}", (1, 2), seed=10 + i, group=i // 3) for i in range(6)]


def completion(name: str, tokens: tuple[int, ...], reason: str, forwards: int, edits: int) -> Completion:
    actions = (forwards - 1,) * edits
    trace = DecodeTrace(9, forwards, actions, tuple(range(edits)), (3,) * edits, (4,) * edits, (0.0,) * edits,
                        (0.0,) * edits)  # fmt: skip
    return Completion(name, tokens, tokens, reason, trace)


COMPLETIONS = [
    completion("p0", (5, 1), "stop", 2, 0),
    completion("p1", (5, 1), "stop", 2, 1),
    completion("p2", (6, 6, 6, 6), "length", 4, 2),
    completion("p3", (6, 1), "stop", 1, 0),
    completion("p4", (7, 1), "stop", 2, 0),
    completion("p5", (8, 8, 8, 1), "stop", 5, 0),
]


def scored(total: float | None, accuracy: float | None, style: float | None, status: str) -> SampleScore:
    return SampleScore(total, total, {"accuracy": Verdict(accuracy, status, ms=2.0), "style": Verdict(style)})


SCORED = [
    SampleScore(1.5, 2.0, {"accuracy": Verdict(1.0, metrics={"steps": 3.0}, ms=10.0), "style": Verdict(0.5)}),
    scored(0.0, 0.0, None, "wrong"),
    scored(None, None, None, "infra_error"),
    scored(0.5, 0.0, 0.5, "wrong"),
    scored(0.5, 0.0, 0.5, "wrong"),
    scored(0.5, 0.0, 0.5, "timeout"),
]


def test_experience_holds_prompts_with_their_completions_and_group_advantages():
    rows = make_experience(PROMPTS, COMPLETIONS, [1.0, 2.0, 6.0, 0.0, 0.0, 3.0], DR_GRPO)
    assert [row.prompt for row in rows] == PROMPTS
    assert [row.completion for row in rows] == COMPLETIONS
    assert [row.advantage for row in rows] == [-2.0, -1.0, 3.0, -1.0, -1.0, 2.0]


def test_a_reward_of_none_leaves_the_sample_and_its_group_mean_out():
    rows = make_experience(PROMPTS, COMPLETIONS, [1.0, None, 6.0, None, None, 3.0], DR_GRPO)
    assert [(row.prompt.id, row.advantage) for row in rows] == [("p0", -2.5), ("p2", 2.5)]


def test_interleaved_groups_are_compared_among_themselves():
    prompts = [dataclasses.replace(prompt, group=i % 2) for i, prompt in enumerate(PROMPTS)]
    rows = make_experience(prompts, COMPLETIONS, [1.0, 10.0, 2.0, 20.0, 3.0, 30.0], LEAVE_ONE_OUT)
    assert {row.prompt.id: row.advantage for row in rows} == pytest.approx(
        {"p0": -1.5, "p1": -15.0, "p2": 0.0, "p3": 0.0, "p4": 1.5, "p5": 15.0}
    )


def test_noise_seeds_are_streams_of_their_own_beside_the_rollouts_seed():
    rows = make_experience(PROMPTS, COMPLETIONS, [1.0, 2.0, 6.0, 0.0, 0.0, 3.0], DR_GRPO)
    assert [row.noise_seed for row in rows] == [derive_seed(prompt.seed, "noise") for prompt in PROMPTS]
    assert len({row.noise_seed for row in rows} | {prompt.seed for prompt in PROMPTS}) == 12
    # As many bits as a tensor holds: micro-batches carry them as int64.
    assert torch.tensor([row.noise_seed for row in rows]).tolist() == [row.noise_seed for row in rows]


def test_shuffled_rewards_are_a_permutation_that_depends_on_seed_and_step_only():
    rewards = [float(i) for i in range(50)] + [None]
    once = shuffled(rewards, 0, 3)
    assert once != rewards
    assert sorted(map(str, once)) == sorted(map(str, rewards))
    assert shuffled(rewards, 0, 3) == once
    assert shuffled(rewards, 0, 4) != once
    assert shuffled(rewards, 1, 3) != once


def test_reward_metrics_are_the_numbers_computed_by_hand():
    metrics = reward_metrics(PROMPTS, SCORED)
    # Totals 1.5, 0, .5, .5, .5: mean .6, squares .81 + .36 + 3 * .01 over 5.
    expected = {
        "reward/mean": 0.6,
        "reward/std": 0.24**0.5,
        "reward/masked_fraction": 1 / 6,
        "reward/zero_std_fraction": 0.5,
        "rewards/accuracy/mean": 0.2,
        "rewards/accuracy/std": 0.4,
        "rewards/style/mean": 0.5,
        "rewards/style/std": 0.0,
        "rewards/accuracy/ok_fraction": 1 / 6,
        "rewards/accuracy/wrong_fraction": 3 / 6,
        "rewards/accuracy/infra_error_fraction": 1 / 6,
        "rewards/accuracy/timeout_fraction": 1 / 6,
        "rewards/style/ok_fraction": 1.0,
        "reward/unshaped_mean": 0.7,
        "reward/timeout_fraction": 1 / 6,
        "reward/failed_fraction": 1 / 6,
        "rewards/accuracy/steps": 3.0,
        "rewards/accuracy/ms_p50": 2.0,
        "rewards/accuracy/ms_p95": 8.0,  # a quarter of the way down from the largest of six: 10 - (10 - 2) / 4
        "rewards/accuracy/ms_max": 10.0,
        "reward/slowest_ms": 10.0,
        "reward/slowest_row": 0.0,
    }
    assert metrics == pytest.approx(expected, abs=1e-12)


def test_a_step_without_a_single_score_is_told_and_only_several_in_a_row_end_the_run():
    nothing = [SampleScore(None, None, {"judge": Verdict(None, "infra_error", "connection refused")})] * 6
    metrics, steps = reward_metrics(PROMPTS, nothing), MaskedSteps(limit=2)
    assert "reward/mean" not in metrics
    assert (metrics["reward/masked_fraction"], metrics["reward/failed_fraction"]) == (1.0, 1.0)
    assert steps.observe(metrics, nothing) == (
        "all 6 completions of the step are masked: nothing to learn; connection refused"
    )
    assert steps.observe(reward_metrics(PROMPTS, SCORED), SCORED) is None
    steps.observe(metrics, nothing)
    with pytest.raises(ValueError, match=r"connection refused; this was step 2 of that kind in a row"):
        steps.observe(metrics, nothing)


def test_completion_metrics_are_the_numbers_computed_by_hand():
    expected = {
        "completions/mean_length": 16 / 6,
        "completions/clipped_fraction": 1 / 6,
        "completions/unique_fraction": 5 / 6,
        "decode/tokens_per_forward": 1.0,
        "decode/forwards": 16 / 6,
        "decode/edits_per_completion": 0.5,
        "decode/tokens_per_s": 8.0,
        "time/rollout_s": 2.0,
    }
    assert completion_metrics(COMPLETIONS, seconds=2.0) == pytest.approx(expected, abs=1e-12)
