"""Every function of `rl.objective.losses` on numbers that can be checked by hand, so that every branch fires."""

import math

import pytest
import torch

from redraft.rl.objective.losses import (
    HEADROOM,
    bounded_exp,
    cispo_surrogate,
    clamped_ratio,
    clipped_surrogate,
    clips_gradient,
    k2,
    k3,
    linear_bound,
    preference_pairs,
    preference_surrogate,
    squared_surrogate,
    stable_surrogate,
    upper_bound,
)


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def logs(*ratios: float) -> torch.Tensor:
    return doubles(*ratios).log()


def with_slope(surrogate, log_ratio: torch.Tensor) -> tuple[list[float], list[float]]:
    """Values, and the slope of their sum by the log-ratios."""
    log_ratio = log_ratio.clone().requires_grad_()
    values = surrogate(log_ratio)
    (slope,) = torch.autograd.grad(values.sum(), log_ratio)
    return values.tolist(), slope.tolist()


# --- PPO's clip ---------------------------------------------------------------------------------------------------

CLIP_CASES = {
    # ratio, advantage -> surrogate, its derivative by the log-ratio; clip range [0.8, 1.28]
    "inside, good": (1.1, 2.0, 2.2, 2.2),
    "inside, bad": (1.1, -3.0, -3.3, -3.3),
    "exactly one, good": (1.0, 2.0, 2.0, 2.0),
    "exactly one, bad": (1.0, -3.0, -3.0, -3.0),
    "above, good: clipped": (1.5, 2.0, 2.56, 0.0),
    "above, bad: pessimistic, not clipped": (1.5, -3.0, -4.5, -4.5),
    "below, good: pessimistic, not clipped": (0.5, 2.0, 1.0, 1.0),
    "below, bad: clipped": (0.5, -3.0, -2.4, 0.0),
    "between the two bounds, good: clip-higher leaves it": (1.25, 2.0, 2.5, 2.5),
    "below one by more than the low bound allows, bad": (0.75, -3.0, -2.4, 0.0),
    "no advantage": (1.5, 0.0, 0.0, 0.0),
}


@pytest.mark.parametrize(("ratio", "advantage", "value", "slope"), CLIP_CASES.values(), ids=CLIP_CASES.keys())
def test_the_clipped_surrogate_follows_every_branch(ratio, advantage, value, slope):
    values, slopes = with_slope(lambda d: clipped_surrogate(d, doubles(advantage), 0.2, 0.28), logs(ratio))
    assert values == pytest.approx([value], abs=1e-12)
    assert slopes == pytest.approx([slope], abs=1e-12)


@pytest.mark.parametrize(("ratio", "advantage", "value", "slope"), CLIP_CASES.values(), ids=CLIP_CASES.keys())
def test_a_ratio_is_called_clipped_where_its_advantage_is_lost_to_the_gradient(ratio, advantage, value, slope):
    found = clips_gradient(logs(ratio), doubles(advantage), 0.2, 0.28)
    assert found.tolist() == [advantage != 0 and slope == 0]


def test_every_ratio_has_its_own_range_where_ranges_are_given_per_ratio():
    low, high = doubles(0.2, 0.5, 0.2), doubles(0.1, 0.1, 1.0)
    assert clamped_ratio(logs(0.6, 0.6, 1.5), low, high).tolist() == pytest.approx([0.8, 0.6, 1.5], abs=1e-12)
    found = clips_gradient(logs(0.6, 0.6, 1.5), doubles(-1.0, -1.0, 1.0), low, high)
    assert found.tolist() == [True, False, False]


@pytest.mark.parametrize("low", [1.0, 3.0])
def test_a_low_bound_of_one_or_more_cuts_no_ratio(low):
    assert clamped_ratio(logs(1e-6, 0.5), low, 0.2).tolist() == pytest.approx([1e-6, 0.5], rel=1e-12)
    assert not clips_gradient(logs(1e-6, 0.5), doubles(-1.0, -1.0), low, 0.2).any()


# --- ratios beyond all bounds -------------------------------------------------------------------------------------


GROUP = torch.zeros(1, dtype=torch.int64)
EXPONENTIATING = {
    # surrogate or penalty, its slope far above one and far below, for the advantages 2 and -2
    "clip": (lambda d, a: clipped_surrogate(d, a, 0.2, 0.28), {2.0: (0.0, "0"), -2.0: ("-large", 0.0)}),
    "CISPO": (lambda d, a: cispo_surrogate(d, a, 0.28), {2.0: (2.56, 0.0), -2.0: (-2.56, 0.0)}),
    "stable": (lambda d, a: stable_surrogate(d, a, 0.2, 0.28, GROUP), {2.0: (2.0, 2.0), -2.0: (-2.0, -2.0)}),
    "BGPO": (linear_bound, {2.0: (2.0, 2.0), -2.0: ("-large", "0")}),
    "squared": (lambda d, a: squared_surrogate(d, a, 1.0, 0.2, 0.28), {2.0: (0.0, 0.0), -2.0: (0.0, 0.0)}),
    "k3": (lambda d, a: k3(d) + 0 * a, {2.0: (1.0, "-large"), -2.0: (1.0, "-large")}),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [720.0, 800.0, 5000.0])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize(("surrogate", "limits"), EXPONENTIATING.values(), ids=EXPONENTIATING.keys())
def test_ratios_that_no_number_holds_have_a_finite_value_and_the_slope_of_their_side(
    surrogate, limits, advantage, size, dtype
):
    for sign, limit in zip((1, -1), limits[advantage], strict=True):
        change = torch.tensor([sign * size], dtype=dtype)
        (value,), (slope,) = with_slope(lambda d: surrogate(d, torch.tensor([advantage], dtype=dtype)), change)
        assert math.isfinite(value)
        if limit == "-large":
            assert -math.inf < slope < -1e25
        else:
            assert slope == pytest.approx(float(limit), abs=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_values_and_slopes_are_those_of_the_plain_formulas_wherever_these_are_finite(sign):
    change = torch.linspace(-689, 689, 2001, dtype=torch.float64)
    advantage, zero = torch.full_like(change, 1.5 * sign), torch.zeros_like(change)

    def plain_clip(d):
        return torch.minimum(d.exp() * advantage, d.exp().clamp(0.8, 1.28) * advantage)

    pairs = [
        (lambda d: clipped_surrogate(d, advantage, 0.2, 0.28), plain_clip),
        (lambda d: linear_bound(d, advantage), lambda d: advantage * torch.where(zero < advantage, 1 + d, d.exp())),
        (k3, lambda d: (-d).exp() - 1 + d),
        (bounded_exp, torch.exp),
        (lambda d: cispo_surrogate(d, advantage, 0.28), lambda d: d.detach().exp().clamp(1e-12, 1.28) * advantage * d),
    ]
    for ours, plain in pairs:
        for found, expected in zip(with_slope(ours, change), with_slope(plain, change), strict=True):
            assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_where_a_ratio_leaves_the_range_of_its_type_it_goes_on_along_its_tangent():
    edge = math.log(torch.finfo(torch.float64).max) - HEADROOM
    values, slopes = with_slope(bounded_exp, doubles(edge - 1, edge, edge + 1, edge + 3))
    assert values[1:] == pytest.approx([math.exp(edge), 2 * math.exp(edge), 4 * math.exp(edge)], rel=1e-9)
    assert slopes == pytest.approx([math.exp(edge - 1), *[math.exp(edge)] * 3], rel=1e-9)


# --- CISPO and StableDRL ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"),
    [(1.1, 2.0, 1.1), (1.1, -2.0, 1.1), (0.1, 2.0, 0.1), (0.1, -2.0, 0.1), (1.5, 2.0, 1.28), (1.5, -2.0, 1.28)],
)
def test_cispo_caps_the_weight_from_above_only_and_keeps_the_gradient(ratio, advantage, weight):
    values, slopes = with_slope(lambda d: cispo_surrogate(d, doubles(advantage), 0.28), logs(ratio))
    assert values == pytest.approx([weight * advantage * math.log(ratio)], abs=1e-12)
    assert slopes == pytest.approx([weight * advantage], abs=1e-12)


def test_stable_weights_are_clipped_and_divided_by_their_groups_mean():
    ratios, advantages, groups = logs(0.1, 1.0, 9.0, 2.0), doubles(1.0, 1.0, -1.0, 3.0), torch.tensor([5, 5, 5, 2])
    values, slopes = with_slope(lambda d: stable_surrogate(d, advantages, 0.5, 2.0, groups), ratios)
    # Clipped to [0.5, 3]: 0.5, 1, 3 with mean 1.5; alone in its group a weight is 1, whatever the ratio.
    weights = [0.5 / 1.5, 1 / 1.5, 3 / 1.5, 1.0]
    assert slopes == pytest.approx([weights[0], weights[1], -weights[2], 3.0], abs=1e-12)
    logged = ratios.tolist()
    assert values == pytest.approx([w * a * d for w, a, d in zip(weights, advantages.tolist(), logged, strict=True)])


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("noise", [-8.0, 8.0])
def test_stable_weights_are_bounded_on_both_sides_and_ppos_slope_is_not(advantage, noise):
    # Seven quiet ratios of one group and a very noisy one.
    log_ratio, advantages = doubles(*[0.0] * 7, noise), torch.full((8,), advantage, dtype=torch.float64)
    _, stable = with_slope(
        lambda d: stable_surrogate(d, advantages, 0.8, 4.0, torch.zeros(8, dtype=torch.int64)), log_ratio
    )
    assert all(0.2 / 5 <= abs(slope) <= 5 / 0.2 for slope in stable)
    assert abs(stable[-1]) == pytest.approx(0.2 / (7.2 / 8) if noise < 0 else 5 / (12 / 8), abs=1e-12)
    _, clipped = with_slope(lambda d: clipped_surrogate(d, advantages, 0.8, 4.0), log_ratio)
    open_side = (advantage < 0) == (noise > 0)
    assert abs(clipped[-1]) == pytest.approx(math.exp(noise) if open_side else 0.0, rel=1e-12)


# --- BGPO ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("advantage", [2.0, -3.0])
def test_the_linear_bound_touches_the_ratio_at_one_in_value_and_slope(advantage):
    values, slopes = with_slope(lambda d: linear_bound(d, doubles(advantage)), doubles(0.0))
    assert (values, slopes) == ([advantage], [advantage])


def test_the_linear_bound_by_hand():
    values, slopes = with_slope(lambda d: linear_bound(d, doubles(2.0, -2.0, 0.0)), doubles(0.5, 0.5, 0.5))
    assert values == pytest.approx([3.0, -2 * math.exp(0.5), 0.0], abs=1e-12)
    assert slopes == pytest.approx([2.0, -2 * math.exp(0.5), 0.0], abs=1e-12)


def test_the_mean_of_linear_bounds_is_below_the_surrogate_of_the_mean_log_ratio():
    source = torch.Generator().manual_seed(0)
    log_ratio = 2 * torch.randn(2000, 4, dtype=torch.float64, generator=source)
    advantage = torch.randn(2000, dtype=torch.float64, generator=source)
    bound = linear_bound(log_ratio.flatten(), advantage.repeat_interleave(4)).view(2000, 4).mean(1)
    exact = advantage * log_ratio.mean(1).exp()
    assert (bound <= exact + 1e-12).all()
    assert (bound[advantage > 0] < exact[advantage > 0] - 1e-3).float().mean() > 0.5
    assert (bound[advantage < 0] < exact[advantage < 0] - 1e-3).float().mean() > 0.5


# --- GDSD ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log_ratio", "value", "slope"),
    [
        (0.1, -((0.1 - 0.5) ** 2), -2 * (0.1 - 0.5)),  # inside: drawn to psi A = 0.5
        (-3.0, -((math.log(0.5) - 0.5) ** 2), 0.0),  # at the lower end
        (3.0, -((math.log(2.0) - 0.5) ** 2), 0.0),  # at the upper end
    ],
)
def test_the_squared_surrogate_draws_the_log_ratio_to_psi_times_the_advantage_inside_its_range(log_ratio, value, slope):
    found = with_slope(lambda d: squared_surrogate(d, doubles(0.25), 2.0, 0.5, 1.0), doubles(log_ratio))
    assert found[0] == pytest.approx([value], abs=1e-12)
    assert found[1] == pytest.approx([slope], abs=1e-12)


# --- preferences --------------------------------------------------------------------------------------------------


def test_every_group_whose_advantages_differ_gives_its_best_and_its_worst_row():
    advantage = doubles(0.0, 1.0, -1.0, 2.0, 0.5, 2.0, 7.0)
    group = torch.tensor([9, 9, 4, 9, 4, 9, 1])  # groups 4, 9 and a row alone
    assert preference_pairs(advantage, group).tolist() == [[4, 2], [3, 0]]


def test_pairs_of_many_groups_are_those_of_a_loop_over_them():
    source = torch.Generator().manual_seed(1)
    advantage = torch.randint(-2, 3, (300,), generator=source).double()
    group = torch.randint(0, 60, (300,), generator=source)
    expected = []
    for name in sorted(set(group.tolist())):
        rows = [row for row in range(300) if group[row] == name]
        best = max(rows, key=lambda row: (advantage[row].item(), -row))
        worst = min(rows, key=lambda row: (advantage[row].item(), row))
        expected += [[best, worst]] if advantage[best] > advantage[worst] else []
    assert preference_pairs(advantage, group).tolist() == expected
    assert len(expected) > 40
    assert preference_pairs(advantage[:0], group[:0]).shape == (0, 2)


def test_of_equal_advantages_the_first_row_is_taken():
    assert preference_pairs(doubles(1.0, 1.0, 0.0, 0.0), torch.zeros(4, dtype=torch.int64)).tolist() == [[0, 2]]


def test_a_group_of_equal_advantages_prefers_nothing():
    pairs = preference_pairs(doubles(0.5, 0.5, 0.5), torch.tensor([0, 0, 0]))
    assert pairs.shape == (0, 2)
    assert preference_surrogate(doubles(1.0, 2.0, 3.0), pairs, 0.1).tolist() == []


def test_the_preference_surrogate_is_the_log_sigmoid_of_the_scaled_difference_of_margins():
    pairs = torch.tensor([[0, 1], [2, 1]])
    values, slopes = with_slope(lambda m: preference_surrogate(m, pairs, 0.5), doubles(1.0, -1.0, -1.0))
    assert values == pytest.approx([-math.log(1 + math.exp(-1.0)), -math.log(2)], abs=1e-12)
    first, second = 0.5 / (1 + math.exp(1.0)), 0.5 / 2
    assert slopes == pytest.approx([first, -first - second, second], abs=1e-12)


# --- SPG's upper bound --------------------------------------------------------------------------------------------


def test_the_upper_bound_is_the_logarithm_of_the_weighted_mean_of_powers():
    log_prob, weight = logs(0.2, 0.5, 0.9), doubles(0.5, 0.25, 0.75)
    slot = torch.tensor([1, 0, 1])
    found = upper_bound(log_prob, weight, slot, 2, 1.5)
    expected = [math.log(0.25 * 0.5**1.5) / 1.5, math.log(0.5 * 0.2**1.5 + 0.75 * 0.9**1.5) / 1.5]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_the_slope_of_the_upper_bound_is_each_views_share():
    weight, slot = doubles(0.5, 0.5, 1.0), torch.tensor([0, 0, 1])
    _, slopes = with_slope(lambda value: upper_bound(value, weight, slot, 2, 2.0), logs(0.1, 0.3, 0.7))
    assert slopes == pytest.approx([0.01 / 0.10, 0.09 / 0.10, 1.0], abs=1e-12)


@pytest.mark.parametrize("beta", [1.0, 1.5, 4.0])
def test_one_view_of_weight_one_is_the_elbo_term_itself(beta):
    log_prob = logs(0.3, 0.01)
    found = upper_bound(log_prob, doubles(1.0, 1.0), torch.tensor([0, 1]), 2, beta)
    torch.testing.assert_close(found, log_prob, rtol=0, atol=1e-12)


def test_a_larger_order_bounds_from_further_above():
    # The power mean of order beta grows with beta from the mean to the maximum; the ELBO's term is the mean of logs.
    log_prob, weight = logs(0.1, 0.9), doubles(0.5, 0.5)
    bounds = [upper_bound(log_prob, weight, torch.tensor([0, 0]), 1, beta).item() for beta in (1.0, 2.0, 8.0, 200.0)]
    assert bounds == sorted(bounds)
    assert log_prob.mean().item() < bounds[0] == pytest.approx(math.log(0.5), abs=1e-12)
    assert bounds[-1] == pytest.approx(math.log(0.9), abs=1e-2)


def test_probabilities_that_underflow_as_powers_stay_finite():
    log_prob = doubles(-2000.0, -2001.0)
    found = upper_bound(log_prob, doubles(0.5, 0.5), torch.tensor([0, 0]), 1, 1.5).item()
    assert found == pytest.approx(-2000 + math.log(0.5 + 0.5 * math.exp(-1.5)) / 1.5, abs=1e-9)


@pytest.mark.parametrize("apart", [800.0, 5000.0])
def test_the_slope_of_the_upper_bound_is_finite_however_far_views_are_apart(apart):
    slot = torch.tensor([0, 0, 1])
    values, slopes = with_slope(
        lambda value: upper_bound(value, doubles(0.5, 0.5, 1.0), slot, 2, 1.5), doubles(-1.0, -1.0 - apart, -apart)
    )
    assert values == pytest.approx([-1 + math.log(0.5) / 1.5, -apart], abs=1e-9)
    assert slopes == [1.0, 0.0, 1.0]


def test_few_views_underestimate_the_upper_bound_and_more_do_so_less():
    # Views have log-probability log 0.05 or log 0.95, equally likely: the bound is known, and so is the
    # distribution of every sum.
    beta, low, high = 1.5, 0.05, 0.95
    exact = math.log(0.5 * low**beta + 0.5 * high**beta) / beta
    bias = []
    for views in (1, 2, 4, 8, 16):
        mean = 0.0
        for many in range(views + 1):  # of the views, this many are high
            log_prob = logs(*[high] * many, *[low] * (views - many))
            weight = torch.full((views,), 1 / views, dtype=torch.float64)
            bound = upper_bound(log_prob, weight, torch.zeros(views, dtype=torch.int64), 1, beta)
            mean += math.comb(views, many) / 2**views * bound.item()
        bias.append(mean - exact)
    assert all(value < 0 for value in bias)
    assert bias == sorted(bias)
    assert 1.5 < bias[-2] / bias[-1] < 3  # O(1 / views)


# --- KL -----------------------------------------------------------------------------------------------------------


def test_k2_is_half_the_squared_log_ratio_and_its_slope_is_the_log_ratio():
    values, slopes = with_slope(k2, doubles(-2.0, 0.0, 3.0))
    assert values == [2.0, 0.0, 4.5]
    assert slopes == [-2.0, 0.0, 3.0]


def test_the_k2_slope_on_own_draws_is_the_gradient_of_the_reverse_kl():
    logits = doubles(0.3, -1.0, 0.8).requires_grad_()
    reference = doubles(1.0, 0.2, -0.5).log_softmax(-1)
    log_prob = logits.log_softmax(-1)
    kl = (log_prob.exp() * (log_prob - reference)).sum()
    (exact,) = torch.autograd.grad(kl, logits, retain_graph=True)
    (found,) = torch.autograd.grad((log_prob.detach().exp() * k2(log_prob - reference)).sum(), logits)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)


def test_k3_by_hand():
    values, slopes = with_slope(k3, logs(0.5, 1.0, 2.0))
    assert values == pytest.approx([2 - 1 - math.log(2), 0.0, 0.5 - 1 + math.log(2)], abs=1e-12)
    assert slopes == pytest.approx([-1.0, 0.0, 0.5], abs=1e-12)


def test_k3_is_not_negative_and_its_mean_over_own_draws_is_the_reverse_kl():
    log_prob, reference = doubles(0.3, -1.0, 0.8).log_softmax(-1), doubles(1.0, 0.2, -0.5).log_softmax(-1)
    assert (k3(log_prob - reference) > 0).all()
    kl = (log_prob.exp() * (log_prob - reference)).sum().item()
    assert (log_prob.exp() * k3(log_prob - reference)).sum().item() == pytest.approx(kl, abs=1e-12)
