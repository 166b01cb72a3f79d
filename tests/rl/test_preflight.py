"""What a run needs is known before anything is trained."""

import json
import logging

import pytest
import torch

import redraft.rl.preflight.checks
from redraft.rewards.result import RewardError
from redraft.rewards.term import RewardTerm
from redraft.rl.config.parallel import ParallelConfig
from redraft.rl.config.recipe import load_recipe
from redraft.rl.data.load import DataError
from redraft.rl.data.rows import PlacedRow
from redraft.rl.preflight.checks import check_evaluation, check_machine, check_reward_calls, check_run
from redraft.rl.preflight.verifiers import check_calls, check_measure
from tiny import SHAPE, make_policy, write_recipe

REWARDS = """
def digits(prompts, completions, **columns):
    return [0.0] * len(completions)

def needs(prompts, completions, ground_truth, level=None):
    return [0.0] * len(completions)

def late(prompts, completions, parts):
    return [0.0] * len(completions)

def strict(prompts, completions):
    return [0.0] * len(completions)
"""


@pytest.fixture
def rewards(tmp_path):
    (tmp_path / "mine.py").write_text(REWARDS)
    (tmp_path / "broken.py").write_text("import a_package_that_is_not_there\n\ndef f(prompts, completions): ...\n")
    return tmp_path


def term(folder, fn, file="mine", **settings):
    return RewardTerm.model_validate({"fn": f"{folder / file}.py:{fn}", "isolation": "inline", **settings})


def rows(*columns):
    return [PlacedRow({"prompt": "p", **one}, f"rows.jsonl:{line}") for line, one in enumerate(columns, start=1)]


# --- rewards ------------------------------------------------------------------------------------------------------


def test_rewards_that_fit_their_rows_pass(rewards):
    fine = rows({"ground_truth": "1"}, {"ground_truth": None, "level": 2}, {"completion": "a", "ground_truth": "3"})
    terms = [term(rewards, "digits"), term(rewards, "needs"), term(rewards, "late"), term(rewards, "strict")]
    check_calls(terms, {"mine (train)": fine})


@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_a_reward_that_does_not_import_is_refused(rewards, isolation):
    for fn, file, message in [
        ("f", "broken", "a_package_that_is_not_there"),
        ("f", "absent", "no file"),
        ("g", "mine", "no 'g'"),
    ]:
        with pytest.raises(RewardError, match=rf"^reward '{fn}': .*{message}"):
            check_calls([term(rewards, fn, file, isolation=isolation)], {})


def test_a_column_that_a_row_lacks_is_named_with_the_row_and_the_reward(rewards):
    mixed = rows({"ground_truth": "1"}, {"kind": "code"}, {"ground_truth": "1", "kind": "math"})
    message = r"^rows.jsonl:2: reward 'needs': needs 'ground_truth'; the data has the columns: kind; .*`when`"
    with pytest.raises(RewardError, match=message):
        check_calls([term(rewards, "needs")], {"mine (train)": mixed})
    check_calls([term(rewards, "needs", when={"kind": "math"})], {"mine (train)": mixed})
    check_calls([term(rewards, "needs", kwargs={"ground_truth": "5"})], {"mine (train)": mixed})


@pytest.mark.parametrize(
    ("fn", "settings", "message"),
    [
        (
            "needs",
            {"kwargs": {"levle": 3}},
            "kwargs.levle is no argument a recipe can give; valid: ground_truth, level",
        ),
        ("strict", {"kwargs": {"completions": []}}, "kwargs.completions is no argument"),
        ("strict", {"weight": 0}, "at least one reward with a weight other than 0"),
    ],
)
def test_what_a_recipe_gives_is_checked_against_the_signature(rewards, fn, settings, message):
    with pytest.raises(RewardError, match=message):
        check_calls([term(rewards, fn, **settings)], {"mine (train)": rows({"ground_truth": "1"})})


def test_two_rewards_of_one_name_are_refused(rewards):
    with pytest.raises(RewardError, match="two rewards are named 'digits'"):
        check_calls([term(rewards, "digits"), term(rewards, "digits")], {})


def test_a_column_with_a_name_of_the_rollout_is_refused(rewards):
    with pytest.raises(RewardError, match=r"rows.jsonl:1: .*the data has a column 'completions'"):
        check_calls([term(rewards, "digits")], {"mine (train)": rows({"completions": ["a"]})})


@pytest.mark.parametrize("adapter", ["trl_reward", "verl_score"])
def test_the_function_that_an_adapter_calls_is_imported_too(rewards, adapter):
    for file, message in [("broken", "a_package_that_is_not_there"), ("absent", "no file")]:
        wrong = {"fn": adapter, "kwargs": {"function": f"{rewards / file}.py:f"}}
        with pytest.raises(RewardError, match=rf"reward '{adapter}': .*{message}"):
            check_calls([RewardTerm.model_validate(wrong)], {"mine": rows({"ground_truth": "1"})})


@pytest.mark.parametrize(
    ("fn", "kwargs", "message"),
    [
        ("judge", {"base_url": "http://localhost:1/v1", "model": "m", "api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY"),
        ("format_match", {"pattern": "("}, "pattern"),
    ],
)
def test_settings_that_a_reward_of_ours_refuses_are_known(fn, kwargs, message):
    wrong = RewardTerm.model_validate({"fn": fn, "kwargs": kwargs})
    with pytest.raises(RewardError, match=rf"reward '{fn}'.*{message}"):
        check_calls([wrong], {"mine": rows({"ground_truth": "1"})})


def test_a_function_behind_an_adapter_need_not_bear_an_empty_batch(rewards):
    (rewards / "mean.py").write_text("def f(prompts, completions):\n    return [1 / len(completions)]\n")
    settings = {"fn": "trl_reward", "isolation": "inline", "kwargs": {"function": f"{rewards}/mean.py:f"}}
    check_calls([RewardTerm.model_validate(settings)], {"mine": rows({})})


def test_a_measure_that_applies_to_no_evaluation_row_is_refused(rewards):
    first = term(rewards, "digits", when={"kind": ["math", "code"]})
    check_measure([first], rows({"kind": "web"}, {"kind": "code"}))
    with pytest.raises(RewardError, match=r"applies to none of 2 evaluation rows.* but kind is chat, web;"):
        check_measure([first], rows({"kind": "web"}, {"kind": "chat"}))
    with pytest.raises(RewardError, match=r"but no row has the column 'kind'"):
        check_measure([first], rows({"sort": "math"}))


# --- a whole recipe -----------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    return load_recipe([write_recipe(tmp_path, model={"init": SHAPE}, sft={"data": {"path": "arithmetic"}})], [])


def test_rows_are_read_as_the_policy_of_the_warm_start_will_before_it_is_made(config, tmp_path):
    fine, long, masked = {"prompt": "1"}, {"prompt": "1" * 60}, {"prompt": "<|mask|>"}
    check_run(config, [fine], [fine], tmp_path / "nowhere")
    for train, held_out, message in [
        ([fine, long], [fine], r"arithmetic \(train\): row 2"),
        ([fine], [masked], r"\(test\): row 1"),
    ]:
        with pytest.raises(DataError, match=message):
            check_run(config, train, held_out, tmp_path / "nowhere")


def test_a_policy_that_is_there_is_the_one_that_reads(config, tmp_path, caplog):
    make_policy(tmp_path / "made")
    stored = json.loads((tmp_path / "made" / "config.json").read_text())
    (tmp_path / "made" / "config.json").write_text(
        json.dumps(stored | {"max_position_embeddings": 24, "block_length": 4})
    )
    with caplog.at_level(logging.WARNING), pytest.raises(DataError, match="but the policy has 24"):
        check_run(config, [{"prompt": "1" * 30}], [], tmp_path / "made")
    assert "was trained with blocks of 4 tokens, not 8" in caplog.text


def test_a_model_path_that_is_nowhere_is_named(tmp_path):
    config = load_recipe([write_recipe(tmp_path)], [])
    with pytest.raises(FileNotFoundError, match=r"model.path: no folder .*policy"):
        check_run(config, [{"prompt": "1"}], [], tmp_path / "policy")


def test_an_evaluation_is_checked_with_its_own_rows(config):
    check_evaluation(config, [{"prompt": "1"}])
    with pytest.raises(DataError, match=r"arithmetic \(test\): row 1"):
        check_evaluation(config, [{"prompt": "1" * 60}])
    check_evaluation(config.model_copy(update={"evaluation": None}), [])


def test_rewards_meet_training_and_evaluation_rows(config, rewards):
    needs = config.model_copy(update={"rewards": (term(rewards, "needs"),)})
    good, bad = rows({"ground_truth": "1"}), rows({"answer": "1"})
    check_reward_calls(needs, good, good)
    for train, held_out in ((bad, good), (good, bad)):
        with pytest.raises(RewardError, match="needs 'ground_truth'; the data has the columns: answer"):
            check_reward_calls(needs, train, held_out)


@pytest.mark.parametrize(
    ("words", "missing", "message"),
    [
        (["rollout.engine=vllm"], "vllm", "needs vLLM, which is not installed: pip install"),
        (["cluster.backend=ray"], "ray", "ray is not installed: pip install"),
        (["cluster.backend=ray", "cluster.learner_gpus=1", "cluster.rollout_gpus=0.5"], "", "ask for 2 GPUs, .* has 1"),
        (["cluster.backend=ray", "trainer.parallel.ranks=2"], "", "trainer.parallel.ranks asks for 2 GPUs, .* has 1"),
    ],
)
def test_what_the_machine_lacks_is_named(tmp_path, monkeypatch, words, missing, message):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for module in ("redraft.rl.preflight.checks", "redraft.rollout.vllm.engine"):
        monkeypatch.setattr(f"{module}.find_spec", lambda name: None if name == missing else object())
    config = load_recipe([write_recipe(tmp_path)], words)
    with pytest.raises((ValueError, ImportError), match=message):
        check_machine(config)
    one = {"trainer": config.trainer.model_copy(update={"parallel": ParallelConfig()})}
    local = {"cluster": config.cluster.model_copy(update={"backend": "inprocess"})}
    other = config.model_copy(update={**one, **local})
    check_machine(other.model_copy(update={"rollout": other.rollout.model_copy(update={"engine": "torch"})}))


@pytest.mark.parametrize("key", ["ranks", "expert_parallel"])
def test_several_ranks_in_one_process_are_refused(tmp_path, key):
    config = load_recipe([write_recipe(tmp_path)], [f"trainer.parallel.{key}=2"])
    with pytest.raises(ValueError, match=rf"trainer.parallel.{key}=2 needs 2 processes, .*; use cluster.backend=ray"):
        check_machine(config)


def test_a_cluster_elsewhere_has_its_own_gpus(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        redraft.rl.preflight.checks, "check_ray_address", lambda: asked.append("joined")
    )  # the cluster answers
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    check_machine(load_recipe([write_recipe(tmp_path)], ["cluster.backend=ray", "cluster.learner_gpus=8"]))
    assert asked == ["joined"]
