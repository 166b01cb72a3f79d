"""Flat keys of the `algorithm` section, of earlier recipes and of TRL, and the advice where they are now."""

import re
import shlex

import pytest

from redraft.rl.config.choices import RegulariserConfig
from redraft.rl.config.moved import MOVED
from redraft.rl.config.recipe import RecipeError, load_recipe
from redraft.rl.config.schema import RunConfig
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
OF_TRL = {
    "importance_sampling_level": "sequence", "scale_rewards": "grpo", "vllm_importance_sampling_correction": "sequence",
    "vllm_importance_sampling_mode": "token", "vllm_importance_sampling_cap": "3.0",
    "vllm_importance_sampling_clip_max": "3.0",
}  # fmt: skip
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


def follow(tmp_path, key: str, told: str) -> list[tuple[str, RunConfig]]:
    """Follow each way of an advice, in a file and on the command line, which must give one recipe; with its value."""
    found = []
    for way in told.partition("has moved: write ")[2].split("; or "):
        in_file, word, needs = re.fullmatch(r"(.+), or (\S+|'.+') on the command line(?: \(for (.+)\))?", way).groups()
        kinds = [need.partition(" ") for need in needs.split(" and ")] if needs else []
        firsts = ((section, valid.partition(",")[0]) for section, _, valid in kinds)
        words = [*BESIDE.get(key, []), *(f"{section}={'0.5' if one == 'above 0' else one}" for section, one in firsts)]
        (word,) = shlex.split(word)
        config = load_recipe([write_recipe(tmp_path)], [*words, word])
        assert config == load_recipe([write_recipe(tmp_path)], [*words, f"algorithm={{{in_file}}}"])
        found.append((word.partition("=")[2], config))
    return found


@pytest.mark.parametrize(("key", "value"), {**FLAT, **OF_TRL}.items(), ids=str)
def test_the_advice_names_the_new_place_with_the_value_and_following_it_gives_a_recipe(tmp_path, key, value):
    told = refusal(tmp_path, f"algorithm.{key}={value}")
    assert f"algorithm.{key} has moved: write " in told
    for found, config in follow(tmp_path, key, told):
        assert found == INSIDE.get(key, value)
        if key in FLAT:
            assert str(flat(config.algorithm)[key]).lower() == value


def test_the_advice_is_what_a_file_and_a_command_line_take(tmp_path):
    told = refusal(tmp_path, "algorithm.epsilon=0.1")
    ways = "loss: {epsilon: 0.1}, or algorithm.loss.epsilon=0.1 on the command line"
    assert f"write {ways} (for algorithm.loss.kind clip, stable, squared)" in told
    told = refusal(tmp_path, "algorithm.shrink=2")
    assert "or 'algorithm.estimator.cut={kind: shrink, steps: 2}' on the command line" in told


def test_a_dotted_key_in_a_file_is_written_nested(tmp_path):
    more = tmp_path / "more.yaml"
    more.write_text("algorithm:\n  loss.epsilon: 0.1\n")
    with pytest.raises(RecipeError, match=r"unknown key 'loss.epsilon'; in a file .* loss: \{epsilon: \.\.\.\}"):
        load_recipe([write_recipe(tmp_path), more])


@pytest.mark.parametrize("value", ["[1]", "{a: 1}", "wrong", "-1", "true", "'5'", ".inf"])
@pytest.mark.parametrize("key", MOVED)
def test_the_advice_never_holds_a_value_that_would_be_refused(tmp_path, key, value):
    told = refusal(tmp_path, f"algorithm.{key}={value}")
    if "has moved: write " in told:
        assert follow(tmp_path, key, told)
    else:
        assert re.search(r" has moved to algorithm\.\S+( .*)?, which does not take ", told)


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
            r"algorithm.regulariser.kl.kind \(for .*\), which does not take 'k4'; valid: none, k2, k3, k1_reward",
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
    ((_, config),) = follow(tmp_path, "loss_type", refusal(tmp_path, f"algorithm.loss_type={value}"))
    loss = config.algorithm.loss
    assert loss.kind == ("cispo" if value == "cispo" else "clip")
    assert (loss.ratio.kind, loss.ratio.normaliser) == ("token", normaliser)


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("scale_rewards", "group", "grpo"),
        ("scale_rewards", "false", "dr_grpo"),
        ("vllm_importance_sampling_correction", "true", "token"),
        ("vllm_importance_sampling_correction", "false", "none"),
        ("vllm_importance_sampling_mode", "sequence_truncate", "sequence"),
        ("vllm_importance_sampling_clip_max", "2.5", "2.5"),
    ],
)
def test_other_keys_of_trl_are_written_as_what_they_are_here(tmp_path, key, value, found):
    assert follow(tmp_path, key, refusal(tmp_path, f"algorithm.{key}={value}"))[0][0] == found


def test_views_of_edits_are_a_key_of_every_kind_of_edits(tmp_path):
    assert "algorithm.estimator.edits.kind recorded, draft, random" in refusal(tmp_path, "algorithm.num_t2t=2")


@pytest.mark.parametrize(
    ("key", "value", "place", "found"),
    [
        ("beta", "0.02", "kl", "{kl: {beta: 0.02}}"),
        ("beta", "0.0", "kl", "{kl: none}"),
        ("anchor", "0.1", "anchor", "{anchor: {weight: 0.1}}"),
        ("anchor", "0", "anchor", "{anchor: none}"),
        ("anchor_mc", "3", "anchor", "{anchor: {num_mc: 3}}"),
    ],
)
def test_a_weight_beside_the_kind_is_inside_of_it_now(tmp_path, key, value, place, found):
    told = refusal(tmp_path, f"algorithm.regulariser.{key}={value}")
    assert (
        f"algorithm.regulariser.{key} has moved: write regulariser: {found}, or algorithm.regulariser.{place}" in told
    )
    assert follow(tmp_path, key, told)[0][1].algorithm.regulariser != RegulariserConfig() or "none" in found
    assert f"algorithm.{key} has moved: write regulariser: {found}, " in refusal(tmp_path, f"algorithm.{key}={value}")


def test_the_form_of_a_kl_needs_its_weight(tmp_path):
    with pytest.raises(RecipeError) as error:
        load_recipe([write_recipe(tmp_path)], ["algorithm.regulariser={beta: 0.01, kl: k3}"])
    form, weight = str(error.value).splitlines()
    assert form.endswith("algorithm.regulariser.kl.beta: is missing; write kl: {kind: k3, beta: 0.01}, or kl: none")
    assert "algorithm.regulariser.beta has moved: write regulariser: {kl: {beta: 0.01}}" in weight


@pytest.mark.parametrize("word", ["shrink=1", "merge=0"])
def test_a_cut_that_cut_nothing_is_no_cut(tmp_path, word):
    assert "write estimator: {cut: none}, or algorithm.estimator.cut=none on" in refusal(tmp_path, f"algorithm.{word}")
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


def test_a_whole_flat_section_is_one_line_that_names_all_keys(tmp_path):
    text = ", ".join(f"{key}: {value}" for key, value in FLAT.items())
    told = refusal(tmp_path, f"algorithm={{{text}}}")
    assert "algorithm: flat keys of an earlier version or of TRL: num_mc, step_sampling, " in told
    assert all(key in told for key in FLAT)


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
