"""The measurements of `python -m benchmarks estimators`, and the command itself at a size that takes seconds."""

import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.common.plain import plain
from benchmarks.common.report import Section, Target, write_report
from benchmarks.estimators import measure as estimators
from benchmarks.estimators.angles import EDITING, PARALLEL, RANDOM_ORDER, ExactMode, draw_rollouts, rollout_angle
from benchmarks.estimators.bias import expected_weights, measure_biases
from benchmarks.estimators.fixtures import SumPolicy, train_sum_policy
from benchmarks.estimators.measure import BUDGET_ROWS, Effort
from benchmarks.estimators.surrogates import canvases, flat_gradient
from benchmarks.estimators.tables import sections, targets
from benchmarks.estimators.variance import (
    BEST,
    IID,
    SCHEMES,
    Spread,
    bernoulli_ratio,
    count_spreads,
    gradient_spread,
    log_ratio,
    score_together,
)
from oracles.tiny_policy import tiny_model
from redraft.rl.views import make_views

BLOCK = torch.tensor([0, 3, 1, 2, 2, 0])
QUICK = Effort(
    policies=1,
    prompts=1,
    sum_steps=2,
    language_steps=2,
    completions=1,
    draws=3,
    single_draws=3,
    bias_draws=40,
    replicates=1,
    surrogate_rollouts=16,
)


@pytest.fixture(scope="module")
def policy() -> SumPolicy:
    return train_sum_policy(seed=0, num_prompts=1, steps=60)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_every_unbiased_scheme_weighs_masks_of_k_positions_one_in_k(scheme):
    weights = expected_weights(scheme.config(2).estimator, length=5)
    error = (weights[1:] - 1 / torch.arange(1.0, 6.0, dtype=torch.float64)).abs().max().item()
    assert (error < 1e-12) == scheme.unbiased


def test_measured_biases_agree_with_the_exact_ones(policy: SumPolicy):
    biases = measure_biases(policy, 400)
    for name, bias in biases.items():
        if bias.exact is not None:
            assert abs(bias.measured - bias.exact) < 4.5 * bias.error, name
            assert abs(bias.exact) < 1e-9 or name.startswith("Gauss")
    assert biases["coupled (DiffuCoder)"].measured < -20 * biases["coupled (DiffuCoder)"].error  # 1.5 units, not one
    assert biases["mean field (d1)"].gradient > 0.1


@pytest.mark.parametrize("scheme", [IID, BEST], ids=lambda scheme: scheme.name)
def test_the_spread_is_the_trace_of_the_gradients_covariance(scheme):
    model, draws = tiny_model(8), 7
    config = scheme.config(4)
    spread = gradient_spread(model, [BLOCK], config, 7, draws, tick=lambda: None)
    rows, values = [], []
    for draw in range(draws):
        batch = canvases((), BLOCK[None], first_seed=draw)
        value = score_together(model, batch, make_views(batch, config, 7, score_edits=False), 7).sum()
        rows.append(flat_gradient(value, model))
        values.append(value.detach())
    assert spread.gradient == pytest.approx(torch.stack(rows).var(0).sum().item(), rel=1e-9)
    assert spread.value == pytest.approx(torch.stack(values).var().item(), rel=1e-9)
    assert spread.gradient_error > 0


def test_independent_views_share_their_variance_out():
    model = tiny_model(8)
    one, four = (gradient_spread(model, [BLOCK], IID.config(n), 7, 60, tick=lambda: None) for n in (1, 4))
    derived = one.over(4)
    assert derived == Spread(one.gradient / 4, one.gradient_error / 4, one.value / 4)
    assert abs(four.gradient - derived.gradient) < 4 * (four.gradient_error**2 + derived.gradient_error**2) ** 0.5


def test_bernoulli_draws_have_the_moments_that_counted_draws_are_reweighted_to():
    """At t in [0.001, 1): weights 1 / t, squared, by the number of masked positions of drawn masks."""
    length, draws = 6, 400_000
    source = torch.Generator().manual_seed(0)
    t = 1e-3 + (1 - 1e-3) * torch.rand(draws, dtype=torch.float64, generator=source)
    count = (torch.rand(draws, length, dtype=torch.float64, generator=source) < t[:, None]).sum(1)
    ratio = bernoulli_ratio(length)
    assert ratio[0] == 0
    for k in range(1, length + 1):
        drawn = (count == k) / t**2
        expected = ratio[k].item() * length / k**2
        assert abs(drawn.mean().item() * (1 - 1e-3) - expected) < 4.5 * drawn.std().item() / draws**0.5


def test_reweighted_draws_measure_both_distributions_of_counts():
    model = tiny_model(8)
    exact, bernoulli = count_spreads(model, [BLOCK], 7, 60, tick=lambda: None)
    assert exact == gradient_spread(model, [BLOCK], IID.config(1), 7, 60, tick=lambda: None)
    assert bernoulli.gradient > exact.gradient
    assert bernoulli.value > exact.value


def test_a_log_ratio_of_equal_policies_is_zero_in_every_shared_draw_and_in_no_other():
    model = tiny_model(8)
    same = log_ratio(model, model, [BLOCK], BEST.config(2), 7, draws=20)
    assert same.mean == 0
    assert same.shared == 0
    assert same.unshared > 0.1


def test_shared_draws_make_a_small_steps_log_ratio_quiet():
    old, new = tiny_model(8), tiny_model(8)
    with torch.no_grad():
        for weight in new.parameters():
            weight.mul_(1.001)
    found = log_ratio(old, new, [BLOCK], IID.config(4), 7, draws=200)
    assert found.mean > 0
    assert found.shared < found.unshared / 300


def test_without_edits_the_unmasks_have_the_whole_gradient(policy: SumPolicy):
    for mode in (RANDOM_ORDER, PARALLEL):
        exact = ExactMode(policy, mode)
        assert exact.angle(exact.of_unmasks) == pytest.approx(1.0, abs=1e-9)
        assert exact.angle(exact.of_elbo) < 0.9999


def test_more_rollouts_turn_the_trajectory_gradient_to_the_true_one(policy: SumPolicy):
    exact = ExactMode(policy, EDITING)
    config = plain({"estimator": "trajectory"})
    few, many = (rollout_angle(exact, draw_rollouts(exact, count, 0), config) for count in (16, 1024))
    assert few[0] < many[0]
    assert many[0] > 0.97
    assert many[1] > 1


def test_an_anchor_and_edit_weights_enter_as_in_the_objective(policy: SumPolicy):
    exact = ExactMode(policy, PARALLEL)
    rollouts = draw_rollouts(exact, 64, 0)
    bare = rollout_angle(exact, rollouts, plain({"estimator": "trajectory"}))
    # Nothing is edited here, so only an anchor changes the gradient.
    assert bare[0] == rollout_angle(exact, rollouts, plain({"estimator": "trajectory", "loss": {"t2t_weight": 0.1}}))[0]
    anchored = rollout_angle(
        exact, rollouts, plain({"estimator": "trajectory", "regulariser": {"anchor": {"weight": 1.0}}})
    )
    assert anchored[0] != bare[0]
    assert anchored[1] == bare[1] + 1


@pytest.mark.heavy  # CI runs the command itself
def test_the_command_writes_tables_numbers_and_figures(tmp_path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(estimators, "SHORT", QUICK)
    monkeypatch.setattr(estimators, "ROLLOUTS", 16)
    result = CliRunner().invoke(app, ["estimators", "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    record = json.loads((tmp_path / "estimators.json").read_text())
    assert {"command", "commit", "device", "versions", "bias", "variance", "log_ratio"} <= record.keys()
    assert set(record["budgets"][EDITING.name]) == set(BUDGET_ROWS)
    text = (tmp_path / "estimators.md").read_text()
    for table in sections(record):  # read back from JSON they are the same tables
        assert str(table) in text
        assert table.title in result.stdout
    assert len(targets(record)) == 5
    for name in ("variance", "surrogates", "budgets"):
        assert f"estimators_{name}.png" in text
        assert (tmp_path / f"estimators_{name}.png").stat().st_size > 10_000
    counts = [
        line.rsplit(" ", 1)[1].split("/") for line in result.stderr.splitlines() if line.startswith("estimators: ")
    ]
    assert counts[-1][0] == counts[-1][1]
    assert len({total for _, total in counts}) == 1


def test_targets_hold_on_their_side_of_the_bound():
    assert Target("a", 0.5, 0.6, at_most=True).holds
    assert not Target("a", 0.7, 0.6, at_most=True).holds
    assert Target("a", 0.95, 0.9, at_most=False).holds
    assert not Target("a", float("nan"), 0.9, at_most=False).holds


def test_a_report_says_where_it_comes_from(tmp_path):
    section = Section("Title", "A note.", ["name", "x"], [["one", "1.0"], ["two", "2.0"]])
    write_report(tmp_path / "new", "name", {"x": 1}, str(section))
    record = json.loads((tmp_path / "new" / "name.json").read_text())
    assert record["x"] == 1
    assert record["versions"]["torch"]
    text = (tmp_path / "new" / "name.md").read_text()
    assert "| two | 2.0 |" in text
    assert record["commit"][:12] in text
