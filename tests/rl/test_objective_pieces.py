"""The objective by hand, on: normalisers, clip ranges, anchor, penalties, corrections and the losses of completions.

Equations of docs/math.md: eq 19 and 22 to 29, 42.
"""

import dataclasses
import math

import pytest
import torch

from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.experience.advantage import group_advantages
from redraft.rl.objective.terms import LogProbs, Policies, Terms
from tests.hand_terms import TERMS, config, doubles, logs, losses, make_terms

# --- normalisers, clip ranges, anchor -----------------------------------------------------------------------------

CURRENT, OLD = logs(0.11, 0.1, 0.3, 0.18), logs(0.1, 0.2, 0.2, 0.2)
SURROGATES = [1 * 1.1 * 1.0, 2 * 0.8 * -2.0, 3 * 1.28 * 1.0, 4 * 0.9 * 1.0]  # of rows 0, 1, 0, 0


@pytest.mark.parametrize(
    ("normaliser", "expected"),
    [
        ("constant", sum(SURROGATES) / (5 * 10)),
        ("sequence", ((SURROGATES[0] + SURROGATES[2] + SURROGATES[3]) / 4 + SURROGATES[1] / 9) / 5),
        ("batch", sum(SURROGATES) / 100),
    ],
)
def test_token_losses_are_divided_by_the_longest_their_own_or_all_completions_lengths(normaliser, expected):
    loss, _ = losses(CURRENT, OLD, None, config(loss_normaliser=normaliser))
    assert loss == pytest.approx(-expected, abs=1e-12)


def test_a_sequence_loss_is_a_mean_over_rows_under_every_normaliser():
    found = {losses(CURRENT, OLD, None, config(ratio="sequence", loss_normaliser=name))[0]
             for name in ("constant", "sequence", "batch")}  # fmt: skip
    assert len(found) == 1


def test_a_position_ratio_sums_the_views_of_a_position_and_keeps_edits_apart():
    # One row: position 0 in views 0 and 1, position 1 in view 1, and position 1 once more as an edit.
    terms = make_terms(torch.zeros(4, dtype=torch.int64), doubles(0.5, 1.0, 0.5, 2.0), torch.arange(4) == 3,
                       doubles(1.0), doubles(2.0), position=torch.tensor([0, 0, 1, 1]),
                       view=torch.tensor([0, 1, 1, 2]))  # fmt: skip
    changes = doubles(0.1, 0.1, -0.2, 0.05)
    loss, sums = losses(
        changes, 0 * changes, None, config(estimator="mean_field", ratio="position", t2t_weight=0.5), terms
    )
    expected = math.exp(0.05 + 0.1) + math.exp(-0.1) + 0.5 * math.exp(0.1)
    assert loss == pytest.approx(-expected / (5 * 10), abs=1e-12)
    assert (sums["ratios"], sums["t2t_ratios"]) == (2, 1)


@pytest.mark.parametrize(
    ("ratio", "advantage", "m2t", "t2t"),
    [(1.2, 1.0, 1.2, 1.1), (1.5, 1.0, 1.28, 1.1), (0.7, -1.0, 0.8, 0.7), (0.3, -1.0, 0.8, 0.5)],
)
def test_edits_are_clipped_to_a_range_of_their_own(ratio, advantage, m2t, t2t):
    terms = make_terms(torch.tensor([0, 0]), doubles(1.0, 1.0), torch.tensor([False, True]), doubles(advantage),
                       doubles(2.0))  # fmt: skip
    apart = config(t2t_epsilon=0.5, t2t_epsilon_high=0.1)
    loss, _ = losses(logs(ratio, ratio), doubles(0.0, 0.0), None, apart, terms)
    assert loss == pytest.approx(-advantage * (m2t + t2t) / 50, abs=1e-12)
    together, _ = losses(logs(ratio, ratio), doubles(0.0, 0.0), None, config(), terms)
    assert together == pytest.approx(-advantage * 2 * m2t / 50, abs=1e-12)


def test_the_anchor_is_the_elbo_per_token_of_good_completions_from_the_losses_own_masks():
    # Row 0 (good): terms 0 and 2; its edit is no ELBO. Row 1 is bad, row 2 has nothing.
    evidence = (1 * math.log(0.11) + 3 * math.log(0.3)) / 4 / 5
    loss, sums = losses(CURRENT, OLD, None, config(anchor=0.05))
    without, _ = losses(CURRENT, OLD, None, config())
    assert sums["anchor"] == pytest.approx(evidence, abs=1e-12)
    assert loss - without == pytest.approx(-0.05 * evidence, abs=1e-12)


def test_views_of_the_anchor_are_the_anchor_and_nothing_else():
    lent = dataclasses.replace(TERMS, anchor=torch.tensor([False, True, True, False]))
    loss, sums = losses(CURRENT, OLD, None, config(anchor=0.05), lent)
    evidence = 3 * math.log(0.3) / 4 / 5  # term 1 belongs to a bad completion
    assert sums["anchor"] == pytest.approx(evidence, abs=1e-12)
    assert loss == pytest.approx(-(SURROGATES[0] + SURROGATES[3]) / 50 - 0.05 * evidence, abs=1e-12)
    assert (sums["ratios"], sums["t2t_ratios"]) == (1, 1)


# --- KL in the reward, corrections, shared draws ------------------------------------------------------------------


def test_k1_in_the_reward_is_the_reward_less_beta_times_the_log_ratio_to_the_reference():
    rewards, groups, beta = [1.0, 0.0, 0.5, 2.0], torch.tensor([7, 7, 3, 3]), 0.3
    row, weight = torch.tensor([0, 0, 1, 2, 3, 3]), doubles(1.0, 2.0, 0.5, 1.0, 1.0, 3.0)
    source = torch.Generator().manual_seed(1)
    current, old, reference = torch.randn(3, 6, dtype=torch.float64, generator=source)

    def terms(values: list[float]) -> Terms:
        each = [*group_advantages(values[:2], "dr_grpo"), *group_advantages(values[2:], "dr_grpo")]
        return make_terms(row, weight, torch.zeros(6, dtype=torch.bool), doubles(*each), doubles(*[4.0] * 4),
                          group=groups)  # fmt: skip

    k1 = [((old - reference) * weight)[row == i].sum().item() for i in range(4)]
    by_hand = [reward - beta * each for reward, each in zip(rewards, k1, strict=True)]
    found, sums = losses(current, old, reference, config(beta=beta, kl="k1_reward"), terms(rewards))
    expected, _ = losses(current, old, None, config(), terms(by_hand))
    assert found == pytest.approx(expected, abs=1e-12)
    assert abs(found - losses(current, old, None, config(), terms(rewards))[0]) > 1e-3
    assert "kl" not in sums


ENGINE = logs(0.1, 0.1, 0.4, 0.1)  # old / engine: 1, 2, 0.5, 2


@pytest.mark.parametrize(("cap", "weights"), [(5.0, [1.0, 2.0, 0.5, 2.0]), (1.5, [1.0, 1.5, 0.5, 1.5])])
def test_token_correction_weighs_by_the_truncated_ratio_of_old_policy_and_engine(cap, weights):
    terms = dataclasses.replace(TERMS, engine=ENGINE)
    loss, sums = losses(CURRENT, OLD, None, config(rollout_correction="token", correction_cap=cap), terms)
    expected = sum(w * s for w, s in zip(weights, SURROGATES, strict=True))
    assert loss == pytest.approx(-expected / 50, abs=1e-12)
    assert sums["correction"] == pytest.approx(sum(weights), abs=1e-12)
    assert sums["truncated"] == (0 if cap == 5.0 else 2)


@pytest.mark.parametrize(("cap", "truncated"), [(10.0, 0), (1.5, 3)])
def test_sequence_correction_weighs_all_of_a_row_by_the_truncated_ratio_of_its_trajectory(cap, truncated):
    # Row 0: log 1 + 3 log 0.5 + 4 log 2 = log 2; row 1: 2 log 2 = log 4.
    terms = dataclasses.replace(TERMS, engine=ENGINE)
    algorithm = config(ratio="sequence", gamma=1.0, rollout_correction="sequence", correction_cap=cap, epsilon=0.9)
    loss, sums = losses(OLD, OLD, None, algorithm, terms)
    assert loss == pytest.approx(-(2 * min(2, cap) * 1.0 + min(4, cap) * -2.0) / 5, abs=1e-12)
    assert sums["truncated"] == truncated


def test_a_correction_beyond_all_numbers_is_the_cap_or_nothing():
    # Old policy over engine: e^800, e^-800 and, where the engine saw no chance at all, infinite; T2T 1.
    engine = OLD - doubles(800.0, -800.0, math.inf, 0.0)
    terms = dataclasses.replace(TERMS, engine=engine)
    algorithm = config(rollout_correction="token", correction_cap=1.5)
    loss, sums = losses(CURRENT, OLD, None, algorithm, terms)
    expected = sum(w * s for w, s in zip([1.5, 0.0, 1.5, 1.0], SURROGATES, strict=True))
    assert loss == pytest.approx(-expected / 50, abs=1e-12)
    assert (sums["correction"], sums["truncated"]) == (4.0, 2)


@pytest.mark.parametrize("correction", ["token", "sequence"])
def test_correcting_without_the_engines_log_probs_is_refused_but_anchors_need_none(correction):
    engine = ENGINE.clone()
    engine[2] = torch.nan
    algorithm = config(rollout_correction=correction, anchor=0.1)
    with pytest.raises(ValueError, match=r"engine's log-probability of every scored token; some are missing"):
        losses(CURRENT, OLD, None, algorithm, dataclasses.replace(TERMS, engine=engine))
    lent = dataclasses.replace(TERMS, engine=engine, anchor=torch.arange(4) == 2)
    assert math.isfinite(losses(CURRENT, OLD, None, algorithm, lent)[0])


def test_log_probs_of_other_draws_are_refused_by_the_policys_name():
    now, same, other = (LogProbs(doubles(-1.0, -2.0), draw) for draw in (5, 5, 6))
    joined = Policies.joined([now, now], [same, same], [None, None])
    assert joined.current.requires_grad
    assert joined.current.tolist() == joined.old.tolist() == [-1.0, -2.0, -1.0, -2.0]
    assert joined.reference is None
    with pytest.raises(ValueError, match="the old policy's log-probabilities come from other noise draws"):
        Policies.joined([now, now], [same, other], [None, None])
    with pytest.raises(ValueError, match="the reference policy's log-probabilities come from other noise draws"):
        Policies.joined([now], [same], [other])


# --- losses on whole completions ----------------------------------------------------------------------------------

# Two completions of a group and one of another; row 0 has two views of one position and an edit.
WHOLE = make_terms(
    sequence=torch.tensor([0, 0, 0, 1, 2]),
    weight=doubles(0.5, 0.5, 1.0, 2.0, 1.0),
    edit=torch.tensor([False, False, True, False, False]),
    advantage=doubles(1.0, -1.0, -2.0),
    editable=doubles(2.0, 4.0, 1.0),
    position=torch.tensor([0, 0, 1, 3, 0]),
    view=torch.tensor([0, 1, 1, 0, 1]),
    group=torch.tensor([0, 0, 1]),
)
CHANGES = doubles(0.4, -0.2, 0.3, 0.6, 0.1)


def whole(**changes) -> AlgorithmConfig:
    return config(**{"ratio": "sequence", "estimator": "elbo", "gamma": 1.0, "t2t_weight": 0.25, **changes})


def test_gdsd_by_hand():
    loss, _ = losses(CHANGES, 0 * CHANGES, None, whole(loss_type="squared", psi=0.5, epsilon_high=0.2), WHOLE, 3.0)
    # Log ratios 0.05 and (edit) 0.15, 0.3 cut to log 1.2, 0.1; the third is the only one with a group of its own.
    squares = [(0.05 - 0.5) ** 2, 0.25 * (0.15 - 0.5) ** 2, (math.log(1.2) + 0.5) ** 2, (0.1 + 1.0) ** 2]
    assert loss == pytest.approx(sum(squares) / 3, abs=1e-12)


def test_bgpo_bounds_view_by_view_by_hand():
    loss, sums = losses(CHANGES, 0 * CHANGES, None, whole(loss_type="bgpo"), WHOLE, 3.0)
    # Two views, so each one's estimate of the log ratio is twice its part of the sum.
    good = (1 + 2 * 0.5 * 0.4 / 2) + (1 - 2 * 0.5 * 0.2 / 2) + 0.25 * (1 + 2 * 0.3 / 2)
    bad = -1 * math.exp(2 * 2.0 * 0.6 / 4) - 2 * math.exp(2 * 0.1)
    assert loss == pytest.approx(-(good + bad) / 2 / 3, abs=1e-12)
    assert (sums["ratios"], sums["t2t_ratios"]) == (4, 1)


def test_stable_weights_share_a_group_and_keep_edits_apart_by_hand():
    algorithm = whole(loss_type="stable", epsilon=0.8, epsilon_high=0.2)
    loss, _ = losses(CHANGES, 0 * CHANGES, None, algorithm, WHOLE, 3.0)
    first, second = math.exp(0.05), 1.2  # of group 0; exp(0.3) is cut
    mean = (first + second) / 2
    expected = first / mean * 1 * 0.05 + second / mean * -1 * 0.3 + 0.25 * 1 * 0.15 - 2 * 0.1
    assert loss == pytest.approx(-expected / 3, abs=1e-12)


def test_dpo_by_hand():
    loss, _ = losses(CHANGES, 0 * CHANGES, 0 * CHANGES - 0.1, whole(loss_type="dpo", dpo_beta=2.0), WHOLE, 3.0)
    good = (0.5 * 0.5 - 0.5 * 0.1 + 0.25 * 0.4) / 2
    bad = 2 * 0.7 / 4
    assert loss == pytest.approx(math.log(1 + math.exp(-2.0 * (good - bad))) / 3, abs=1e-12)


def test_the_sandwich_by_hand():
    current = logs(0.2, 0.4, 0.5, 0.3, 0.9)
    algorithm = whole(loss_type="sandwich", num_mc=2, bound_beta=2.0, bound_mix=0.25)
    loss, _ = losses(current, current, None, algorithm, WHOLE, 3.0)
    good = 0.5 * math.log(0.2 * 0.4) / 2 + 0.25 * math.log(0.5) / 2
    upper, lower = math.log(2 * 0.3**2) / 2 / 4, 2 * math.log(0.3) / 4
    bad = 0.25 * upper + 0.75 * lower
    alone = 0.25 * math.log(0.9**2) / 2 + 0.75 * math.log(0.9)
    assert loss == pytest.approx(-(good - bad - 2 * alone) / 3, abs=1e-12)


def test_the_upper_bound_is_taken_per_position_over_its_views():
    bad = dataclasses.replace(WHOLE, advantage=doubles(-1.0, 0.0, 0.0))
    current = logs(0.2, 0.4, 0.5, 0.3, 0.9)
    algorithm = whole(loss_type="sandwich", num_mc=2, bound_beta=2.0, bound_mix=1.0)
    loss, _ = losses(current, current, None, algorithm, bad, 3.0)
    value = math.log(0.5 * 0.2**2 + 0.5 * 0.4**2) / 2 / 2 + 0.25 * math.log(0.5) / 2  # the edit has no bound
    assert loss == pytest.approx(value / 3, abs=1e-12)
