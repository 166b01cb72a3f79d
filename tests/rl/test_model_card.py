"""Policies are saved with a card that says how they were made, and with the settings that they were decoded with."""

import json

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from displays import Silent
from fake_hub import point_to, serving
from oracles.word_tokenizer import make_tokenizer
from redraft.rl.cli.main import app
from redraft.rl.config.recipe import load_recipe
from redraft.rl.models.generation import decode_defaults, write_generation
from redraft.rl.models.registry import find_text_side, load_text_side
from redraft.rl.stages.generate import decode_settings
from redraft.rl.stages.model_card import OURS, card_of_copy, card_of_run, write_card
from redraft.rl.verbs import train_recipe
from redraft.rollout.config import DecodeConfig
from redraft.rollout.special_ids import special_tokens
from tiny import make_policy, write_recipe

BASE = "---\nlicense: apache-2.0\ntags: [x]\n---\n# Base\n"
SETTINGS = {"block_length": 8, "threshold": 0.5, "editing_threshold": 0.3, "max_post_steps": 2}


def rewrite(folder, **values):
    file = folder / "generation_config.json"
    file.write_text(json.dumps(values))


@pytest.mark.heavy
def test_a_checkpoint_and_its_export_say_what_they_are(tmp_path):
    base = make_policy(tmp_path / "policy")
    (base / "README.md").write_text(BASE)
    rewrite(base, transformers_version="4.52", eos_token_id=0)
    recipe = write_recipe(tmp_path)
    train_recipe(load_recipe([recipe], ["trainer.total_steps=2"]), Silent(), resume=False)
    saved = tmp_path / "run" / "checkpoints" / "step_000002" / "hf"
    assert json.loads((saved / "generation_config.json").read_text()) == {
        "transformers_version": "4.52",
        "eos_token_id": [0, 1],
        "pad_token_id": 0,
        "mask_token_id": 2,
        **SETTINGS,
    }
    assert find_text_side(str(saved))[1] == find_text_side(str(base))[1]
    assert "| | step 0 |" in (saved / "README.md").read_text()  # of step 2 when it is saved

    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["export", str(tmp_path / "run"), "--out", str(out), "--dtype", "bfloat16"])
    assert done.output == f"{saved} written to {out}\n"
    card = ModelCard.load(out / "README.md")
    assert (card.data.license, card.data.pipeline_tag, card.data.get("base_model")) == (
        "apache-2.0",
        "text-generation",
        None,  # a local folder
    )
    for text in (
        "# run, step 2",
        f"made from `{base}` by reinforcement learning",
        "* method: estimator trajectory_sampled, loss clip\n* rewards: `reward.py:digits` (weight 1)\n",
        "* batches: 2, of 3 prompts with 4 completions each",
        "* learning rate 0.001, optimizer adamw, seed 0\n* all weights were trained",
        "On `arithmetic`, split test, 6 rows of it;",
        "| | step 0 | step 2 |\n|---|---|---|\n| `eval/accuracy` | ",
        "one seed, this decoder, these rows. They are no comparison",
    ):
        assert text in card.text, text
    assert (out / "generation_config.json").read_bytes() == (saved / "generation_config.json").read_bytes()

    (out / "README.md").write_text("mine")
    again = CliRunner().invoke(app, ["export", str(tmp_path / "run"), "--out", str(out)])
    assert again.output == f"{saved} written to {out}; your README.md there stays as it is\n"
    assert (out / "README.md").read_text() == "mine"


def test_a_copy_of_a_published_model_claims_nothing(tmp_path):
    (tmp_path / "README.md").write_text(BASE)
    card = ModelCard(card_of_copy("someone/tiny", tmp_path, "bfloat16"))
    assert (card.data.base_model, card.data.license) == ("someone/tiny", "apache-2.0")
    assert "Written by `redraft export` in bfloat16; the weights were not trained." in card.text
    (tmp_path / "README.md").write_text("---\nlicense: [broken\n---\n")
    assert "whose card named none" in card_of_copy("someone/tiny", tmp_path, "")


def test_the_card_of_a_run_on_a_model_of_the_hub_names_commit_and_data(tmp_path, monkeypatch):
    published = tmp_path / "published"
    published.mkdir()
    (published / "config.json").write_text("{}")
    (published / "README.md").write_text(BASE)
    with serving() as hub:
        point_to(hub.url, tmp_path / "cache", monkeypatch)
        commit = hub.publish("x/y", published)
        words = [f"output_dir={tmp_path}", "model.path=x/y", f"model.revision={commit}"]
        (tmp_path / "origin.json").write_text(json.dumps({"path": "x/y", "revision": None, "commit": commit}))
        card = ModelCard(card_of_run(tmp_path, load_recipe(["llada2_mini_lora_gsm8k"], words), 7))
    assert (card.data.base_model, card.data.license) == ("x/y", "apache-2.0")
    assert card.data.datasets == ["openai/gsm8k"]
    assert "adapters of rank 16 were trained (attention)" in card.text
    assert "Nothing: there was no evaluation." in card.text
    assert f"made from [x/y](https://huggingface.co/x/y) at commit `{commit}` by reinforcement" in card.text


def test_only_a_card_of_ours_is_replaced(tmp_path):
    assert write_card(tmp_path, f"{OURS}\none")
    assert write_card(tmp_path, f"{OURS}\ntwo")
    (tmp_path / "README.md").write_text("mine")
    assert not write_card(tmp_path, f"{OURS}\nthree")
    assert (tmp_path / "README.md").read_text() == "mine"


def test_generation_takes_what_the_model_names_unless_a_mode_is_asked_for(tmp_path):
    folder = make_policy(tmp_path)
    assert decode_settings(str(folder), None, {}) == DecodeConfig.preset("q", {"block_length": 32})
    write_generation(folder, load_text_side(str(folder))[0], DecodeConfig(**SETTINGS))
    assert decode_defaults(folder) == SETTINGS
    assert decode_settings(str(folder), None, {"threshold": 0.9}) == DecodeConfig(**{**SETTINGS, "threshold": 0.9})
    assert decode_settings(str(folder), "s", {}) == DecodeConfig.preset("s", {"block_length": 32})
    rewrite(folder, threshold=1.5)
    with pytest.raises(ValueError, match=r"generation_config.json: threshold: .*less than or equal to 1, got 1.5"):
        decode_settings(str(folder), None, {})


def test_a_pad_token_that_only_the_generation_config_names_is_taken(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    assert special_tokens(tokenizer, object(), {"pad_token_id": 7}).pad == 7
    assert special_tokens(tokenizer, object(), {}).pad == 2
    with pytest.raises(ValueError, match=r"pad_token_id in generation_config.json must be a token id, got 'x'"):
        special_tokens(tokenizer, object(), {"pad_token_id": "x"})
