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
        place, found, needs = re.fullmatch(r"([\w.]+): (\S+)(?: \(for (.+)\))?", way).groups()
        assert found == value
        kinds = [need.partition(" ") for need in needs.split(" and ")] if needs else []
        words = [f"{section}={valid.partition(',')[0]}" for section, _, valid in kinds]
        config = load_recipe([write_recipe(tmp_path)], [*BESIDE.get(key, []), *words, f"{place}={value}"])
        if key in FLAT:
            assert str(flat(config.algorithm)[key]).lower() == value


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
