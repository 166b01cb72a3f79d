"""Scored views: the draws of the ELBO estimators against enumeration, and the supervised mixture."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from oracles.elbo import any_order, count_average, enumerated, level_integral, mask_table
from oracles.noise_draws import batch_of, plain_row, repeated, within_four_errors
from oracles.tiny_policy import TOKENS, rollouts, tiny_model
from rl.batch import CanvasBatch
from rl.config import AlgorithmConfig
from rl.noising import elbo_views, make_views, mask_blocks, supervised_view

MASK = TOKENS.mask
NOISES = ["exact_count", "stratified", "bernoulli"]


def many_draws(prompt: int, canvas: int, count: int, block_length: int = 4) -> CanvasBatch:
    """One completion under the noise seeds 0 to count - 1."""
    return repeated(batch_of(plain_row(prompt, canvas, 0), block_length=block_length), count)


def subset_values(size: int) -> torch.Tensor:
    """A made-up l_M for every mask of `size` slots, indexed by the mask's bits; no sum structure to exploit."""
    values = torch.randn(2**size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 2
    values[0] = 0.0
    return values


def elbo_of(values: torch.Tensor, size: int) -> float:
    """E3 on a table of subset values."""
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


@pytest.mark.parametrize(("slots", "size"), [(4, 4), (4, 3), (4, 1), (5, 5)])
@pytest.mark.parametrize("grid", [1, 3])
def test_all_outcomes_of_a_counted_draw_average_to_the_elbo(slots: int, size: int, grid: int):
    # Every level k / n (`grid` of them, as strata make them) with every ranking of the slots: the whole draw space.
    rankings = [[0.5] * (slots - size) + [0.1 * r for r in order] for order in itertools.permutations(range(size))]
    levels = [(i + 0.5) / (size * grid) for i in range(size * grid)]
    rank = torch.tensor([ranking for ranking in rankings for _ in levels], dtype=torch.float64)[:, None]
    level = torch.tensor(levels * len(rankings), dtype=torch.float64)[:, None]
    blocks = torch.tensor([False] * (slots - size) + [True] * size).expand_as(rank)
    masked, weight = mask_blocks(blocks, level, rank, "exact_count")
    values = subset_values(size)
    found = estimate(masked[:, 0, slots - size :], weight[:, 0, slots - size :], values)
    assert found.mean().item() == pytest.approx(elbo_of(values, size), abs=1e-9)
    assert not masked[..., : slots - size].any()


@pytest.mark.parametrize("size", [1, 3, 4])
def test_all_outcomes_of_a_bernoulli_draw_average_to_the_elbo(size: int):
    nodes, node_weights = np.polynomial.legendre.leggauss(size)
    values, total = subset_values(size), 0.0
    for t, node_weight in zip((nodes + 1) / 2, node_weights / 2, strict=True):
        for pattern in itertools.product([True, False], repeat=size):
            rank = torch.tensor([[[t / 2 if masked else (1 + t) / 2 for masked in pattern]]], dtype=torch.float64)
            level = torch.tensor([[t]], dtype=torch.float64)
            masked, weight = mask_blocks(torch.ones(1, 1, size, dtype=torch.bool), level, rank, "bernoulli")
            assert masked[0, 0].tolist() == list(pattern)
            chance = t ** sum(pattern) * (1 - t) ** (size - sum(pattern))
            total += node_weight * chance * estimate(masked, weight, values).item()
    assert total == pytest.approx(elbo_of(values, size), abs=1e-9)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("num_mc", [1, 3])
def test_random_draws_are_unbiased_for_the_elbo_of_every_block(noise: str, num_mc: int):
    batch = many_draws(prompt=1, canvas=7, count=20_000)
    views = elbo_views(batch, num_mc, noise, MASK)
    for first, end in [(1, 4), (4, 8)]:
        values = subset_values(end - first)
        found = sum(estimate(v.scored[:, first:end], v.weight[:, first:end], values) for v in views)
        assert within_four_errors(found, elbo_of(values, end - first))


@pytest.mark.parametrize("noise", ["exact_count", "stratified"])
def test_weights_of_counted_draws_sum_to_the_editable_tokens_in_every_draw(noise: str):
    views = elbo_views(many_draws(prompt=5, canvas=10, count=50), 3, noise, MASK)
    total = sum(view.weight.sum(-1) for view in views)
    torch.testing.assert_close(total, torch.full_like(total, 10.0), rtol=0, atol=1e-12)


def test_weights_of_bernoulli_draws_sum_to_the_editable_tokens_in_expectation():
    (view,) = elbo_views(many_draws(prompt=5, canvas=7, count=20_000), 1, "bernoulli", MASK)
    assert within_four_errors(view.weight.sum(-1), 7.0)


def test_a_counted_draw_masks_each_number_of_tokens_equally_often_from_one_to_all():
    (view,) = elbo_views(many_draws(prompt=0, canvas=8, count=20_000, block_length=8), 1, "exact_count", MASK)
    counts = view.scored.sum(-1)
    assert not (counts == 0).any()
    for k in range(1, 9):
        assert within_four_errors((counts == k).double(), 1 / 8)


@pytest.mark.parametrize("level", [0.0, 1.0 - 2.0**-52, 1.0])
def test_the_ends_of_the_level_range_mask_one_token_and_all_of_them(level: float):
    blocks = torch.tensor([[[False, True, True, True]]])
    rank = torch.tensor([[[0.0, 0.3, 0.1, 0.2]]], dtype=torch.float64)
    masked, weight = mask_blocks(blocks, torch.tensor([[level]], dtype=torch.float64), rank, "exact_count")
    expected = [0.0, 0.0, 3.0, 0.0] if level == 0.0 else [0.0, 1.0, 1.0, 1.0]
    assert weight[0, 0].tolist() == expected
    assert masked[0, 0].tolist() == [w > 0 for w in expected]


def test_stratified_levels_visit_every_stratum_of_every_block_once():
    four = torch.stack([v.scored for v in elbo_views(many_draws(2, 10, 200), 4, "stratified", MASK)])
    counts = four.view(4, 200, 3, 4).sum(-1).sort(0).values
    # Two editable slots in the first block: strata 1 and 2 mask one, strata 3 and 4 mask both.
    assert (counts[:, :, 0] == torch.tensor([1, 1, 2, 2])[:, None]).all()
    assert (counts[:, :, 1:] == torch.tensor([1, 2, 3, 4])[:, None, None]).all()


def test_the_order_of_strata_is_random_so_that_no_view_has_a_level_of_its_own():
    first = elbo_views(many_draws(0, 4, 20_000), 4, "stratified", MASK)[0].scored.sum(-1)
    for k in range(1, 5):
        assert within_four_errors((first == k).double(), 0.25)


def test_blocks_and_views_of_one_completion_are_noised_independently():
    views = elbo_views(many_draws(0, 8, 20_000), 2, "exact_count", MASK)
    counts = torch.stack([v.scored.view(-1, 2, 4).sum(-1) for v in views]).flatten(2).double().permute(0, 2, 1)
    correlation = torch.corrcoef(counts.reshape(4, -1)) - torch.eye(4)
    assert correlation.abs().max() < 4 / math.sqrt(20_000)


@pytest.mark.parametrize("noise", NOISES)
def test_prompt_and_padding_are_never_masked_and_weigh_exactly_zero(noise: str):
    batch = batch_of(plain_row(9, 3, 1), plain_row(0, 20, 2), plain_row(3, 5, 3))
    for view in elbo_views(batch, 3, noise, MASK):
        assert not (view.scored & ~batch.editable).any()
        assert torch.equal(view.weight > 0, view.scored)
        assert torch.equal(view.noisy == MASK, view.scored)
        assert torch.equal(view.noisy[~view.scored], batch.tokens[~view.scored])
        assert torch.equal(view.target, batch.tokens)
        assert not view.edit.any()
        assert view.rollout_log_prob is None


@pytest.mark.parametrize("estimator", [{"estimator": "elbo", "noise": n, "ratio": "sequence"} for n in NOISES] + [
    {"estimator": "trajectory_sampled"}, {"estimator": "trajectory"},
])  # fmt: skip
def test_draws_do_not_depend_on_the_batch_its_padding_or_its_order(estimator: dict):
    rows = rollouts(tiny_model(), [0, 5, 9, 2])
    config = AlgorithmConfig(num_mc=2, **estimator)
    together = make_views(batch_of(*rows), config, MASK, score_edits=True)
    reversed_rows = make_views(batch_of(*rows[::-1]), config, MASK, score_edits=True)
    for index, row in enumerate(rows):
        size = len(row.prompt.token_ids) + len(row.completion.canvas_ids)
        alone = make_views(batch_of(row), config, MASK, score_edits=True)
        for number, view in enumerate(together):
            for field in ("noisy", "scored", "weight", "edit", "rollout_log_prob"):
                here = getattr(view, field)
                if here is None:
                    continue
                there = getattr(reversed_rows[number], field)[len(rows) - 1 - index]
                assert torch.equal(here[index, :size], there[:size])
                if number < len(alone):
                    assert torch.equal(here[index, :size], getattr(alone[number], field)[0, :size])
                else:
                    assert not view.scored[index].any()


@pytest.mark.parametrize("noise", NOISES)
def test_equal_seeds_share_their_draws_and_other_seeds_do_not(noise: str):
    row = plain_row(0, 32, 0)
    batch = batch_of(row, row, dataclasses.replace(row, noise_seed=1))
    first, second = elbo_views(batch, 2, noise, MASK), elbo_views(batch, 2, noise, MASK)
    assert all(torch.equal(a.scored, b.scored) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(view.scored[0], view.scored[1]) for view in first)
    assert not any(torch.equal(view.scored[0], view.scored[2]) for view in first)
    assert not torch.equal(first[0].scored[0], first[1].scored[0])


def test_the_global_generator_plays_no_part():
    batch = batch_of(plain_row(0, 16, 0))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = elbo_views(batch, 2, "stratified", MASK)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first[1].scored, elbo_views(batch, 2, "stratified", MASK)[1].scored)


# --- supervised noise ---------------------------------------------------------------------------------------------


def test_a_supervised_view_masks_at_least_one_token_of_every_block_and_scores_the_visible_ones_as_edits():
    batch = batch_of(*(plain_row(5, 11, seed) for seed in range(200)))
    view = supervised_view(batch, (0.0, 1.0), 0.5, t2t_weight=1.0, mask_id=MASK)
    masked = view.noisy == MASK
    assert not (masked & ~batch.editable).any()
    assert (masked.view(200, -1, 4).any(-1) == batch.editable.view(200, -1, 4).any(-1)).all()
    assert torch.equal(view.edit, batch.editable & ~masked)
    assert torch.equal(view.scored, batch.editable)
    assert torch.equal(view.target, batch.tokens)
    wrong = (view.noisy != batch.tokens) & ~masked
    assert 0.3 < wrong.sum().item() / (batch.editable & ~masked).sum().item() < 0.55
    assert not (wrong & ~batch.editable).any()


def test_both_terms_of_a_supervised_view_weigh_as_much_as_their_block_has_tokens():
    batch = batch_of(*(plain_row(5, 11, seed) for seed in range(50)))
    view = supervised_view(batch, (0.0, 1.0), 0.5, t2t_weight=0.25, mask_id=MASK)
    size = batch.editable.view(50, -1, 4).sum(-1).double()
    masked_weight = (view.weight * (view.noisy == MASK)).view(50, -1, 4).sum(-1)
    torch.testing.assert_close(masked_weight, size, rtol=0, atol=1e-12)
    edit_weight = (view.weight * view.edit).view(50, -1, 4).sum(-1)
    shows = view.edit.view(50, -1, 4).any(-1)
    torch.testing.assert_close(edit_weight[shows], 0.25 * size[shows], rtol=0, atol=1e-12)


def test_without_a_t2t_weight_only_masks_are_scored():
    batch = batch_of(plain_row(5, 11, 0))
    view = supervised_view(batch, (0.2, 0.6), 0.5, t2t_weight=0.0, mask_id=MASK)
    assert torch.equal(view.scored, view.noisy == MASK)
