"""One test per trap seen in public code of learning on diffusion language models: seeds, draws, masks, weights.

They run the real views, decoder and learner on tiny policies, in the order of the list, which test_traps_learning.py
goes on with. A trap that a test elsewhere is about already has its line here instead:

rollouts and masks from one seed -> tests/rl/test_experience.py::test_noise_seeds_are_streams_of_their_own_beside_the_rollouts_seed
ratios across different draws -> tests/rl/test_objective_pieces.py::test_log_probs_of_other_draws_are_refused_by_the_policys_name
"""  # noqa: E501

import math
import random
import re
from statistics import fmean

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import ROOT
from oracles.elbo import enumerated, mask_table
from oracles.noise_draws import batch_of, plain_row, repeated, within_four_errors
from oracles.tiny_policy import TOKENS, flat_gradient, nudge, rollouts, run_config, tiny_model
from redraft.rl.learner.learner import Learner
from redraft.rl.likelihood.score import score_view
from redraft.rl.views import MaskingScheme, elbo_views, supervised_view
from redraft.rl.views.surrogate import spaced_views

MASK = TOKENS.mask
ELBO = {"estimator": "elbo", "ratio": "sequence"}
SCHEMES = {
    "exact count": MaskingScheme(2, stratify=False),
    "stratified, importance-sampled, tiled": MaskingScheme(2, count_exponent=0.5, tiles=True),
    "cyclic": MaskingScheme(2, noise="cyclic"),
    "coupled": MaskingScheme(2, noise="coupled"),
    "folded": MaskingScheme(2, noise="folded"),
    "supervised": None,
}
every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())


def views_of(batch, scheme):
    """The views of a masking scheme; None: those of supervised training, masks only."""
    return [supervised_view(batch, (0.0, 1.0), 0.0, 0.0, MASK)] if scheme is None else elbo_views(batch, scheme, MASK)


def test_every_test_that_is_named_instead_exists():
    pages = [path.read_text() for path in (ROOT / "tests/rl").glob("test_traps_*.py")]
    names = [found for page in pages for found in re.findall(r"^[\w ,-]+ -> (\S+)::(\w+)$", page, re.MULTILINE)]
    assert len(names) == 9
    for path, name in names:
        assert f"def {name}(" in (ROOT / path).read_text(), (path, name)


@pytest.mark.parametrize(
    "algorithm",
    [
        {"preset": "ebpo", "t2t_views": "draft", "beta": 0.1},
        {"preset": "vrbpo", "anchor": 0.1},
        {"preset": "diffu_grpo"},
    ],
    ids=lambda algorithm: algorithm["preset"],
)
def test_global_seeding_has_no_part_in_rollouts_and_scoring_and_neither_of_them_seeds(algorithm):
    found, states = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()
        model = tiny_model()
        learner = Learner(model, run_config({**algorithm, "num_iterations": 2}), TOKENS)
        rows = rollouts(model, [0, 5, 2])
        learner.update(rows)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[1].tolist() == before[1]
        states.append(random.getstate())
        found.append(([row.completion for row in rows], flat_gradient(model)))
    assert states[0] != states[1]  # not seeded; under pytest the type checker draws from this one, so it moves
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("redraw", [False, True])
@pytest.mark.parametrize("algorithm", [{**ELBO, "num_mc": 4}, {"estimator": "trajectory"}], ids=["ELBO", "trajectory"])
def test_new_old_and_reference_policy_have_one_draw_and_no_dropout(algorithm, redraw):
    settings = {**algorithm, "num_iterations": 2, "redraw": redraw, "beta": 0.3}
    model, rows = tiny_model().train(), rollouts(tiny_model(), [0, 5, 2])
    model.layers[0].register_forward_hook(lambda layer, _, out: F.dropout(out, 0.5, layer.training))
    learner = Learner(model, run_config(settings, {"learning_rate": 1e-12}), TOKENS)
    metrics = learner.update(rows)  # the weights stand still, so the three policies are one
    assert metrics["objective/log_ratio_abs"] < 1e-9
    assert metrics["objective/kl"] < 1e-15
    nudge(learner.reference, 0.2)
    assert learner.update(rows)["objective/kl"] > 1e-6


@every_scheme
def test_everything_is_masked_as_often_as_it_should_which_floor_of_u_l_never_does(scheme):
    batch = repeated(batch_of(plain_row(0, 8, 0), block_length=8), 20_000)
    # The full mask's coefficient (eq 3) is 1 / n at each of its n positions.
    full = sum(view.weight[:, 0] * view.scored.all(-1) for view in views_of(batch, scheme))
    assert within_four_errors(full, 1 / 8)


@every_scheme
@torch.no_grad()
def test_the_weight_is_that_of_the_realised_count_and_not_one_over_t_with_floor_masks(scheme):
    model, batch = tiny_model(), repeated(batch_of(plain_row(0, 4, 3)), 10_000)
    table = mask_table(model, batch.tokens[0].tolist(), 0, range(4), 4, MASK)
    estimate = torch.zeros(10_000, dtype=torch.float64)
    for view in views_of(batch, scheme):
        scores = score_view(model, batch, view, MASK, 1.0)
        estimate.index_add_(0, scores.sequence, view.weight[view.scored] * scores.log_prob)
    assert within_four_errors(estimate, enumerated(table))
    # The trap: k = floor(4 t) masks and weight 1 / t, so size k weighs the integral of 1 / t from k / 4 to (k + 1) / 4.
    sums = {k: [sum(terms.values()) for masked, terms in table.items() if len(masked) == k] for k in (1, 2, 3)}
    trapped = sum(math.log((k + 1) / k) * fmean(values) for k, values in sums.items())
    assert not within_four_errors(estimate, trapped)


@pytest.mark.parametrize(
    "scheme",
    [*SCHEMES.values(), MaskingScheme(3, noise="gauss"), MaskingScheme(2, noise="bernoulli"), "spaced"],
    ids=str,
)
def test_weights_sum_to_one_unit_per_position(scheme):
    batch = repeated(batch_of(plain_row(1, 7, 0)), 20_000)
    total = sum(
        view.weight for view in (spaced_views(batch, 3, MASK) if scheme == "spaced" else views_of(batch, scheme))
    )
    assert (total[:, 0] == 0).all()
    assert all(within_four_errors(total[:, i], 1.0) for i in range(1, 8))


@every_scheme
def test_a_first_block_shared_with_the_prompt_counts_its_editable_positions_and_not_the_block_length(scheme):
    batch = repeated(batch_of(plain_row(1, 7, 0)), 20_000)
    # Every number of masks from 1 to n stands for one unit of weight (eq 2); n is 3, and 4 in the next block.
    for block, size in ((slice(0, 4), 3), (slice(4, 8), 4)):
        views = [(view.weight[:, block].sum(-1), view.scored[:, block].sum(-1)) for view in views_of(batch, scheme)]
        for count in range(1, size + 1):
            assert within_four_errors(sum(weight * (number == count) for weight, number in views), 1.0), (size, count)
