"""ELBO views: the masking schemes (docs/math.md eq 1 to 12) against enumeration.

Every unbiased scheme is held to the enumerated ELBO (eq 3), block by block (eq 5); the best distribution of counts
(eq 7) is a matter of variance, measured by `python -m benchmarks estimators`.
"""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from oracles.elbo import any_order, count_average, enumerated, level_integral, mask_table
from oracles.noise_draws import batch_of, plain_row, repeated, within_four_errors
from oracles.tiny_policy import TOKENS, rollouts, tiny_model
from redraft.rl.views import MaskingScheme, elbo_views, make_views
from redraft.rl.views.canvas import CanvasBatch
from redraft.rl.views.elbo import arc, count_distribution, mask_count
from short_names import short

MASK = TOKENS.mask
SCHEMES = {
    "iid exact count": MaskingScheme(2, stratify=False),
    "stratified": MaskingScheme(2),
    "importance-sampled counts": MaskingScheme(2, stratify=False, count_exponent=0.5),
    "tiles": MaskingScheme(2, tiles=True),
    "stratified, importance-sampled, tiled": MaskingScheme(2, count_exponent=0.5, tiles=True),
    "two masks per level": MaskingScheme(2, masks_per_level=2),
    "Bernoulli": MaskingScheme(2, noise="bernoulli", stratify=False),
    "coupled pairs": MaskingScheme(2, noise="coupled"),
    "folded pairs": MaskingScheme(2, noise="folded"),
    "cyclic grid": MaskingScheme(2, noise="cyclic"),
}
"""Every scheme that is unbiased for the ELBO."""
every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
GAUSS = MaskingScheme(3, noise="gauss")


def many_draws(prompt: int, canvas: int, count: int, block_length: int = 4) -> CanvasBatch:
    """One completion under the noise seeds 0 to count - 1."""
    return repeated(batch_of(plain_row(prompt, canvas, 0), block_length=block_length), count)


def subset_values(size: int) -> torch.Tensor:
    """A made-up l_M for every mask of `size` slots, indexed by the mask's bits; no sum structure to exploit."""
    values = torch.randn(2**size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 2
    values[0] = 0.0
    return values


def elbo_of(values: torch.Tensor, size: int) -> float:
    """A table of subset values summed with the coefficients of (eq 3)."""
    sizes = [bin(bits).count("1") for bits in range(2**size)]
    return sum(values[b].item() / (n * math.comb(size, n)) for b, n in enumerate(sizes) if n)


def estimate(masked: torch.Tensor, weight: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Weighted value of masks [..., slots]; a mask's weight is the same at all its slots."""
    bits = (masked * 2 ** torch.arange(masked.shape[-1])).sum(-1)
    scale = weight.amax(-1)
    assert torch.equal(weight, scale[..., None] * masked)
    return scale * values[bits]


@pytest.mark.parametrize("block", [1, 2])
def test_the_four_forms_of_the_elbo_agree(block: int):
    row = plain_row(prompt=6, canvas=6, seed=3)
    tokens = [*row.prompt.token_ids, *row.completion.canvas_ids]
    editable = [i for i in range(4 * block, 4 * block + 4) if i >= 6]
    table = mask_table(tiny_model(), tokens, 4 * block, editable, 4, MASK)
    assert len(table) == 2 ** len(editable) - 1
    exact = enumerated(table)
    assert level_integral(table) == pytest.approx(exact, abs=1e-9)
    assert count_average(table) == pytest.approx(exact, abs=1e-9)
    assert any_order(table) == pytest.approx(exact, abs=1e-9)


def expected(scheme: MaskingScheme, values: torch.Tensor, size: int) -> float:
    """The estimate's exact mean: over the level by its breakpoints, over the order of the slots by enumeration."""
    if scheme.noise == "bernoulli":
        return bernoulli_mean(values, size)
    scheme_edges = count_distribution(torch.tensor([[size]]), size, scheme.count_exponent).cumsum(-1).flatten().tolist()
    pairs = [j / (size + 1) for j in range(size + 2)] + [j / size for j in range(size + 1)]
    edges = sorted({0.0, 1.0, *scheme_edges[:-1], *pairs})
    orders = torch.tensor(list(itertools.permutations(range(size))))[:, None]
    total, sizes = 0.0, torch.full((len(orders), 1), size)
    nodes = (np.polynomial.legendre.leggauss(scheme.num_mc)[0] + 1) / 2
    for view in range(scheme.num_mc):
        for low, high in itertools.pairwise(edges):
            at, chance = ((low + high) / 2, high - low) if scheme.noise != "gauss" else (nodes[view], high - low)
            count, weight = mask_count(torch.full(sizes.shape, at, dtype=torch.float64), sizes, view, scheme)
            masked = arc(orders, torch.full_like(count, view), count, sizes)[:, 0]
            total += chance * estimate(masked, masked * weight, values).mean().item()
    return total


def bernoulli_mean(values: torch.Tensor, size: int) -> float:
    """Bernoulli masks (eq 1) as the scheme draws them: a polynomial in the level, integrated exactly."""
    nodes, node_weights = np.polynomial.legendre.leggauss(size)
    total = 0.0
    for t, node_weight in zip((nodes + 1) / 2, node_weights / 2, strict=True):
        for bits in range(1, 2**size):
            k = bin(bits).count("1")
            total += node_weight * t**k * (1 - t) ** (size - k) * values[bits].item() / t
    return total


@every_scheme
@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_the_mean_over_all_draws_is_the_elbo(scheme: MaskingScheme, size: int):
    values = subset_values(size)
    assert expected(scheme, values, size) == pytest.approx(elbo_of(values, size), abs=1e-9)


@pytest.mark.parametrize("size", [4, 5])
def test_quadrature_in_the_level_is_biased(size: int):
    values = subset_values(size)
    assert abs(expected(GAUSS, values, size) - elbo_of(values, size)) > 0.05


@every_scheme
@pytest.mark.parametrize("num_mc", [2, 4])
def test_random_draws_are_unbiased_for_the_elbo_of_every_block(scheme: MaskingScheme, num_mc: int):
    batch = many_draws(prompt=1, canvas=7, count=20_000)
    views = elbo_views(batch, dataclasses.replace(scheme, num_mc=num_mc), MASK)
    for first, end in [(1, 4), (4, 8)]:
        values = subset_values(end - first)
        found = sum(estimate(v.scored[:, first:end], v.weight[:, first:end], values) for v in views)
        assert within_four_errors(found, elbo_of(values, end - first))


@pytest.mark.parametrize("name", ["iid exact count", "stratified", "tiles", "cyclic grid", "folded pairs"])
def test_weights_of_counted_draws_sum_to_the_editable_tokens_in_every_draw(name: str):
    views = elbo_views(many_draws(prompt=5, canvas=10, count=50), SCHEMES[name], MASK)
    total = sum(view.weight.sum(-1) for view in views)
    torch.testing.assert_close(total, torch.full_like(total, 10.0), rtol=0, atol=1e-12)


def test_weights_of_bernoulli_draws_sum_to_the_editable_tokens_in_expectation():
    (view,) = elbo_views(many_draws(prompt=5, canvas=7, count=20_000), MaskingScheme(1, noise="bernoulli"), MASK)
    assert within_four_errors(view.weight.sum(-1), 7.0)


def test_a_counted_draw_masks_each_number_of_tokens_equally_often_from_one_to_all():
    (view,) = elbo_views(many_draws(prompt=0, canvas=8, count=20_000, block_length=8), MaskingScheme(1), MASK)
    counts = view.scored.sum(-1)
    assert not (counts == 0).any()
    for k in range(1, 9):
        assert within_four_errors((counts == k).double(), 1 / 8)


@pytest.mark.parametrize(
    "scheme", [MaskingScheme(1), MaskingScheme(1, noise="cyclic"), MaskingScheme(1, count_exponent=0.5)]
)
@pytest.mark.parametrize(("level", "expected"), [(0.0, 1), (1.0 - 2.0**-52, 3), (1.0, 3)])
def test_the_ends_of_the_level_range_mask_one_token_and_all_of_them(scheme: MaskingScheme, level: float, expected: int):
    count, _ = mask_count(torch.tensor([[level, level]], dtype=torch.float64), torch.tensor([[3, 0]]), 0, scheme)
    assert count.tolist() == [[expected, 0]]


def test_tiles_cover_every_position_before_any_a_second_time():
    batch = batch_of(*(plain_row(0, 8, seed) for seed in range(100)), block_length=8)
    views = elbo_views(batch, MaskingScheme(4, tiles=True), MASK)
    covered = torch.stack([view.scored for view in views]).sum(0)
    assert (covered.amax(-1) - covered.amin(-1) <= 1).all()
    loose = elbo_views(batch, MaskingScheme(4), MASK)
    covered = torch.stack([view.scored for view in loose]).sum(0)
    assert (covered.amax(-1) - covered.amin(-1) > 1).any()


@pytest.mark.parametrize("noise", ["coupled", "folded"])
def test_the_masks_of_a_pair_are_complements(noise: str):
    batch = batch_of(*(plain_row(3, 9, seed) for seed in range(50)))
    one, other, *_ = elbo_views(batch, MaskingScheme(4, noise=noise), MASK)
    assert torch.equal(one.scored | other.scored, batch.editable)
    assert not (one.scored & other.scored).any()


def test_two_views_of_one_level_mask_equally_many():
    views = elbo_views(many_draws(0, 8, 50), MaskingScheme(4, masks_per_level=2), MASK)
    counts = [view.scored.view(50, 2, 4).sum(-1) for view in views]
    assert torch.equal(counts[0], counts[1])
    assert torch.equal(counts[2], counts[3])
    assert not torch.equal(counts[0], counts[2])
    assert not torch.equal(views[0].scored, views[1].scored)


def test_the_cyclic_grid_visits_every_stratum_over_the_views_of_a_block():
    views = elbo_views(many_draws(0, 8, 200), MaskingScheme(4, noise="cyclic"), MASK)
    counts = torch.stack([view.scored.view(200, 2, 4).sum(-1) for view in views]).sort(0).values
    assert (counts == torch.tensor([1, 2, 3, 4])[:, None, None]).all()


def test_stratified_levels_visit_every_stratum_of_every_block_once():
    four = torch.stack([v.scored for v in elbo_views(many_draws(2, 10, 200), MaskingScheme(4), MASK)])
    counts = four.view(4, 200, 3, 4).sum(-1).sort(0).values
    # Two editable slots in the first block: strata 1 and 2 mask one, strata 3 and 4 mask both.
    assert (counts[:, :, 0] == torch.tensor([1, 1, 2, 2])[:, None]).all()
    assert (counts[:, :, 1:] == torch.tensor([1, 2, 3, 4])[:, None, None]).all()


def test_the_order_of_strata_is_random_so_that_no_view_has_a_level_of_its_own():
    first = elbo_views(many_draws(0, 4, 20_000), MaskingScheme(4), MASK)[0].scored.sum(-1)
    for k in range(1, 5):
        assert within_four_errors((first == k).double(), 0.25)


def test_blocks_and_views_of_one_completion_are_noised_independently():
    views = elbo_views(many_draws(0, 8, 20_000), MaskingScheme(2, stratify=False), MASK)
    counts = torch.stack([v.scored.view(-1, 2, 4).sum(-1) for v in views]).flatten(2).double().permute(0, 2, 1)
    correlation = torch.corrcoef(counts.reshape(4, -1)) - torch.eye(4)
    assert correlation.abs().max() < 4 / math.sqrt(20_000)


@every_scheme
def test_prompt_and_padding_are_never_masked_and_weigh_exactly_zero(scheme: MaskingScheme):
    batch = batch_of(plain_row(9, 3, 1), plain_row(0, 20, 2), plain_row(3, 5, 3))
    for view in elbo_views(batch, scheme, MASK):
        assert not (view.scored & ~batch.editable).any()
        assert torch.equal(view.weight > 0, view.scored)
        assert torch.equal(view.noisy == MASK, view.scored)
        assert torch.equal(view.noisy[~view.scored], batch.tokens[~view.scored])
        assert torch.equal(view.target, batch.tokens)
        assert not view.edit.any()
        assert view.rollout_log_prob is None


ELBO = {"estimator": "elbo", "ratio": "sequence"}
ESTIMATORS = [
    *({**ELBO, "noise": noise} for noise in ("exact_count", "bernoulli", "cyclic", "gauss", "coupled", "folded")),
    {**ELBO, "tiles": True, "count_exponent": 0.5, "t2t_views": "recorded"},
    {"estimator": "trajectory_sampled"},
    {"estimator": "trajectory_sampled", "step_sampling": "surprisal", "anchor": 0.1},
    {"estimator": "trajectory"},
    {"estimator": "trajectory", "shrink": 2},
    {"estimator": "trajectory", "merge": 2},
    {"estimator": "autoregressive"},
    {"estimator": "mean_field", "num_mc": 2, "prompt_mask_ratio": 0.5},
    {"estimator": "coupled", "num_mc": 3, "ratio": "position"},
    {"estimator": "random_mask"},
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_draws_do_not_depend_on_the_batch_its_padding_or_its_order(estimator: dict):
    rows = rollouts(tiny_model(), [0, 5, 9, 2])
    config = short(**estimator)
    together = make_views(batch_of(*rows), config, MASK, score_edits=True)
    reversed_rows = make_views(batch_of(*rows[::-1]), config, MASK, score_edits=True)
    for index, row in enumerate(rows):
        size = len(row.prompt.token_ids) + len(row.completion.canvas_ids)
        alone = make_views(batch_of(row), config, MASK, score_edits=True)
        for number, view in enumerate(together):
            for field in ("noisy", "scored", "weight", "edit", "rollout_log_prob", "acted", "context"):
                here = getattr(view, field)
                if here is None:
                    continue
                there = getattr(reversed_rows[number], field)[len(rows) - 1 - index]
                found = [there[:size]]
                if number < len(alone):
                    found.append(getattr(alone[number], field)[0, :size])
                else:
                    assert not view.scored[index].any()
                for other in found:  # nan: what the engine drew in a later state than the one shown
                    torch.testing.assert_close(here[index, :size], other, rtol=0, atol=0, equal_nan=True)


@every_scheme
def test_equal_seeds_share_their_draws_and_other_seeds_do_not(scheme: MaskingScheme):
    row = plain_row(0, 32, 0)
    batch = batch_of(row, row, dataclasses.replace(row, noise_seed=1))
    first, second = elbo_views(batch, scheme, MASK), elbo_views(batch, scheme, MASK)
    assert all(torch.equal(a.scored, b.scored) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(view.scored[0], view.scored[1]) for view in first)
    assert not any(torch.equal(view.scored[0], view.scored[2]) for view in first)
    assert not torch.equal(first[0].scored[0], first[1].scored[0])


def test_the_global_generator_plays_no_part():
    batch = batch_of(plain_row(0, 16, 0))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = elbo_views(batch, MaskingScheme(2), MASK)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first[1].scored, elbo_views(batch, MaskingScheme(2), MASK)[1].scored)
