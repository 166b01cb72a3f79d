import re
import typing

import pytest
import yaml

from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.recipe import RecipeError, dump_recipe, load_recipe
from redraft.rl.config.scalars import alternatives, section_types
from redraft.rl.config.schema import RunConfig
from redraft.rl.config.sections import LocalPath
from tiny import recipe, write_recipe


def test_a_saved_recipe_reads_back_equal(tmp_path):
    config = load_recipe([write_recipe(tmp_path)])
    saved = tmp_path / "resolved.yaml"
    saved.write_text(dump_recipe(config))
    assert load_recipe([saved]) == config


def test_later_files_and_then_overrides_win(tmp_path):
    first = write_recipe(tmp_path)
    second = tmp_path / "more.yaml"
    second.write_text("trainer: {learning_rate: 2e-4, warmup_steps: 3}\n")
    config = load_recipe([first, second], ["trainer.warmup_steps=5", "seed=7", "rollout.decode.threshold=0.6"])
    assert config.trainer.learning_rate == 2e-4
    assert config.trainer.warmup_steps == 5
    assert config.trainer.total_steps == 4
    assert (config.seed, config.rollout.decode.threshold) == (7, 0.6)


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001", "1.0e-4"])
def test_numbers_in_scientific_notation_are_numbers(tmp_path, text):
    config = load_recipe([write_recipe(tmp_path)], [f"trainer.learning_rate={text}"])
    assert config.trainer.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.learning_rte=1", r"trainer.learning_rte: unknown key 'learning_rte'; did you mean 'learning_rate'\?"),
        ("trianer.total_steps=1", r"trianer: unknown key 'trianer'; did you mean 'trainer'\?"),
        ("rollout.decode.treshold=0.5", r"did you mean 'threshold'\?"),
        ("evaluation.data.zzzzz=1", "valid keys: kwargs, max_rows, name, path, split, transform"),
        ("trainer.total_steps=many", "trainer.total_steps: Input should be a valid integer.*got 'many'"),
        ("trainer.total_steps=0", "trainer.total_steps: Input should be greater than 0, got 0"),
        ("rollout.decode.editing_threshold=1.3", "use 1.0 to switch editing off"),
        ("rollout.decode.temperature=0", "rollout.decode.temperature: Input should be greater than 0"),
        ("rollout.decode.unmask_confidence=drawn", "needs rollout.decode.unmask_confidence: top"),
        (
            "model.dtype=bfloat16",
            r"model.dtype: bfloat16 rounds .*; use .*\(redraft export --dtype bfloat16 writes .*$",
        ),
        ("model.dtype=float16", "model.dtype: unknown value 'float16'; .*valid: float32, float64, bfloat16$"),
        ("rollout.decode.top_p=0.9", "use top_k: 0 and top_p: 1.0"),
        ("rollout.decode.editing_window=2", "use editing_window: 1 while learning"),
        ("algorithm={estimator: elbo, loss: {ratio: token}}", "estimator 'elbo' has no token ratio"),
        ("evaluation.decode.block_length=4", "block_length.*must be equal"),
        ("rewards=[]", "rewards: must have at least one item"),
        ("seed", "write key.sub=value"),
        ("rollout.prompts_per_step=true", "rollout.prompts_per_step: Input should be a valid integer, got true"),
        ("rollout.prompts_per_step='3'", "Input should be a valid integer, got '3'"),
        ("data.max_rows=1.5", "data.max_rows: Input should be a valid integer, got 1.5"),
        ("data.max_rows=1_000", "data.max_rows: Input should be a valid integer, got '1_000'"),
        ("trainer.learning_rate=.inf", "trainer.learning_rate: must be a finite number, got inf"),
        ("trainer.learning_rate=1e999", "trainer.learning_rate: 1e999 is too large a number"),
        ("rewards.0.weight=.nan", "rewards.0.weight: must be a finite number"),
        ("rollout.decode.temperature=.inf", "rollout.decode.temperature: must be a finite number"),
        ("rewards.0.when={hash: 12e45678}", "rewards.0.when.hash: 12e45678 is too large a number; write it in quotes"),
        ("trainer.freeze_router='off'", "trainer.freeze_router: write true or false, got 'off'"),
        ("trainer.learning_rate=null", "trainer.learning_rate: Input should be a valid number, got null"),
        ("output_dir=null", "output_dir: must be text"),
        ("output_dir=''", "output_dir: a path must not be empty"),
        ("data.path=''", "data.path: a path must not be empty"),
        ("output_dir={a: 1}", "output_dir: must be text, got a mapping"),
        ("output_dir=@x", "not valid YAML: .*put text in quotes twice: output_dir="),
        ("trainer=5", "trainer: must be a mapping, e.g. trainer: {key: value}, got '5'"),
        ("report_to={a: 1}", r"report_to: must be a list, e.g. report_to: \[tensorboard\], got a mapping"),
        ("rewards=math_accuracy", r"rewards: must be a list, e.g. rewards: \[{fn: math_accuracy}\], got"),
        ("rewards.1.weight=2", "rewards.1: rewards is a list, its items have numbers: rewards.0 to rewards.0; or give"),
        ("rewards.-1.weight=2", "rewards.-1: rewards is a list"),
        ("rewards.weight=2", "rewards.weight: rewards is a list"),
        ("rewards=null", "rewards: is missing"),
        ("learning_rate=1e-4", "unknown key 'learning_rate'; did you mean trainer.learning_rate or sft.learning_rate"),
        ("trainer.beta=0.1", "did you mean algorithm.loss.beta or algorithm.regulariser.kl.beta"),
        ("algorithm.estimator={num_mc: 1, num_mc: 2}", "override .*: the key 'num_mc' is written twice"),
        (
            "algorithm.estimator=elbow",
            r"algorithm.estimator.kind: unknown kind 'elbow'; did you mean 'elbo'\?",
        ),
        ("algorithm.estimator.num_mcs=1", r"algorithm.estimator.num_mcs: .* did you mean 'num_mc'\?"),
        ("algorithm.loss.psi=1", "algorithm.loss.psi: this is a key of kind squared; valid here: epsilon,"),
        (
            "algorithm.loss={kind: dpo, ratio: token}",
            "algorithm.loss.ratio: this loss is defined on whole completions; use ratio: sequence, or leave it out$",
        ),
        ("algorithm.estimator=[elbo]", "estimator: must be one word or a mapping, e.g. estimator: trajectory, got"),
        ("algorithm.advantage=[1]", "advantage: must be one word or a mapping, e.g. advantage: dr_grpo, got"),
        ("algorithm=[1]", "algorithm: must be one word or a mapping, e.g. algorithm: vrbpo, got"),
        (
            "algorithm.loss.kind=null",
            "algorithm.loss.kind: null is no kind; leave it out, or write one of: clip, stable",
        ),
        ("algorithm.loss.kind=[1]", r"algorithm.loss.kind: a kind is one word, got \[1\]; valid: clip, stable"),
        (
            "algorithm.regulariser.kl=k4",
            "algorithm.regulariser.kl.kind: unknown kind 'k4'; .*valid: none, k2, k3, k1_reward",
        ),
        ("algorithm.regulariser.kl=k3", r"kl.beta: is missing; write kl: {kind: k3, beta: 0.01}, or kl: none$"),
        ("algorithm.regulariser.kl.beta=0", r"kl.beta: .* greater than 0, got 0; write kl: none to switch it off$"),
        (
            "algorithm.regulariser.anchor.num_mc=2",
            r"anchor.weight: is missing; write anchor: {kind: elbo, weight: 0.03}",
        ),
        (
            "algorithm.regulariser={anchor: {kind: none, weight: 1}}",
            "weight: this is a key of kind elbo; valid here: kind",
        ),
        ("algorithm.correction.path_check=lgo", "path_check: unknown value 'lgo'; did you mean 'log'"),
        ("cluster.backend=rya", r"cluster.backend: unknown value 'rya'; did you mean 'ray'\? valid: ray, inprocess"),
        ("report_to=wandbb", r"report_to.0: unknown value 'wandbb'; did you mean 'wandb'\?"),
        ("cluster.backend=null", "cluster.backend: unknown value null; valid: ray, inprocess"),
        ("algorithm={kind: ebpo}", r"algorithm.kind: unknown key 'kind'; did you mean 'preset'\?"),
        ("algorithm={name: ebpo}", r"algorithm.name: unknown key 'name'; did you mean 'preset'\?"),
        ("algorithm=dpo", "algorithm.preset: 'dpo' is a kind of loss; write algorithm: {loss: dpo}$"),
        ("algorithm=tracrl", "algorithm.preset: unknown preset 'tracrl'; did you mean 'tracerl'.* gdsd$"),
        ("algorithm.preset=[ebpo]", r"algorithm.preset: must be text, got \['ebpo'\]"),
        ("algorithm.estimator=ebpo", "estimator.kind: 'ebpo' is a preset; write algorithm: ebpo; valid kinds: traj"),
        ("ebpo", "override 'ebpo': this is a preset; write algorithm=ebpo"),
        ("algorithm={preset: bgpo, estimator: {edits: recorded}}", r"use estimator: {edits: none}, got 'recorded'"),
        (
            "algorithm={preset: unigrpo, loss: dpo, regulariser: {kl: {kind: k3, beta: 1}}}",
            r"yaml: algorithm: .* {kl: none}$",
        ),
        ("model.path=null", r"recipe.yaml: model.path is needed, or model.init"),
        ("algorithm.update.kind=x", "algorithm.update.kind: unknown key 'kind': this section has no kinds; valid keys"),
        (
            "algorithm.loss={kind: bgpo, ratio: {normaliser: batch}}",
            "algorithm.loss.ratio.normaliser: this is a key of another kind; valid here: gamma, kind",
        ),
        (
            "algorithm.estimator={kind: autoregressive, edits: draft}",
            "algorithm.estimator.edits.kind: unknown kind 'draft'; valid: none, recorded",
        ),
        (
            "algorithm.estimator={kind: elbo, noise: {kind: folded, tiles: true}}",
            "noise.tiles: this is a key of kind",
        ),
        ("data.kwargs={a: {b: 1, c: 2, b: 3}}", "override .*: the key 'b' is written twice"),
        ("model.path=~nobody-of-that-name/x", "model.path: .*no home folder of '~nobody-of-that-name'"),
        ("rewards.0.fn=~nobody-of-that-name/x.py:f", "rewards.0.fn: .*could not determine home"),
        ("model.path=null", "model.path is needed, or model.init"),
    ],
)
def test_a_mistake_is_named_with_what_would_be_valid(tmp_path, word, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe([write_recipe(tmp_path)], [word])


@pytest.mark.parametrize("loss", ["squared", "bgpo", "dpo", "sandwich"])
@pytest.mark.parametrize("ratio", ["token", "position", "wrong", "{kind: null}", "{kind: [1]}"])
def test_a_loss_of_whole_completions_says_which_ratio_it_takes(tmp_path, loss, ratio):
    with pytest.raises(RecipeError, match=r"is defined on whole completions; use ratio: sequence, or leave it out$"):
        load_recipe([write_recipe(tmp_path)], [f"algorithm.loss={{kind: {loss}, ratio: {ratio}}}"])


def test_an_unknown_key_inside_a_reward_is_named(tmp_path):
    rewards = [{"fn": "boxed_format", "wieght": 2.0}]
    with pytest.raises(RecipeError, match=r"rewards.0.wieght: unknown key 'wieght'; did you mean 'weight'\?"):
        load_recipe([write_recipe(tmp_path, rewards=rewards)])


def test_a_missing_recipe_lists_the_recipes_that_are_here():
    with pytest.raises(RecipeError, match=r"nowhere.yaml: no such recipe; recipes here: .*quickstart.yaml"):
        load_recipe(["nowhere.yaml"])


@pytest.mark.parametrize(("text", "message"), [("a: [1", "not valid YAML"), ("- 1", "a recipe is a mapping")])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe([path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a recipe is a mapping of sections, got nothing: the file is empty"),
        ("# nothing yet\n", "got nothing: the file is empty"),
        ("just words\n", "a recipe is a mapping of sections, got text"),
        (
            "trainer: {total_steps: 7}\nmodel: {}\ntrainer: {seed: 1}\n",
            "bad.yaml:3: the key 'trainer' is written twice",
        ),
        ("trainer.total_steps: 7\n", r"unknown key 'trainer.total_steps'; in a file .* trainer: {total_steps: \.\.\.}"),
    ],
)
def test_a_file_that_says_too_little_or_too_much_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe([path])


def test_a_folder_is_no_recipe(tmp_path):
    with pytest.raises(RecipeError, match="is a folder; a recipe is a YAML file"):
        load_recipe([tmp_path])


def test_an_unknown_reward_is_one_line(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'math_accuracy'") as error:
        load_recipe([write_recipe(tmp_path)], ["rewards=[{fn: math_acuracy}]"])
    assert "\n" not in str(error.value)


TEXTS = ["20240601", "2024-06-01", "1.0", "91e4573", "010", "off", "no", "true", "12e45678", "1_000", ".inf"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["output_dir", "data.name", "model.path", "evaluation.data.split"])
def test_where_the_schema_wants_text_it_is_taken_as_written(tmp_path, key, text):
    sections = {"model": {"init": {}}, "sft": {"data": {"path": "arithmetic"}}}
    config = read_back(tmp_path, load_recipe([write_recipe(tmp_path, **sections)], [f"{key}={text}"]))
    for part in key.split("."):
        config = getattr(config, part)
    assert config == text


def read_back(tmp_path, config):
    """What a saved run says is what it was."""
    saved = tmp_path / "resolved.yaml"
    saved.write_text(dump_recipe(config))
    assert load_recipe([saved]) == config
    return config


def test_off_is_a_choice_in_files_and_overrides(tmp_path):
    more = tmp_path / "more.yaml"
    more.write_text("trainer:\n  collapse_alarm: off\nalgorithm: {correction: {path_check: off}}\n")
    assert load_recipe([write_recipe(tmp_path), more]).trainer.collapse_alarm == "off"
    config = load_recipe(
        [write_recipe(tmp_path)], ["trainer.collapse_alarm=off", "algorithm.correction.path_check=off"]
    )
    assert (config.trainer.collapse_alarm, config.algorithm.correction.path_check) == ("off", "off")
    assert read_back(tmp_path, config) == config


@pytest.mark.parametrize(
    ("text", "expected"), [("off", False), ("No", False), ("on", True), ("YES", True), ("TRUE", True)]
)
def test_a_switch_takes_the_usual_words(tmp_path, text, expected):
    config = load_recipe([write_recipe(tmp_path)], [f"trainer.freeze_router={text}"])
    assert config.trainer.freeze_router is expected


def test_untyped_places_take_the_value_of_the_core_schema(tmp_path):
    words = [
        "rewards.0.when={country: no, hash: '12e45678', code: '7e2', flag: true, octal: 010, list: [off, 1e-3]}",
        "rewards.0.kwargs={penalty: -1e-3, up: +2e-1, cap: .inf, 1: text, by_length: {1: 2}}",
        "data.max_rows=010",
    ]
    config = read_back(tmp_path, load_recipe([write_recipe(tmp_path)], words))
    assert config.rewards[0].when == {
        "country": "no", "hash": "12e45678", "code": "7e2", "flag": True, "octal": 10, "list": ["off", 1e-3]
    }  # fmt: skip
    expected = {"penalty": -1e-3, "up": 0.2, "cap": float("inf"), "1": "text", "by_length": {1: 2}}
    assert config.rewards[0].kwargs == expected
    assert config.data.max_rows == 10


@pytest.mark.parametrize(
    "text", ["wandb", "[wandb]", "'wandb'", "null", "[]", "wandb,tensorboard", "[wandb, tensorboard]"]
)
def test_a_list_of_names_may_be_one_name_or_several_with_commas(tmp_path, text):
    config = load_recipe([write_recipe(tmp_path)], [f"report_to={text}"])
    assert config.report_to == tuple(name for name in ("wandb", "tensorboard") if name in text)


def test_an_item_of_a_list_is_changed_by_its_number(tmp_path):
    config = load_recipe([write_recipe(tmp_path)], ["rewards.0.weight=2", "rewards.0.kwargs.a=1"])
    assert (config.rewards[0].weight, config.rewards[0].kwargs) == (2.0, {"a": 1})
    assert config.rewards[0].fn.endswith("reward.py:digits")


@pytest.mark.parametrize("text", ["{}", "null", ""])
def test_a_mapping_can_be_emptied_and_filled_again(tmp_path, text):
    config = load_recipe([write_recipe(tmp_path)], [f"data.kwargs={text}"])
    assert config.data.kwargs == {}
    assert load_recipe([write_recipe(tmp_path)], [f"data.kwargs={text}", "data.kwargs.b=1"]).data.kwargs == {"b": 1}


def test_a_file_empties_what_an_earlier_one_said(tmp_path):
    more = tmp_path / "more.yaml"
    more.write_text("data: {kwargs: {}}\ntrainer:\nevaluation:\n")
    config = load_recipe([write_recipe(tmp_path), more])
    assert (config.data.kwargs, config.evaluation) == ({}, None)
    assert config.trainer == RunConfig.model_fields["trainer"].default
    more.write_text("{}\n")
    assert load_recipe([write_recipe(tmp_path), more]) == load_recipe([write_recipe(tmp_path)])


def test_of_two_overrides_the_later_one_wins(tmp_path):
    assert load_recipe([write_recipe(tmp_path)], ["seed=1", "seed=2"]).seed == 2


def test_every_path_of_a_recipe_knows_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    keys = ["output_dir", "model.path", "data.path", "evaluation.data.path", "sft.data.path", "rewards.0.fn"]
    config = load_recipe([write_recipe(tmp_path)], [f"{key}=~/x.py:f" for key in keys])
    found = [config.output_dir, config.model.path, config.data.path, config.evaluation.data.path]
    assert {*found, config.sft.data.path, config.rewards[0].fn} == {"/home/me/x.py:f"}
    assert load_recipe([write_recipe(tmp_path)], ["output_dir=a/~/b"]).output_dir == "a/~/b"


def test_every_key_that_holds_a_path_is_a_path_of_the_schema():
    """A new key that is named like a path must not be plain text."""
    found = dict(text_fields(RunConfig))
    paths = {name for name in found if re.search(r"(^|\.|_)(path|dir|file|folder)$", name)}
    assert paths == {"output_dir", "model.path", "data.path", "evaluation.data.path", "sft.data.path"}
    assert all(found[name] == LocalPath or LocalPath in typing.get_args(found[name]) for name in paths)


def text_fields(section, prefix=""):
    hints = typing.get_type_hints(section, include_extras=True)
    for name, field in section.model_fields.items():
        inner = section_types(field.annotation)
        for kind in inner:
            yield from text_fields(kind, f"{prefix}{name}.")
        if not inner and str in alternatives(field.annotation):
            yield f"{prefix}{name}", hints[name]


def undescribed(section, prefix=""):
    for name, field in section.model_fields.items():
        if not re.match(r"\S.{9,}\.$", field.description or "", re.DOTALL):
            yield f"{prefix}{name}"
        for kind in section_types(field.annotation):
            yield from undescribed(kind, f"{prefix}{name}.")


def test_every_key_of_a_recipe_has_a_description_in_a_sentence():
    assert list(undescribed(RunConfig)) == []


CHOICES = {
    "a preset in one word": (["algorithm=ebpo"], {"preset": "ebpo"}),
    "a key beside it": (["algorithm=ebpo", "algorithm.loss.epsilon=0.3"], {"preset": "ebpo", "loss": {"epsilon": 0.3}}),
    "and the other way round": (
        ["algorithm.loss.epsilon=0.3", "algorithm=ebpo"], {"preset": "ebpo", "loss": {"epsilon": 0.3}}
    ),
    "a kind in one word, then a key of it": (
        ["algorithm.estimator=elbo", "algorithm.estimator.num_mc=4"], {"estimator": {"kind": "elbo", "num_mc": 4}}
    ),
    "the same kind keeps its keys": (
        ["algorithm.estimator={kind: elbo, num_mc: 4}", "algorithm.estimator=elbo"],
        {"estimator": {"kind": "elbo", "num_mc": 4}},
    ),
    "another kind replaces them": (
        ["algorithm.estimator={kind: elbo, noise: coupled}", "algorithm.estimator.kind=coupled"],
        {"estimator": {"kind": "coupled"}},
    ),
    "inside of a section too": (
        ["algorithm.estimator={kind: elbo, noise: {kind: cyclic, tiles: true}}", "algorithm.estimator.noise=folded"],
        {"estimator": {"kind": "elbo", "noise": {"kind": "folded"}}},
    ),
    "an emptied section is the preset's": (
        ["algorithm={preset: espo, regulariser: {kl: {beta: 1}}}", "algorithm.regulariser={}"], {"preset": "espo"}
    ),
    "nothing": (["algorithm=null"], {}),
}  # fmt: skip


LAYERS = {
    "another kind than the one that is not written": (
        "{loss: {epsilon: 0.1}}", ["algorithm.loss=stable"], {"loss": "stable"},
    ),
    "it keeps no number of views": ("{estimator: {num_mc: 4}}", ["algorithm.estimator=elbo"], {"estimator": "elbo"}),
    "a key of the old kind is no mistake": ("{loss: {epsilon: 0.1}}", ["algorithm.loss=dpo"], {"loss": "dpo"}),
    "another kind than the preset's": (
        "{preset: stabledrl, loss: {epsilon: 0.5}}", ["algorithm.loss=clip"], {"preset": "stabledrl", "loss": "clip"},
    ),
    "the preset's kind": (
        "{preset: stabledrl, loss: {epsilon: 0.5}}", ["algorithm.loss=stable"],
        {"preset": "stabledrl", "loss": {"epsilon": 0.5}},
    ),
    "inside of a section": (
        "{estimator: {kind: elbo, noise: {tiles: true}}}", ["algorithm.estimator.noise=cyclic"],
        {"estimator": {"kind": "elbo", "noise": "cyclic"}},
    ),
    "the kind that is not written": (
        "{estimator: {kind: elbo, noise: {tiles: true}}}", ["algorithm.estimator.noise=exact_count"],
        {"estimator": {"kind": "elbo", "noise": {"kind": "exact_count", "tiles": True}}},
    ),
    "a kind that the keys ask for": (
        "{estimator: elbo, loss: {ratio: {gamma: 0.5}}}", ["algorithm.loss.ratio=sequence"],
        {"estimator": "elbo", "loss": {"ratio": {"kind": "sequence", "gamma": 0.5}}},
    ),
    "one command line is one layer": (
        "{loss: dpo}", ["algorithm.estimator.num_mc=4", "algorithm.estimator=elbo"],
        {"loss": "dpo", "estimator": {"kind": "elbo", "num_mc": 4}},
    ),
    "another preset replaces all": (
        "{preset: ebpo, loss: {epsilon: 0.1}, regulariser: {kl: {beta: 1}}}", ["algorithm=d2"], {"preset": "d2"},
    ),
    "and a key stands before or behind it": (
        "{preset: ebpo, regulariser: {kl: {beta: 1}}}", ["algorithm.loss.epsilon=0.3", "algorithm=d2"],
        {"preset": "d2", "loss": {"epsilon": 0.3}},
    ),
    "a preset for what had none": (
        "{regulariser: {kl: {beta: 1}}}", ["algorithm=d2"], {"preset": "d2", "regulariser": {"kl": {"beta": 1}}},
    ),
    "emptied and filled again": (
        "{regulariser: {kl: {kind: k3, beta: 2}}}", ["algorithm.regulariser={}", "algorithm.regulariser.kl.beta=1"],
        {"regulariser": {"kl": {"beta": 1}}},
    ),
    "a weight over another one keeps the kind": (
        "{preset: tracerl}", ["algorithm.regulariser.kl.beta=1"],
        {"preset": "tracerl", "regulariser": {"kl": {"kind": "k3", "beta": 1}}},
    ),
    "a weight over none": (
        "{regulariser: {kl: none, anchor: none}}", ["algorithm.regulariser={kl: {beta: 1}, anchor: {weight: 2}}"],
        {"regulariser": {"kl": {"kind": "k2", "beta": 1}, "anchor": {"kind": "elbo", "weight": 2}}},
    ),
    "none over a weight": (
        "{regulariser: {kl: {beta: 1}, anchor: {weight: 2}}}", ["algorithm.regulariser={kl: none, anchor: none}"], {},
    ),
    "none over a preset's": ("{preset: d2}", ["algorithm.regulariser.kl=none"], {"preset": "d2"}),
    "no preset and filled again": ("{preset: d2}", ["algorithm=null", "algorithm.loss=dpo"], {"loss": "dpo"}),
}  # fmt: skip


@pytest.mark.parametrize(("text", "words", "section"), LAYERS.values(), ids=LAYERS.keys())
def test_a_command_line_lies_over_the_choices_of_a_file(tmp_path, text, words, section):
    file, more = tmp_path / "file.yaml", tmp_path / "more.yaml"
    file.write_text(f"algorithm: {text}\n")
    assert load_recipe([write_recipe(tmp_path), file], words).algorithm == AlgorithmConfig(**section)
    if len(words) == 1:  # a later file says the same
        key, _, value = words[0].partition("=")
        for part in reversed(key.split(".")):
            value = f"{{{part}: {value}}}"
        more.write_text(value)
        assert load_recipe([write_recipe(tmp_path), file, more]).algorithm == AlgorithmConfig(**section)


def test_kind_is_a_key_like_others_outside_of_the_algorithm(tmp_path):
    words = ["data.kwargs={kind: none, preset: a, digits: 2}", "data.kwargs.kind=b", "data.kwargs.preset=c"]
    found = load_recipe([write_recipe(tmp_path)], words).data.kwargs
    assert {key: found[key] for key in ("kind", "preset", "digits")} == {"kind": "b", "preset": "c", "digits": 2}
    words = ["data.kwargs={kind: none}", "data.kwargs.digits=2"]
    assert load_recipe([write_recipe(tmp_path)], words).data.kwargs["kind"] == "none"


def test_a_key_over_a_list_where_a_choice_belongs_is_named_with_its_override(tmp_path):
    words = ["algorithm.estimator=[elbo]", "algorithm.estimator.num_mc=2"]
    with pytest.raises(RecipeError, match=r"override 'algorithm.estimator.num_mc=2': .*algorithm.estimator is a list"):
        load_recipe([write_recipe(tmp_path)], words)


@pytest.mark.parametrize("preset", ["d2", "ebpo", "vrbpo"])
def test_another_preset_over_a_resolved_recipe_is_that_preset(tmp_path, preset):
    for words in ([], ["algorithm=ebpo"]):
        saved = tmp_path / "resolved.yaml"
        saved.write_text(dump_recipe(load_recipe([write_recipe(tmp_path)], words)))
        assert load_recipe([saved], [f"algorithm={preset}"]).algorithm == AlgorithmConfig(preset=preset)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("algorithm.foo={}", "algorithm.foo: unknown key 'foo'"),
        ("algorithm={regularizer: {}}", "algorithm.regularizer: .* did you mean 'regulariser'"),
        ("algorithm={epsilon: {}}", "algorithm.epsilon has moved to algorithm.loss.epsilon"),
        ("algorithm={loss: {foo: {}}}", "algorithm.loss.foo: unknown key 'foo'"),
        ("algorithm.loss.epsilon={}", "algorithm.loss.epsilon: Input should be a valid number"),
        ("algorithm={loss: {kind: {}}}", "algorithm.loss.kind: a kind is one word, got {}"),
        ("algorithm.update={num_minibatches: {}}", "update.num_minibatches: Input should be a valid integer"),
        ("algorithm={estimator: {kind: elbo, cut: {}}}", "algorithm.estimator.cut: this is a key of kind trajectory,"),
        ("algorithm={preset: ebpo, estimator: {cut: {}}}", "algorithm.estimator.cut: this is a key of kind trajectory"),
        ("algorithm.preset={}", "algorithm.preset: must be text, got a mapping"),
    ],
)
def test_an_empty_mapping_stands_for_a_section_alone(tmp_path, word, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe([write_recipe(tmp_path)], [word])


@pytest.mark.parametrize(
    "word",
    ["algorithm.loss={}", "algorithm.loss.ratio={}", "algorithm={estimator: {cut: {}}}", "algorithm.correction={}"],
)
def test_an_empty_section_says_nothing(tmp_path, word):
    assert load_recipe([write_recipe(tmp_path)], [word]).algorithm == AlgorithmConfig()
    assert load_recipe(
        [write_recipe(tmp_path)], ["algorithm={estimator: elbo, loss: {ratio: {}}}"]
    ).algorithm == AlgorithmConfig.model_validate({"estimator": "elbo"})


@pytest.mark.parametrize(("words", "section"), CHOICES.values(), ids=CHOICES.keys())
def test_choices_of_files_and_overrides_lie_over_each_other(tmp_path, words, section):
    config = read_back(tmp_path, load_recipe([write_recipe(tmp_path)], words))
    assert config.algorithm == AlgorithmConfig(**section)
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump({"algorithm": section}))
    assert load_recipe([write_recipe(tmp_path), more]).algorithm == config.algorithm


def test_a_saved_recipe_says_what_was_chosen_before_its_keys(tmp_path):
    saved = dump_recipe(load_recipe([write_recipe(tmp_path)], ["algorithm=ebpo"]))
    assert "algorithm:\n  preset: ebpo\n  estimator:\n    kind: elbo\n    num_mc: 2\n" in saved


def test_every_recipe_of_the_repository_is_valid():
    from conftest import ROOT

    found = sorted((ROOT / "recipes").glob("*.yaml"))
    assert found
    for path in found:
        assert isinstance(load_recipe([path]), RunConfig)


def test_the_default_recipe_is_plain_yaml(tmp_path):
    assert RunConfig.model_validate(yaml.safe_load(yaml.safe_dump(recipe(tmp_path)))).rollout.num_generations == 4
