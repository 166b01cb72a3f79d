"""What the presets mean, what a recipe without one means, and what a single choice changes beside itself."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from benchmarks.common.plain import plain
from benchmarks.learning.algorithms import read_variants
from conftest import ROOT
from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.choices import Choices, UpdateConfig
from redraft.rl.config.estimators import Cyclic, Elbo
from redraft.rl.config.layers import lay_over, opened
from redraft.rl.config.losses import ClipLoss, DpoLoss, SequenceRatio, TokenRatio
from redraft.rl.config.presets import NEUTRAL, NEUTRAL_OF_KIND, PRESETS
from redraft.rl.config.scalars import kinds_of, section_types
from short_names import DEFAULTS, flat, sections, short

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
"""Every setting of every preset, as its difference from `DEFAULTS`, written before the keys went into sections."""
OF_ELBOS_ONLY = {"bgpo", "sandwich"}


def kinds(section: str) -> list[str]:
    return [kind for one in section_types(Choices.model_fields[section].annotation) for kind in kinds_of(one)]


def settings(config: AlgorithmConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"preset"})


def test_every_preset_is_pinned():
    assert SETTINGS.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_means_what_it_meant(name):
    meant, found = {**DEFAULTS, **SETTINGS[name]}, flat(AlgorithmConfig(preset=name))
    assert found == {key: meant[key] for key in found}
    # What the sections leave out has no meaning for the preset: it was at its default, which nothing reads.
    left_out = meant.keys() - found.keys()
    assert {key: meant[key] for key in left_out} == {key: DEFAULTS[key] for key in left_out}


def test_leaving_everything_out_is_the_default_method():
    default = AlgorithmConfig(preset="vrbpo")
    assert settings(AlgorithmConfig()) == settings(AlgorithmConfig(preset=None)) == settings(default)
    assert Choices().model_dump(mode="json") == settings(default)  # the defaults of the models, without any resolution


def sections_inside(section: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield section
    for field in section.model_fields.values():
        for inner in section_types(field.annotation):
            yield from sections_inside(inner)


def test_an_empty_section_is_what_leaving_it_out_is():
    checked = []
    for parent in sections_inside(Choices):
        for name, field in parent.model_fields.items():
            default = field.default
            if not (isinstance(default, BaseModel) and kinds_of(type(default))):
                continue
            checked.append(name)
            if name in {"kl", "anchor"}:  # off, and on by their weight: an empty section has none
                assert default.model_dump() == {"kind": "none"}
            else:
                assert getattr(parent.model_validate({name: {}}), name) == default, (parent, name)
    assert {"estimator", "loss", "advantage", "rollout", "ratio", "cut", "edits", "noise", "kl", "anchor"} == {*checked}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_one_word(name):
    assert AlgorithmConfig.model_validate(name) == AlgorithmConfig(preset=name)


def test_the_neutral_settings_are_just_where_the_default_method_chooses():
    default, neutral = settings(AlgorithmConfig()), settings(plain({}))
    differing = {name for name in default if default[name] != neutral[name]}
    assert differing == {"estimator", *NEUTRAL}
    assert flat(plain({})) == {key: DEFAULTS[key] for key in flat(plain({}))}


@pytest.mark.parametrize(
    ("written", "changed"),
    [
        ({"estimator": {"num_mc": 4}}, {"num_mc": 4}),
        (
            {"regulariser": {"kl": {"beta": 0.01}}, "advantage": "grpo"},
            {"beta": 0.01, "kl": "k2", "advantage": "grpo"},
        ),
        ({"preset": "tracerl", "regulariser": {"kl": {"beta": 0.5}}}, {"beta": 0.5}),
        ({"regulariser": {"anchor": {"weight": 0.1}}}, {"anchor": 0.1, "anchor_mc": 1}),
        ({"estimator": {"lookahead": 0.0}}, {"lookahead": 0.0}),
        ({"update": {"num_minibatches": 4}}, {"num_minibatches": 4}),
        ({"preset": "ebpo", "loss": {"epsilon": 0.3}}, {"epsilon": 0.3}),
        ({"preset": "espo", "estimator": {"noise": {"stratify": False}}}, {"stratify": False}),
        ({"preset": "ebpo", "estimator": {"edits": "recorded"}}, {"t2t_views": "recorded", "num_t2t": 1}),
    ],
    ids=str,
)
def test_a_key_beside_a_preset_changes_that_and_nothing_else(written, changed):
    assert flat(AlgorithmConfig(**written)) == {**flat(AlgorithmConfig(preset=written.get("preset"))), **changed}


def test_another_kind_replaces_the_section_and_no_key_of_the_old_kind_survives():
    config = AlgorithmConfig.model_validate({"preset": "diffu_grpo", "loss": {"kind": "cispo"}})
    assert config.loss.model_dump() == {
        "kind": "cispo", "ratio": {"kind": "token", "normaliser": "constant"}, "t2t_weight": 1.0,
        "epsilon_high": 0.28, "t2t_epsilon_high": None,
    }  # fmt: skip
    found = AlgorithmConfig.model_validate({"preset": "stabledrl", "loss": "clip"}).loss
    assert found == ClipLoss(ratio=SequenceRatio(), epsilon=0.2, epsilon_high=0.2)
    same = AlgorithmConfig(preset="diffu_grpo", loss="clip")
    assert same.loss == AlgorithmConfig(preset="diffu_grpo").loss


NOT_THE_DEFAULTS = {
    "steps drawn evenly and without bias": (
        {"preset": "tracerl", "estimator": "trajectory_sampled"}, {"step_sampling": "uniform", "lookahead": 0.0},
    ),
    "all steps without bias": ({"preset": "coupled_grpo", "estimator": "trajectory"}, {"lookahead": 0.0}),
    "bounds of one size, stable": ({"preset": "espo", "loss": "stable"}, {"epsilon": 0.2, "epsilon_high": 0.2}),
    "bounds of one size, clip": ({"preset": "bgpo", "loss": "clip"}, {"epsilon": 0.2, "epsilon_high": 0.2}),
    "one of two keys is written": (
        {"preset": "d2", "estimator": {"kind": "trajectory_sampled", "lookahead": 0.3}},
        {"step_sampling": "uniform", "lookahead": 0.3},
    ),
    "the other one": (
        {"preset": "d2", "estimator": {"kind": "trajectory_sampled", "step_sampling": "surprisal"}},
        {"step_sampling": "surprisal", "lookahead": 0.0},
    ),
    "both bounds are written": (
        {"preset": "unigrpo", "loss": {"kind": "stable", "epsilon_high": 0.28}}, {"epsilon_high": 0.28},
    ),
    "the kind of the preset": ({"preset": "ebpo", "loss": "clip"}, {"epsilon_high": 0.28}),
    "the default method by name": (
        {"preset": "vrbpo", "estimator": "trajectory", "loss": "stable"}, {"lookahead": 0.3, "epsilon_high": 0.28},
    ),
    "the default method without its name": ({"estimator": "trajectory", "loss": "stable"}, {"lookahead": 0.3}),
}  # fmt: skip


@pytest.mark.parametrize(("written", "found"), NOT_THE_DEFAULTS.values(), ids=NOT_THE_DEFAULTS.keys())
def test_another_kind_beside_a_preset_brings_none_of_the_default_methods_choices(written, found):
    config = AlgorithmConfig(**written)
    assert {key: flat(config)[key] for key in found} == found
    assert AlgorithmConfig(**config.model_dump()) == config


@pytest.mark.parametrize("section", NEUTRAL_OF_KIND)
@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "vrbpo"])
def test_a_kind_beside_a_preset_is_neutral_unless_it_is_the_presets_own(preset, section):
    for kind, neutral in NEUTRAL_OF_KIND[section].items():
        start = AlgorithmConfig(preset=preset).model_dump()
        if start[section]["kind"] == kind or (section == "estimator" and start["loss"]["kind"] in OF_ELBOS_ONLY):
            continue
        found = AlgorithmConfig.model_validate({"preset": preset, section: kind}).model_dump()[section]
        assert {key: found[key] for key in neutral} == neutral


def test_a_section_made_in_python_says_what_was_given_and_no_more():
    made = AlgorithmConfig(estimator=Elbo(), loss=ClipLoss(epsilon=0.3))
    assert made == AlgorithmConfig.model_validate({"estimator": "elbo", "loss": {"kind": "clip", "epsilon": 0.3}})
    nested = AlgorithmConfig(estimator=Elbo(noise=Cyclic(tiles=True)), loss=DpoLoss())
    written = {"estimator": {"kind": "elbo", "noise": {"kind": "cyclic", "tiles": True}}, "loss": "dpo"}
    assert nested == AlgorithmConfig.model_validate(written)
    assert AlgorithmConfig(preset="ebpo", update=UpdateConfig()) == AlgorithmConfig(preset="ebpo")
    with pytest.raises(ValueError, match="no token ratio"):
        AlgorithmConfig(estimator=Elbo(), loss=ClipLoss(ratio=TokenRatio()))


def test_views_of_a_whole_mask_are_equal_so_there_is_one():
    assert flat(AlgorithmConfig.model_validate({"estimator": "mean_field"}))["num_mc"] == 1


YIELDS = {
    "an ELBO has neither token ratios nor a trajectory": ({"estimator": "elbo"}, {"loss": {"ratio": "sequence"}}),
    "preferences are of whole completions": ({"loss": "dpo"}, {}),
    "without ratios one step is on policy": (
        {"loss": "reinforce"}, {"update": {"num_minibatches": 1, "target_drift": 0.0}},
    ),
    "one optimizer step shows no drift": ({"update": {"num_minibatches": 1}}, {"update": {"target_drift": 0.0}}),
    "the engine knows no token before it drew it": (
        {"correction": {"rollout": "token"}}, {"estimator": {"lookahead": 0.0}},
    ),
    "views share levels evenly": (
        {"estimator": {"kind": "elbo", "noise": {"masks_per_level": 3}}},
        {"estimator": {"num_mc": 3}, "loss": {"ratio": "sequence"}},
    ),
    "views of a preset share levels evenly": (
        {"preset": "bgpo", "estimator": {"noise": {"masks_per_level": 3}}}, {"estimator": {"num_mc": 18}},
    ),
    "slots of a trajectory are actions": (
        {"preset": "coupled_grpo", "estimator": {"kind": "trajectory"}},
        {"loss": {"ratio": {"kind": "token", "normaliser": "batch"}}},
    ),
    "preferences hold the reference already": (
        {"preset": "unigrpo", "loss": "dpo"}, {"regulariser": {"kl": {"kind": "k2", "beta": 0.01}}},
    ),
    "preferences hold it with another weight too": (
        {"preset": "unigrpo", "loss": "dpo", "regulariser": {"kl": {"beta": 0.5}}},
        {"regulariser": {"kl": {"kind": "k2"}}},
    ),
    "passes without ratios": (
        {"preset": "diffu_grpo", "loss": "reinforce"}, {"update": {"num_iterations": 1}},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("written", "fitted"), YIELDS.values(), ids=YIELDS.keys())
def test_what_was_not_written_yields_to_what_was(written, fitted):
    config = AlgorithmConfig(**written)
    asked = lay_over(opened(written, AlgorithmConfig), opened(fitted, AlgorithmConfig)) if fitted else written
    assert config == AlgorithmConfig(**asked)  # the same as if it had been written
    assert AlgorithmConfig(**config.model_dump()) == config  # as a resumed run reads it


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"estimator": "elbo", "loss": {"ratio": "token"}}, "use loss: {ratio: sequence}"),
        ({"estimator": {"kind": "mean_field", "lookahead": 0.3}}, "lookahead\n.*Extra inputs"),
        ({"update": {"num_minibatches": 1, "target_drift": 1e-3}}, "use update.num_minibatches: 2, or target_drift: 0"),
        ({"estimator": {"kind": "coupled", "num_mc": 4}}, r"num_mc 3, 5, \.\.\."),
        ({"estimator": {"kind": "elbo", "num_mc": 3, "noise": "folded"}}, "draws pairs: num_mc must be even, got 3"),
        ({"estimator": {"kind": "elbo", "num_mc": 4, "noise": {"masks_per_level": 3}}}, "not a multiple of"),
        ({"correction": {"rollout": "token"}, "estimator": {"lookahead": 0.3}}, r"use estimator: \{lookahead: 0\}"),
        ({"correction": {"path_check": "log"}, "estimator": "elbo"}, "correction.path_check: log compares with what"),
        ({"correction": {"rollout": "token"}, "preset": "d2"}, "correction.rollout: token .* with cut: none"),
        ({"correction": {"path_check": "mask"}, "loss": "dpo"}, "one half of a pair"),
        (
            {"loss": "dpo", "regulariser": {"kl": {"kind": "k3", "beta": 0.1}}},
            "already measures against the starting policy",
        ),
        ({"loss": "bgpo"}, "use estimator: elbo, got 'trajectory_sampled'"),
        ({"loss": "bgpo", "estimator": {"kind": "elbo", "edits": "draft"}}, r"use estimator: \{edits: none\}"),
        ({"loss": "sandwich", "estimator": {"kind": "elbo", "num_mc": 1}}, "num_mc of 2 or more, got 1"),
        ({"loss": {"ratio": "position"}}, r"use loss: \{ratio: token\}"),
        ({"loss": {"kind": "dpo", "ratio": "token"}}, "use ratio: sequence, or leave it out"),
        ({"estimator": {"kind": "elbo", "noise": {"masks_per_level": "two"}}}, "masks_per_level\n.*valid integer"),
        ({"estimator": ["elbo"]}, "estimator\n.*Input should be a valid dictionary"),
        ({"preset": "tracrl", "estimator": "elbo"}, "unknown preset 'tracrl'; did you mean 'tracerl'"),
        ({"preset": ["vrbpo"]}, "preset\n.*valid string"),
        ({"estimator": {"num_mcs": 3}}, "num_mcs\n.*Extra inputs"),
        ({"estimator": {"kind": "autoregressive", "edits": "draft"}}, "expected tags: 'none', 'recorded'"),
    ],
    ids=str,
)
def test_what_was_written_never_yields(written, message):
    with pytest.raises(ValueError, match=message):
        AlgorithmConfig(**written)


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_an_estimator_or_a_loss_alone_is_refused_only_where_it_needs_the_other(preset):
    start = AlgorithmConfig(preset=preset)
    for estimator in kinds("estimator"):
        if start.loss.kind not in OF_ELBOS_ONLY or estimator == "elbo":
            assert (
                AlgorithmConfig.model_validate({"preset": preset, "estimator": estimator}).estimator.kind == estimator
            )
    for loss in kinds("loss"):
        if loss not in OF_ELBOS_ONLY or start.estimator.kind == "elbo":
            assert AlgorithmConfig.model_validate({"preset": preset, "loss": loss}).loss.kind == loss


def test_a_comparison_of_methods_has_settings_alone_without_the_default_methods():
    assert flat(plain({"estimator": "trajectory"})) == {
        **{key: value for key, value in flat(plain({})).items() if key not in {"num_mc", "step_sampling"}},
        "estimator": "trajectory",
    }
    assert plain({"preset": "vrbpo"}) == AlgorithmConfig(preset="vrbpo")
    variants = read_variants(ROOT / "benchmarks" / "vrbpo_variants.yaml")
    assert settings(variants["uniform steps"]) == settings(plain({}))
    assert settings(variants["all steps"]) == settings(plain({"estimator": "trajectory"}))


def test_short_names_write_out_the_sections_and_read_them_back():
    written = {"preset": "ebpo", "t2t_views": "recorded", "gamma": 0.5, "noise": "cyclic", "rollout_correction": "none"}
    assert sections(written) == {
        "preset": "ebpo", "loss": {"ratio": {"kind": "sequence", "gamma": 0.5}},
        "estimator": {"edits": {"kind": "recorded"}, "noise": {"kind": "cyclic"}},
        "correction": {"rollout": {"kind": "none"}},
    }  # fmt: skip
    found = flat(short(**written))
    assert {key: found[key] for key in written if key != "preset"} == {
        k: v for k, v in written.items() if k != "preset"
    }


def test_the_docs_name_every_kind_and_their_examples_are_valid():
    text = (ROOT / "docs" / "algorithms.md").read_text()
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    for section in ("estimator", "loss", "advantage"):
        assert set(kinds(section)) <= set(re.findall(r"`(\w+)`", rows[section]))
    lines = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1].splitlines()
    examples = [yaml.safe_load(line) for line in lines]
    found = [AlgorithmConfig.model_validate(example["algorithm"]) for example in examples]
    assert len(found) == 5
    assert found[0] == AlgorithmConfig(preset="vrbpo")
