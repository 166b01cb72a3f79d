"""A whole run with LoRA adapters: it learns, goes on exactly, and its policy is read by every command."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from typer.testing import CliRunner

from displays import Silent
from redraft.rl.cli.main import app
from redraft.rl.config.recipe import load_recipe
from redraft.rl.models.registry import load_policy
from redraft.rl.run import run_training
from redraft.rl.run_folder.checkpoint import complete_checkpoints
from redraft.rl.run_folder.recorder import Recorder
from tiny import make_policy, write_recipe

WORDS = (
    "model.lora={rank: 8, alpha: 128, targets: all}",
    "trainer.learning_rate=3e-2",
    "trainer.adam_beta2=0.9",
    "trainer.total_steps=14",
    "trainer.save_steps=7",
    "rollout.prompts_per_step=8",
    "rollout.num_generations=8",
    "algorithm.regulariser.kl.beta=0.001",
)


def run(recipe, folder, resume=False):
    config = load_recipe([recipe], [*WORDS, f"output_dir={folder}"])
    run_training(config, Recorder(config, Silent()), resume)
    return folder


def metrics(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    changing = ("time/", "decode/tokens_per_s", "reward/slowest", "rewards/digits/ms_")
    return [{key: value for key, value in row.items() if not key.startswith(changing)} for row in rows]


@pytest.mark.heavy
def test_a_run_with_adapters_learns_goes_on_exactly_and_is_exported(tmp_path):
    base = make_policy(tmp_path / "policy")
    recipe = write_recipe(tmp_path, evaluation=None)
    whole = run(recipe, tmp_path / "whole")
    rewards = [row["reward/mean"] for row in metrics(whole)]
    # The engine samples with the merged adapters: its log-probabilities are the learner's.
    assert max(row["mismatch/log_prob_abs"] for row in metrics(whole)) < 1e-4
    assert sum(rewards[-4:]) / 4 > 1.4 * sum(rewards[:2]) / 2, rewards

    _, last = complete_checkpoints(whole)
    resumed = tmp_path / "resumed"
    shutil.copytree(whole, resumed, ignore=shutil.ignore_patterns(last.name))
    run(recipe, resumed, resume=True)
    assert metrics(resumed) == metrics(whole)
    newest = complete_checkpoints(resumed)[-1]
    weights = (newest / "hf" / "adapter_model.safetensors").read_bytes()
    assert weights == (last / "hf" / "adapter_model.safetensors").read_bytes()
    assert not (last / "hf" / "model.safetensors").exists()
    kept = FileSystemReader(last / "state").read_metadata().state_dict_metadata
    assert {name for name in kept if "adapter" not in name} == {
        "model.layers.1.mlp.gate.expert_bias",  # a buffer of a few numbers
        "policy_version",
        "expert_order",
        *(name for name in kept if name.startswith("optimizer.param_groups")),
    }

    adapters, merged = tmp_path / "adapters", tmp_path / "merged"
    for words in (["--out", str(adapters)], ["--out", str(merged), "--merge"]):
        done = CliRunner().invoke(app, ["export", str(whole), *words])
        assert done.exit_code == 0, done.output
    config = json.loads((adapters / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (8, 128, str(base.resolve()))
    frozen, written = load_file(base / "model.safetensors"), load_file(merged / "model.safetensors")
    name = "model.layers.1.mlp.experts.2.up_proj"
    pair = load_file(adapters / "adapter_model.safetensors")
    a, b = (pair[f"base_model.model.{name}.lora_{kind}.weight"] for kind in "AB")
    torch.testing.assert_close(written[f"{name}.weight"], frozen[f"{name}.weight"] + 16 * b @ a)
    policy = load_policy(str(adapters), None, "cpu").state_dict()
    for key, value in load_policy(str(merged), None, "cpu").state_dict().items():
        assert torch.equal(policy[key], value), key
