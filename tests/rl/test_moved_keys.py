"""Flat keys of the `algorithm` section, of earlier recipes and of TRL, and the advice where they are now."""

import re

import pytest

from redraft.rl.config.moved import MOVED
from redraft.rl.config.recipe import RecipeError, load_recipe
from short_names import flat
from tiny import write_recipe

FLAT = {
    "num_mc": "4", "step_sampling": "uniform", "shrink": "2", "merge": "2", "lookahead": "0.1", "noise": "exact_count",
    "stratify": "false", "count_exponent": "0.5", "tiles": "true", "masks_per_level": "2", "prompt_mask_ratio": "0.1",
    "t2t_views": "recorded", "num_t2t": "2", "t2t_weight": "0.5", "ratio": "sequence", "gamma": "0.5",
    "loss_type": "dpo", "loss_normaliser": "batch", "epsilon": "0.1", "epsilon_high": "0.2", "t2t_epsilon": "0.05",
    "t2t_epsilon_high": "0.1", "psi": "2.0", "dpo_beta": "0.2", "bound_beta": "2.0", "bound_mix": "0.25",
    "multi_objective_aggregation": "normalize_then_sum", "beta": "0.01", "kl": "k3", "anchor": "0.05", "anchor_mc": "2",
    "rollout_correction": "token", "correction_cap": "3.0", "path_check": "log", "route_replay": "old",
    "num_iterations": "2", "num_minibatches": "4", "redraw": "true", "target_drift": "0.01",
}  # fmt: skip
"""Every key of the flat section but `preset`, `estimator`, `advantage`, which stay, and `overlong_buffer`, a reward."""
OF_TRL = {"importance_sampling_level": "sequence"}
INSIDE = {"shrink": "{kind: shrink, steps: 2}", "merge": "{kind: merge, segments: 2}"}
BESIDE = {"num_t2t": ["algorithm.estimator.edits.kind=recorded"], "bound_mix": ["algorithm.estimator=elbo"],
          "bound_beta": ["algorithm.estimator=elbo"]}  # fmt: skip


def refusal(tmp_path, *words: str) -> str:
    with pytest.raises(RecipeError) as error:
        load_recipe([write_recipe(tmp_path)], words)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_all_flat_keys_have_a_place():
    assert FLAT.keys() | OF_TRL.keys() == MOVED.keys()
    assert len(FLAT) + len(["preset", "estimator", "advantage", "overlong_buffer"]) == 43


@pytest.mark.parametrize(("key", "value"), {**FLAT, **OF_TRL}.items(), ids=str)
def test_the_advice_names_the_new_place_with_the_value_and_following_it_gives_a_recipe(tmp_path, key, value):
    told = refusal(tmp_path, f"algorithm.{key}={value}")
    assert f"algorithm.{key} has moved: write algorithm." in told
    for way in told.partition("write ")[2].split(" or "):
        place, found, needs = re.fullmatch(r"([\w.]+): (\{.+?\}|\S+)(?: \(for (.+)\))?", way).groups()
        assert found == INSIDE.get(key, value)
        kinds = [need.partition(" ") for need in needs.split(" and ")] if needs else []
        words = [f"{section}={valid.partition(',')[0]}" for section, _, valid in kinds]
        config = load_recipe([write_recipe(tmp_path)], [*BESIDE.get(key, []), *words, f"{place}={found}"])
        if key in FLAT:
            assert str(flat(config.algorithm)[key]).lower() == value


@pytest.mark.parametrize("value", ["[1]", "{a: 1}", "wrong", "-1", "true", "'5'", ".inf"])
@pytest.mark.parametrize("key", MOVED)
def test_the_advice_never_holds_a_value_that_would_be_refused(tmp_path, key, value):
    told = refusal(tmp_path, f"algorithm.{key}={value}")
    if "has moved: write " not in told:
        assert re.search(r" has moved to algorithm\.\S+( .*)?, which does not take ", told)
        return
    for way in told.partition("write ")[2].split(" or "):
        place, found, needs = re.fullmatch(r"([\w.]+): (\S+)(?: \(for (.+)\))?", way).groups()
        kinds = [need.partition(" ") for need in needs.split(" and ")] if needs else []
        words = [f"{section}={valid.partition(',')[0]}" for section, _, valid in kinds]
        load_recipe([write_recipe(tmp_path)], [*words, f"{place}={found}"])


@pytest.mark.parametrize("key", MOVED)
def test_null_of_a_flat_key_is_left_out(tmp_path, key):
    told = refusal(tmp_path, f"algorithm.{key}=null")
    assert f" has moved to algorithm.{MOVED[key][0]}" in told
    assert told.endswith("; null says nothing there: leave it out")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "kl",
            "k4",
            r"algorithm.regulariser.kl, which does not take 'k4'; valid: k2, k3, k1_reward",
        ),
        ("loss_type", "sapo", r"has moved to algorithm.loss, which does not take 'sapo'; valid: clip, stable, cispo,"),
        ("importance_sampling_level", "sequence_token", r"does not take 'sequence_token'; did you mean 'sequence'\?"),
        ("shrink", "0", r"has moved to algorithm.estimator.cut.steps \(for .*\), which does not take 0$"),
        ("overlong_buffer", "[1]", r"buffer: B, .* and B a number of tokens, which \[1\] is not"),
        ("overlong_buffer", "null", r"is gone, and null was none: leave it out"),
    ],
)
def test_a_value_that_the_new_place_does_not_take_is_named_with_those_that_it_takes(tmp_path, key, value, message):
    assert re.search(message, refusal(tmp_path, f"algorithm.{key}={value}"))


@pytest.mark.parametrize(
    ("value", "normaliser"),
    [("grpo", "sequence"), ("bnpo", "batch"), ("dapo", "batch"), ("dr_grpo", "constant"), ("cispo", "constant")],
)
def test_the_losses_of_trl_are_written_as_what_they_are_here(tmp_path, value, normaliser):
    told = refusal(tmp_path, f"algorithm.loss_type={value}")
    found = told.partition(" has moved: write algorithm.loss: ")[2]
    loss = load_recipe([write_recipe(tmp_path)], [f"algorithm.loss={found}"]).algorithm.loss
    assert loss.kind == ("cispo" if value == "cispo" else "clip")
    assert (loss.ratio.kind, loss.ratio.normaliser) == ("token", normaliser)


def test_views_of_edits_are_a_key_of_every_kind_of_edits(tmp_path):
    assert "algorithm.estimator.edits.kind recorded, draft, random" in refusal(tmp_path, "algorithm.num_t2t=2")


@pytest.mark.parametrize("word", ["shrink=1", "merge=0"])
def test_a_cut_that_cut_nothing_is_no_cut(tmp_path, word):
    assert "write algorithm.estimator.cut: none" in refusal(tmp_path, f"algorithm.{word}")
    assert load_recipe([write_recipe(tmp_path)], ["algorithm.estimator.cut=none"]) == load_recipe(
        [write_recipe(tmp_path)]
    )


def test_the_overlong_buffer_is_a_reward(tmp_path):
    told = refusal(tmp_path, "algorithm.overlong_buffer=4")
    reward = re.search(r"add to rewards (\{fn: .*\}\}), N being rollout.decode.max_completion_length", told)[1]
    config = load_recipe([write_recipe(tmp_path)], [f"rewards=[{reward.replace('N}', '8}')}]"])
    assert config.rewards[0].kwargs == {"buffer": 4, "max_completion_length": 8}
    assert config.rewards[0].shaping
    assert "leave it out" in refusal(tmp_path, "algorithm.overlong_buffer=0")


def test_a_flat_section_of_several_keys_names_all_of_them(tmp_path):
    with pytest.raises(RecipeError) as error:
        load_recipe([write_recipe(tmp_path)], ["algorithm={preset: ebpo, epsilon: 0.1, num_mc: 4}"])
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("word", "place"),
    [("epsilon=0.1", "algorithm.loss.epsilon"), ("loss_type=dpo", "algorithm.loss"),
     ("trainer.target_drift=0", "algorithm.update.target_drift")],
)  # fmt: skip
def test_a_flat_key_elsewhere_is_asked_for_by_its_new_place(tmp_path, word, place):
    assert f"did you mean {place}?" in refusal(tmp_path, word)


def test_estimator_and_advantage_stay_as_choices_of_one_word(tmp_path):
    config = load_recipe([write_recipe(tmp_path)], ["algorithm={estimator: elbo, advantage: grpo}"])
    assert (config.algorithm.estimator.kind, config.algorithm.advantage.kind) == ("elbo", "grpo")
