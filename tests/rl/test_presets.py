"""What the presets mean, what a recipe without one means, and what a single key changes beside itself."""

from typing import get_args

import pytest

from benchmarks.learning.algorithms import read_variants
from conftest import ROOT
from redraft.rl.config.algorithm import AlgorithmConfig, plain
from redraft.rl.config.presets import NEUTRAL, PRESETS

BASE = {
    "estimator": "trajectory_sampled", "num_mc": 2, "step_sampling": "uniform", "shrink": 1, "merge": 0,
    "lookahead": 0.0, "noise": "exact_count", "stratify": True, "count_exponent": 0.0, "tiles": False,
    "masks_per_level": 1, "prompt_mask_ratio": 0.0, "t2t_views": "none", "num_t2t": 1, "t2t_weight": 1.0,
    "ratio": "token", "gamma": 1.0, "loss_type": "clip", "loss_normaliser": "constant", "epsilon": 0.2,
    "epsilon_high": 0.28, "t2t_epsilon": None, "t2t_epsilon_high": None, "psi": 1.0, "dpo_beta": 0.1,
    "bound_beta": 1.5, "bound_mix": 0.5, "advantage": "dr_grpo", "multi_objective_aggregation": "sum_then_normalize",
    "overlong_buffer": 0, "beta": 0.0, "kl": "k2", "anchor": 0.0, "anchor_mc": 1, "rollout_correction": "none",
    "correction_cap": 2.0, "path_check": "off", "route_replay": "none", "num_iterations": 1, "num_minibatches": 1,
    "redraw": False, "target_drift": 0.0,
}  # fmt: skip
SETTINGS = {
    "vrbpo": {
        "step_sampling": "surprisal", "lookahead": 0.3, "num_minibatches": 2, "target_drift": 0.001,
    },
    "ebpo": {
        "estimator": "elbo", "count_exponent": 0.5, "tiles": True, "ratio": "sequence",
    },
    "espo": {
        "estimator": "elbo", "noise": "coupled", "ratio": "sequence", "epsilon_high": 0.2,
        "advantage": "leave_one_out", "beta": 0.001,
    },
    "coupled_grpo": {
        "estimator": "coupled", "num_mc": 3, "ratio": "position", "loss_normaliser": "batch", "epsilon_high": 0.2,
        "advantage": "leave_one_out", "beta": 0.01, "kl": "k3",
    },
    "diffu_grpo": {
        "estimator": "mean_field", "num_mc": 1, "prompt_mask_ratio": 0.15, "loss_normaliser": "sequence",
        "epsilon": 0.5, "epsilon_high": 0.5, "beta": 0.04, "kl": "k3", "num_iterations": 12, "redraw": True,
    },
    "wd1": {
        "estimator": "mean_field", "num_mc": 1, "prompt_mask_ratio": 0.15, "loss_type": "reinforce",
        "advantage": "signed_softmax",
    },
    "unigrpo": {
        "estimator": "random_mask", "loss_normaliser": "sequence", "epsilon_high": 0.2, "advantage": "grpo",
        "beta": 0.01, "kl": "k3",
    },
    "spg": {
        "estimator": "elbo", "ratio": "sequence", "loss_type": "sandwich",
    },
    "bgpo": {
        "estimator": "elbo", "num_mc": 16, "stratify": False, "ratio": "sequence", "loss_type": "bgpo",
    },
    "gdpo": {
        "estimator": "elbo", "noise": "gauss", "ratio": "sequence", "epsilon_high": 0.2,
    },
    "vrpo": {
        "estimator": "elbo", "num_mc": 8, "stratify": False, "ratio": "sequence", "gamma": 0.0, "loss_type": "dpo",
    },
    "tracerl": {
        "estimator": "trajectory", "shrink": 2, "loss_normaliser": "sequence", "epsilon_high": 0.2,
        "advantage": "grpo", "beta": 0.01, "kl": "k3",
    },
    "d2": {
        "estimator": "trajectory", "merge": 2, "epsilon_high": 0.2, "advantage": "grpo",
    },
    "justgrpo": {
        "estimator": "autoregressive", "num_mc": 32, "loss_type": "reinforce", "advantage": "grpo",
    },
    "stabledrl": {
        "estimator": "elbo", "ratio": "sequence", "loss_type": "stable", "epsilon": 0.8, "epsilon_high": 4.0,
        "redraw": True,
    },
    "gdsd": {
        "estimator": "elbo", "noise": "coupled", "ratio": "sequence", "loss_type": "squared",
    },
}  # fmt: skip
"""Every setting of every preset, as its difference from `BASE`: written out, so that no default can move one."""
ESTIMATORS = get_args(AlgorithmConfig.model_fields["estimator"].annotation)
LOSSES = get_args(AlgorithmConfig.model_fields["loss_type"].annotation)
OF_ELBOS_ONLY = {"bgpo", "sandwich"}


def settings(config: AlgorithmConfig) -> dict:
    return config.model_dump(mode="json", exclude={"preset"})


def test_every_preset_is_pinned():
    assert SETTINGS.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_means_what_it_meant(name):
    assert settings(AlgorithmConfig(preset=name)) == {**BASE, **SETTINGS[name]}


def test_leaving_everything_out_is_the_default_method():
    assert settings(AlgorithmConfig()) == settings(AlgorithmConfig(preset="vrbpo"))
    assert settings(AlgorithmConfig(preset=None)) == settings(AlgorithmConfig(preset="vrbpo"))
    defaults = {name: field.default for name, field in AlgorithmConfig.model_fields.items() if name != "preset"}
    assert defaults == settings(AlgorithmConfig(preset="vrbpo"))


def test_the_neutral_base_is_just_where_the_default_method_chooses():
    default = settings(AlgorithmConfig())
    assert {name: BASE[name] for name in BASE if BASE[name] != default[name]} == NEUTRAL


@pytest.mark.parametrize(
    "written", [{"num_mc": 4}, {"beta": 0.01, "advantage": "grpo"}, {"lookahead": 0.0}, {"num_minibatches": 4}], ids=str
)
def test_a_key_without_a_preset_changes_the_default_method_and_nothing_else_of_it(written):
    assert settings(AlgorithmConfig(**written)) == {**settings(AlgorithmConfig()), **written}


YIELDS = {
    "an ELBO has neither token ratios nor a trajectory": (
        {"estimator": "elbo"}, {"ratio": "sequence", "lookahead": 0.0},
    ),
    "coupled masks come in pairs beside a full one": ({"estimator": "coupled"}, {"num_mc": 3, "lookahead": 0.0}),
    "one order has no steps to look ahead from": ({"estimator": "autoregressive"}, {"lookahead": 0.0}),
    "preferences are of whole completions": ({"loss_type": "dpo"}, {"ratio": "sequence"}),
    "without ratios one step is on policy": (
        {"loss_type": "reinforce"}, {"num_minibatches": 1, "target_drift": 0.0},
    ),
    "one optimizer step shows no drift": ({"num_minibatches": 1}, {"target_drift": 0.0}),
    "the engine knows no token before it drew it": ({"rollout_correction": "token"}, {"lookahead": 0.0}),
    "views share levels evenly": (
        {"estimator": "elbo", "masks_per_level": 3}, {"num_mc": 3, "ratio": "sequence", "lookahead": 0.0},
    ),
    "pairs are even": (
        {"preset": "coupled_grpo", "estimator": "elbo", "noise": "folded"}, {"num_mc": 4, "ratio": "sequence"},
    ),
    "only counts can be reweighted": ({"preset": "ebpo", "noise": "bernoulli"}, {"count_exponent": 0.0}),
    "one way to cut a trajectory": ({"preset": "tracerl", "merge": 3}, {"shrink": 1}),
    "the other way to cut it": ({"preset": "d2", "shrink": 2}, {"merge": 0}),
    "no trajectory to cut": ({"preset": "d2", "estimator": "mean_field"}, {"merge": 0}),
    "slots of a trajectory are actions": ({"preset": "coupled_grpo", "estimator": "trajectory"}, {"ratio": "token"}),
    "preferences hold the reference already": (
        {"preset": "unigrpo", "loss_type": "dpo"}, {"kl": "k2", "ratio": "sequence"},
    ),
    "a bound of a mean needs two views": (
        {"preset": "wd1", "estimator": "elbo", "loss_type": "sandwich"}, {"num_mc": 2, "ratio": "sequence"},
    ),
    "passes without ratios": ({"preset": "diffu_grpo", "loss_type": "reinforce"}, {"num_iterations": 1}),
}  # fmt: skip


@pytest.mark.parametrize(("written", "fitted"), YIELDS.values(), ids=YIELDS.keys())
def test_what_was_not_written_yields_to_what_was(written, fitted):
    config = AlgorithmConfig(**written)
    before = settings(AlgorithmConfig(preset=written.get("preset")))
    others = {key: value for key, value in written.items() if key != "preset"}
    assert settings(config) == {**before, **others, **fitted}
    assert AlgorithmConfig(**config.model_dump()) == config  # as a resumed run reads it


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"estimator": "elbo", "ratio": "token"}, "use ratio: sequence"),
        ({"estimator": "mean_field", "lookahead": 0.3}, "need a trajectory"),
        ({"num_minibatches": 1, "target_drift": 1e-3}, "use num_minibatches: 2, or target_drift: 0"),
        ({"estimator": "coupled", "num_mc": 4}, r"num_mc 3, 5, \.\.\., got 4"),
        ({"rollout_correction": "token", "lookahead": 0.3}, "use lookahead: 0"),
        ({"loss_type": "bgpo"}, "use estimator: elbo"),
        ({"ratio": "position"}, "use token"),
        ({"estimator": "elbo", "masks_per_level": "two"}, "masks_per_level\n.*valid integer"),
        ({"estimator": ["elbo"]}, "estimator\n.*Input should be 'trajectory'"),
        ({"preset": "tracrl", "estimator": "elbo"}, "unknown preset 'tracrl'; did you mean 'tracerl'"),
        ({"preset": ["vrbpo"]}, r"unknown preset .*vrbpo.*; .*valid: vrbpo"),
        ({"num_mcs": 3}, "num_mcs\n.*Extra inputs"),
    ],
)
def test_what_was_written_never_yields(written, message):
    with pytest.raises(ValueError, match=message):
        AlgorithmConfig(**written)


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_an_estimator_or_a_loss_alone_is_refused_only_where_it_needs_the_other(preset):
    start = AlgorithmConfig(preset=preset)
    for estimator in ESTIMATORS:
        if start.loss_type not in OF_ELBOS_ONLY or estimator == "elbo":
            assert AlgorithmConfig(preset=preset, estimator=estimator).estimator == estimator
    for loss in LOSSES:
        if loss not in OF_ELBOS_ONLY or start.estimator == "elbo":
            assert AlgorithmConfig(preset=preset, loss_type=loss).loss_type == loss


def test_a_comparison_of_methods_has_settings_alone_without_the_default_methods():
    assert settings(plain({})) == BASE
    assert settings(plain({"estimator": "trajectory"})) == {**BASE, "estimator": "trajectory"}
    assert plain({"preset": "vrbpo"}) == AlgorithmConfig(preset="vrbpo")
    variants = read_variants(ROOT / "benchmarks" / "vrbpo_variants.yaml")
    assert settings(variants["uniform steps"]) == BASE
    assert settings(variants["all steps"]) == {**BASE, "estimator": "trajectory"}
