"""What a resume compares between a checkpoint and the recipe, and what it says where they differ."""

import json

import pytest

from redraft.rl.config.moved import MOVED
from redraft.rl.config.recipe import RecipeError, load_recipe
from redraft.rl.preflight.resume import find_start
from redraft.rl.run_folder.checkpoint import save_checkpoint
from tiny import write_recipe


@pytest.fixture
def place(tmp_path):
    """A recipe and a run that has a checkpoint of it, with the content of its config.json."""
    config = load_recipe([write_recipe(tmp_path)], ["algorithm=ebpo"])
    saved = config.model_dump(mode="json")
    save_checkpoint(tmp_path, 1, lambda folder: None, {"trainer.json": {"step": 1}, "config.json": saved}, keep=1)
    return tmp_path, saved


def start(place, *words):
    return find_start(load_recipe([place / "recipe.yaml"], ["algorithm=ebpo", *words]), place, resume=True)


def test_the_same_recipe_goes_on(place):
    assert start(place[0]).name == "step_000001"


def test_it_goes_on_with_other_ranks_and_with_layers_computed_again(place):
    words = ["trainer.parallel={ranks: 4, expert_parallel: 2}", "trainer.activation_checkpointing=layer"]
    assert start(place[0], *words).name == "step_000001"


@pytest.mark.parametrize("key", [*MOVED, "overlong_buffer"])
def test_a_checkpoint_with_a_flat_algorithm_is_of_an_earlier_version_and_says_so_in_one_line(place, key):
    folder, saved = place
    flat = {"preset": None, "estimator": "elbo", "advantage": "dr_grpo", key: None}
    file = folder / "checkpoints" / "step_000001" / "config.json"
    # Of the same length as the manifest says.
    text = json.dumps({**saved, "algorithm": flat})
    file.write_text(text.ljust(file.stat().st_size))
    with pytest.raises(
        RecipeError, match=r"an earlier Redraft, whose algorithm section was flat: .*; start anew"
    ) as error:
        start(folder)
    assert "\n" not in str(error.value)
    assert "now None" not in str(error.value)


def test_of_a_section_with_another_kind_only_the_kind_is_named(place):
    with pytest.raises(RecipeError) as error:
        start(place[0], "algorithm.loss={kind: dpo, ratio: sequence}", "algorithm.estimator={kind: mean_field}")
    assert (
        "recipe: algorithm.estimator.kind was 'elbo', now 'mean_field', algorithm.loss.kind was 'clip', now 'dpo'"
        in str(error.value)
    )
    assert "now None" not in str(error.value)


def test_a_key_that_changed_is_named_with_both_values(place):
    with pytest.raises(
        RecipeError, match=r"algorithm.loss.epsilon was 0.2, now 0.3; resume with the same, or start anew"
    ):
        start(place[0], "algorithm.loss.epsilon=0.3")
