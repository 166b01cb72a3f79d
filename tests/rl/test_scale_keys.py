"""Keys of scale: values that make no sense are refused, and earlier checkpoints go on without the keys."""

import pytest

from redraft.rl.config.recipe import RecipeError, load_recipe
from redraft.rl.preflight.resume import find_start
from redraft.rl.run_folder.checkpoint import save_checkpoint
from tiny import write_recipe


def test_one_word_is_the_kind_of_an_optimizer_and_keeps_its_other_keys(tmp_path):
    more = tmp_path / "more.yaml"
    more.write_text("trainer: {optimizer: adamw_bf16_sr}\n")
    config = load_recipe([write_recipe(tmp_path), more], ["trainer.optimizer.offload=all", "model.dtype=bfloat16"])
    assert (config.trainer.optimizer.kind, config.trainer.optimizer.offload) == ("adamw_bf16_sr", "all")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.optimizer=adam"], "trainer.optimizer.kind: unknown value 'adam'; did you mean 'adamw'?"),
        (
            ["trainer.optimizer=adamw8bit", "trainer.optimizer.offload=all"],
            "trainer.optimizer: offload: all cannot move 8-bit moments to the host; use offload: none, or kind: adamw",
        ),
        (["model.lora.rank=12"], "model.lora.rank: Input should be a multiple of 8, got 12"),
        (
            ["model.dtype=bfloat16"],
            "model.dtype: bfloat16 rounds small updates away with trainer.optimizer: adamw; use adamw_bf16_sr",
        ),
        (
            ["trainer.optimizer=adamw_bf16_sr"],
            "trainer.optimizer: adamw_bf16_sr trains weights of model.dtype: bfloat16, got float32; use bfloat16",
        ),
        (
            ["trainer.optimizer=adamw_bf16_sr", "model.dtype=bfloat16", "sft={data: {path: arithmetic}}"],
            "the warm start (sft) rounds to nearest, which loses small updates of model.dtype: bfloat16; make it with",
        ),
        (
            ["model.lora={}", "trainer.freeze_router=false"],
            "model.lora freezes all weights, routers too; use trainer.freeze_router: true, or leave model.lora out",
        ),
        (["trainer.parallel.ranks=0"], "trainer.parallel.ranks: Input should be greater than 0, got 0"),
    ],
)
def test_values_that_make_no_sense_are_refused(tmp_path, words, message):
    with pytest.raises(RecipeError) as refused:
        load_recipe([write_recipe(tmp_path)], words)
    assert message in str(refused.value)


def test_a_checkpoint_that_is_older_than_a_key_goes_on_with_its_default(tmp_path):
    config = load_recipe([write_recipe(tmp_path)])
    saved = config.model_dump(mode="json")
    for key in ("optimizer", "parallel", "precision", "activation_checkpointing"):
        del saved["trainer"][key]
    del saved["rollout"]["dtype"]
    save_checkpoint(tmp_path, 1, lambda folder: None, {"trainer.json": {"step": 1}, "config.json": saved}, keep=1)
    assert find_start(config, tmp_path, resume=True)
    other = load_recipe([tmp_path / "recipe.yaml"], ["trainer.optimizer=adamw8bit"])
    with pytest.raises(RecipeError, match=r"trainer.optimizer.kind was 'adamw', now 'adamw8bit'"):
        find_start(other, tmp_path, resume=True)
