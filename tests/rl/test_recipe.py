import pytest
import yaml

from rl.config import RunConfig
from rl.recipe import RecipeError, dump_recipe, load_recipe
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
    config = load_recipe([first, second], ["trainer.warmup_steps=5", "--seed=7", "rollout.decode.threshold=0.6"])
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
        ("model.dtype=bfloat16", "train in float32"),
        ("rollout.decode.top_p=0.9", "use top_k: 0 and top_p: 1.0"),
        ("rollout.decode.editing_window=2", "use editing_window: 1 while learning"),
        ("algorithm={estimator: elbo, ratio: token}", "an ELBO has no token ratio"),
        ("evaluation.decode.block_length=4", "block_length.*must be equal"),
        ("rewards=[]", "rewards: .*at least 1"),
        ("seed", "write key.sub=value"),
        ("model.path=null", "model.path is needed, or model.init"),
    ],
)
def test_a_mistake_is_named_with_what_would_be_valid(tmp_path, word, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe([write_recipe(tmp_path)], [word])


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


def test_every_recipe_of_the_repository_is_valid():
    from conftest import ROOT

    found = sorted((ROOT / "recipes").glob("*.yaml"))
    assert found
    for path in found:
        assert isinstance(load_recipe([path]), RunConfig)


def test_the_default_recipe_is_plain_yaml(tmp_path):
    assert RunConfig.model_validate(yaml.safe_load(yaml.safe_dump(recipe(tmp_path)))).rollout.num_generations == 4
