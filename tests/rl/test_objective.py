"""The objectives by hand: units (docs/math.md eq 16 to 18), their shares (eq 42), clip (eq 20), k2 (eq 27).

Normalisers, ranges, penalties and whole-completion losses are in test_objective_pieces.py; all of them are held against
plain loops in test_learner.py.
"""

import math

import pytest
import torch

from redraft.rl.objective.policy_loss import policy_loss
from redraft.rl.objective.terms import Normaliser, Policies
from redraft.rl.objective.units import make_units
from short_names import short
from tests.hand_terms import TERMS, config, doubles, logs, losses, make_terms


@pytest.mark.parametrize(
    ("gamma", "expected"), [(0.0, [1.0, 0.8, -0.4]), (0.5, [0.5, 0.4, -0.4 / 3]), (1.0, [0.25, 0.2, -0.4 / 9])]
)
def test_the_sequence_ratio_is_a_weighted_sum_over_editable_tokens_to_the_gamma(gamma, expected):
    difference = doubles(0.1, -0.2, 0.3, 0.2)
    units = make_units(TERMS, config(ratio="sequence", gamma=gamma).loss, Normaliser(5.0, 10, 50.0))
    assert units.sum(difference).tolist() == pytest.approx(expected, abs=1e-12)
    assert list(zip(units.sequence.tolist(), units.edit.tolist(), strict=True)) == [(0, False), (0, True), (1, False)]


def test_the_token_loss_is_divided_by_rows_times_longest_completion():
    # Ratios 1.1, 0.5, 1.5, 0.9: inside; clipped at 0.8; clipped at 1.28; T2T, inside.
    current, old = logs(0.11, 0.1, 0.3, 0.18), logs(0.1, 0.2, 0.2, 0.2)
    surrogates = [1 * 1.1 * 1.0, 2 * 0.8 * -2.0, 3 * 1.28 * 1.0, 4 * 0.9 * 1.0]
    loss, sums = losses(current, old, None, config())
    assert loss == pytest.approx(-sum(surrogates) / (5 * 10), abs=1e-12)
    assert (sums["ratios"], sums["t2t_ratios"]) == (3, 1)
    assert (sums["clip_fraction"], sums["t2t_clip_fraction"]) == (2, 0)
    assert sums["log_ratio_abs"] == pytest.approx(sum(abs(math.log(r)) for r in (1.1, 0.5, 1.5)), abs=1e-12)
    assert sums["t2t_log_ratio_abs"] == pytest.approx(abs(math.log(0.9)), abs=1e-12)
    assert "kl" not in sums


def test_the_t2t_weight_scales_edit_terms_only():
    current, old = logs(0.11, 0.1, 0.3, 0.18), logs(0.1, 0.2, 0.2, 0.2)
    without_edits = (1 * 1.1 - 2 * 0.8 * 2.0 + 3 * 1.28) / 50
    for weight in (0.0, 0.25, 1.0):
        loss, _ = losses(current, old, None, config(t2t_weight=weight))
        assert loss == pytest.approx(-without_edits - weight * 4 * 0.9 / 50, abs=1e-12)


def test_the_token_kl_is_the_weighted_k2_with_the_same_constants():
    current, reference = logs(0.1, 0.2, 0.3, 0.4), logs(0.2, 0.1, 0.3, 0.1)
    k2s = [1 * 0.5 * math.log(2) ** 2, 2 * 0.5 * math.log(2) ** 2, 0.0, 0.5 * 4 * 0.5 * math.log(4) ** 2]
    algorithm = config(beta=0.1, t2t_weight=0.5)
    with_kl, sums = losses(current, current, reference, algorithm)
    without, _ = losses(current, current, None, algorithm)
    assert with_kl - without == pytest.approx(0.1 * sum(k2s) / 50, abs=1e-12)
    assert sums["kl"] == pytest.approx(sum(k2s) / 50, abs=1e-12)


def test_the_sequence_loss_is_a_mean_over_rows_and_its_kl_a_k2_of_sequence_ratios():
    current, old, reference = doubles(0.1, -0.2, 0.3, 0.2), doubles(0, 0, 0, 0), doubles(0, 0, 0, 0.4)
    # gamma 1: log ratios (0.1 + 0.9) / 4 and 0.8 / 4 (T2T, of weight 0.5 in the loss) and -0.4 / 9; row 2 has no ratio.
    surrogates = [math.exp(0.25) * 1.0, 0.5 * math.exp(0.2) * 1.0, -2.0 * math.exp(-0.4 / 9)]
    to_reference = [(1.0, (0.1 + 0.9) / 4), (0.5, (0.8 - 1.6) / 4), (1.0, -0.4 / 9)]
    penalty = sum(share * 0.5 * x**2 for share, x in to_reference)
    settings = {"ratio": "sequence", "gamma": 1.0, "t2t_weight": 0.5, "beta": 0.3, "epsilon_high": 0.3}
    algorithm = config(**settings, t2t_epsilon_high=0.25)
    loss, sums = losses(current, old, reference, algorithm)
    assert loss == pytest.approx(-sum(surrogates) / 5 + 0.3 * penalty / 5, abs=1e-12)
    assert (sums["ratios"], sums["t2t_ratios"]) == (2, 1)
    assert (sums["clip_fraction"], sums["t2t_clip_fraction"]) == (0, 0)
    assert sums["kl"] == pytest.approx(penalty / 5, abs=1e-12)
    tighter = config(**settings, t2t_epsilon_high=0.1)
    clipped, sums = losses(current, old, reference, tighter)
    assert clipped - loss == pytest.approx(0.5 * (math.exp(0.2) - 1.1) / 5, abs=1e-12)
    assert (sums["clip_fraction"], sums["t2t_clip_fraction"]) == (0, 1)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "counted"),
    [(0.5, 1.0, 1), (0.5, -1.0, 0), (-0.5, 1.0, 0), (-0.5, -1.0, 1), (-0.5, 0.0, 0), (0.0, 1.0, 0), (0.24, 1.0, 0)],
)
def test_a_ratio_counts_as_clipped_only_where_the_clip_stops_its_gradient(log_ratio, advantage, counted):
    terms = make_terms(torch.tensor([0]), doubles(1.0), torch.tensor([False]), doubles(advantage), doubles(1.0))
    _, sums = losses(doubles(log_ratio), doubles(0.0), None, config(), terms)
    assert sums["clip_fraction"] == counted


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_before_the_first_update_the_gradient_is_advantage_times_weight(ratio):
    current = logs(0.1, 0.2, 0.3, 0.4).requires_grad_()
    policies = Policies(current, current.detach())
    loss, _ = policy_loss(policies, TERMS, config(ratio=ratio, gamma=0.0), Normaliser(5.0, 10, 50.0))
    (gradient,) = torch.autograd.grad(loss, current)
    scale = 50 if ratio == "token" else 5
    assert gradient.tolist() == pytest.approx([-1.0 / scale, 4.0 / scale, -3.0 / scale, -4.0 / scale], abs=1e-12)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_the_losses_of_a_split_batch_sum_to_the_loss_of_the_whole(ratio):
    source = torch.Generator().manual_seed(0)

    def random(size: int) -> torch.Tensor:
        return torch.randn(size, dtype=torch.float64, generator=source)

    row = torch.arange(6).repeat_interleave(5)
    whole = make_terms(row, random(30).abs(), random(30) > 0, random(6), random(6).abs() * 5 + 1)
    current, old, reference = random(30), random(30), random(30)
    algorithm = config(ratio=ratio, beta=0.2, t2t_weight=0.3, gamma=0.5)
    loss, sums = losses(current, old, reference, algorithm, whole, num_sequences=6.0)
    parts = []
    for start, end in [(0, 1), (1, 4), (4, 6)]:
        mine = (row >= start) & (row < end)
        some = make_terms(row[mine] - start, whole.weight[mine], whole.edit[mine], whole.advantage[start:end],
                          whole.editable[start:end])  # fmt: skip
        parts.append(losses(current[mine], old[mine], reference[mine], algorithm, some, num_sequences=6.0))
    assert sum(part for part, _ in parts) == pytest.approx(loss, abs=1e-12)
    for name, value in sums.items():
        assert sum(part[name] for _, part in parts) == pytest.approx(value, abs=1e-12)


def test_a_token_ratio_of_an_elbo_is_refused():
    with pytest.raises(ValueError, match="no token ratio"):
        short(estimator="elbo", ratio="token")


def test_bounds_view_by_view_are_refused_where_completions_have_different_numbers_of_views():
    with pytest.raises(ValueError, match="equally many views"):
        short(estimator="trajectory_sampled", ratio="sequence", loss_type="bgpo")
