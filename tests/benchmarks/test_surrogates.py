"""Coefficients of the table of one block: the same sums that the learner's views make, and the exact surrogates."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from benchmarks.common.batches import take_rows
from benchmarks.common.plain import plain
from benchmarks.common.policies import decode
from benchmarks.estimators.angles import mean_and_error
from benchmarks.estimators.exact import BlockSpace, block_logits
from benchmarks.estimators.surrogates import (
    canvases,
    cosine,
    elbo_coefficients,
    flat_gradient,
    sandwich,
    view_coefficients,
    weighted_sum,
)
from oracles.elbo import enumerated, mask_table
from oracles.plain_forward import block_log_probs
from oracles.tiny_policy import tiny_model
from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.sections import RolloutDecode
from redraft.rl.likelihood.score import score_view
from redraft.rl.protocols import Experience
from redraft.rl.views import make_views
from redraft.rl.views.canvas import CanvasBatch, collate
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.trajectory import Prompt, SpecialTokens
from short_names import sections, short

SPACE = BlockSpace(3, 4, mask=3)
PROMPT = (0, 1, 2)
DECODE = RolloutDecode(block_length=3, threshold=0.5, editing_threshold=0.3, max_post_steps=2, max_completion_length=3)


def rollouts(model: torch.nn.Module, count: int) -> CanvasBatch:
    prompts = [Prompt(f"p{seed}", PROMPT, seed) for seed in range(count)]
    completions = decode(TorchEngine(model), prompts, DECODE, SpecialTokens(3, 0, ()))
    rows = [Experience(p, c, 1.0, p.seed) for p, c in zip(prompts, completions, strict=True)]
    return collate(rows, 3, 0, "cpu")


@pytest.mark.parametrize(
    "settings",
    [
        {"estimator": "trajectory"},
        {"estimator": "trajectory_sampled", "num_mc": 1},
        {"estimator": "trajectory", "merge": 2},
        {"preset": "ebpo"},
        {"preset": "coupled_grpo"},
        {"estimator": "autoregressive", "num_mc": 3},
    ],
    ids=str,
)
def test_the_table_and_the_composite_forward_give_one_value_and_one_gradient(settings: dict):
    model = tiny_model(4, seed=2)
    batch = rollouts(model, 12)
    worth = torch.linspace(-1.0, 1.5, 12, dtype=torch.float64)
    views = make_views(batch, plain(sections(settings)), SPACE.mask, score_edits=True)
    direct = torch.zeros((), dtype=torch.float64)
    for view in views:
        scores = score_view(model, batch, view, SPACE.mask, temperature=1.0)
        direct = direct + (worth[scores.sequence] * view.weight[view.scored] * scores.log_prob).sum()
    log_prob = block_logits(model, PROMPT, SPACE).log_softmax(-1)
    table = weighted_sum(view_coefficients(batch, views, worth, SPACE), log_prob)
    assert direct.abs() > 0.1
    assert abs(table.item() - direct.item()) < 1e-10
    torch.testing.assert_close(flat_gradient(table, model), flat_gradient(direct, model), rtol=0, atol=1e-10)


def test_a_view_that_changes_the_prompt_is_refused():
    batch = rollouts(tiny_model(4, seed=2), 4)
    views = make_views(batch, short(preset="diffu_grpo", prompt_mask_ratio=0.9), SPACE.mask, score_edits=True)
    with pytest.raises(ValueError, match="use prompt_mask_ratio: 0"):
        view_coefficients(batch, views, torch.ones(4, dtype=torch.float64), SPACE)


def test_the_exact_elbo_is_that_of_the_plain_enumeration():
    model = tiny_model(4, seed=2)
    log_prob = block_logits(model, PROMPT, SPACE).log_softmax(-1)
    worth = torch.zeros(SPACE.size, dtype=torch.float64)
    expected = 0.0
    for share, block in [(0.7, (2, 0, 1)), (-1.3, (1, 1, 2))]:
        worth[SPACE.index(torch.tensor(block))] = share
        expected += share * enumerated(mask_table(model, [*PROMPT, *block], 3, [3, 4, 5], 3, SPACE.mask))
    assert abs(weighted_sum(elbo_coefficients(worth, SPACE), log_prob).item() - expected) < 1e-10


def slow_upper_bound(model: torch.nn.Module, block: tuple[int, ...], beta: float) -> float:
    """(1 / beta) sum_i log of the mean over (k, M containing i) of p(y_i)^beta, weights 1 / (|M| C(L, |M|))."""
    total = 0.0
    for slot in range(3):
        mass = 0.0
        for masked in itertools.product((0, 1), repeat=3):
            if masked[slot]:
                shown = [SPACE.mask if hidden else token for hidden, token in zip(masked, block, strict=True)]
                p = block_log_probs(model, PROMPT, shown, SPACE.mask)[slot, block[slot]].exp().item()
                mass += p**beta / (sum(masked) * math.comb(3, sum(masked)))
        total += math.log(mass) / beta
    return total


def test_the_sandwich_mixes_the_upper_bound_in_where_the_worth_is_negative():
    model = tiny_model(4, seed=2)
    log_prob = block_logits(model, PROMPT, SPACE).log_softmax(-1)
    for block, share in [((2, 0, 1), 0.8), ((1, 1, 2), -0.6)]:
        worth = torch.zeros(SPACE.size, dtype=torch.float64)
        worth[SPACE.index(torch.tensor(block))] = share
        lower = weighted_sum(elbo_coefficients(worth, SPACE), log_prob).item() / share
        upper = slow_upper_bound(model, block, 1.5)
        assert upper > lower + 0.01
        expected = share * lower if share > 0 else share * (0.7 * lower + 0.3 * upper)
        assert abs(sandwich(log_prob, worth, SPACE, beta=1.5, mix=0.3).item() - expected) < 1e-10


def test_taken_rows_have_the_noise_of_the_rows_they_were():
    batch = canvases(PROMPT, torch.tensor([[0, 1, 2], [2, 2, 2], [1, 0, 0]]), first_seed=5)
    taken = take_rows(batch, [2, 0, 2])
    assert taken.noise_seeds.tolist() == [7, 5, 7]
    assert taken.tokens[:, 3:].tolist() == [[1, 0, 0], [0, 1, 2], [1, 0, 0]]
    assert taken.prompt_lengths == (3, 3, 3)
    config = AlgorithmConfig(preset="ebpo")
    views = [make_views(one, config, SPACE.mask, score_edits=True)[0].noisy for one in (batch, taken)]
    assert torch.equal(views[0][[2, 0, 2]], views[1])
    assert not torch.equal(replace(taken, noise_seeds=taken.noise_seeds + 1).noise_seeds, taken.noise_seeds)


def test_angles_and_means_by_hand():
    assert cosine(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.6)
    assert mean_and_error([1.0, 3.0]) == (2.0, pytest.approx(1.0))  # sd sqrt(2) over sqrt(2)
    assert mean_and_error([0.5]) == (0.5, 0.0)
