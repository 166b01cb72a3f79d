"""Adapters of a model on the hub name it by its name and commit, and are merged and read from there."""

import json

import pytest
from typer.testing import CliRunner

from displays import Silent
from fake_hub import point_to, serving
from redraft.rl.cli.main import app
from redraft.rl.config.recipe import load_recipe
from redraft.rl.verbs import train_recipe
from tiny import make_policy, write_recipe


@pytest.mark.heavy
def test_adapters_name_the_commit_of_their_base_and_find_it_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving() as hub:
        point_to(hub.url, tmp_path / "cache", monkeypatch)
        commit = hub.publish("me/policy", make_policy(tmp_path / "published"))
        words = ["model.path=me/policy", "model.lora={}", "trainer.total_steps=1", "evaluation=null"]
        train_recipe(load_recipe([write_recipe(tmp_path)], words), Silent(), resume=False)
        for out, more in {"adapters": [], "merged": ["--merge"]}.items():
            done = CliRunner().invoke(app, ["export", str(tmp_path / "run"), "--out", str(tmp_path / out), *more])
            assert done.exit_code == 0, done.exception
    config = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("me/policy", commit)
    for out, weights in {"adapters": "adapter_model.safetensors", "merged": "model.safetensors"}.items():
        assert (tmp_path / out / weights).is_file()
        card = (tmp_path / out / "README.md").read_text()
        assert "base_model: me/policy" in card
        assert f"[me/policy](https://huggingface.co/me/policy) at commit `{commit}`" in card
