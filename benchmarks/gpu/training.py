"""A training run in one process, from a policy made on the spot: it learns something, and its resume goes on."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.gpu.findings import Findings, Setting
from redraft.rl.config.recipe import load_recipe
from redraft.rl.models.registry import build_policy, save_policy
from redraft.rl.run import run_training
from redraft.rl.run_folder.recorder import Recorder

STEPS = 4
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 32,
    "n_group": 4,
    "topk_group": 2,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
DECODE = {
    "block_length": 8,
    "threshold": 0.5,
    "editing_threshold": 0.3,
    "max_post_steps": 2,
    "max_completion_length": 16,
    "temperature": 1.0,
    "edit_sampling": "sample",
    "unmask_confidence": "top",
}
REWARD = '''"""The share of digits: any policy gets some of it, so there is always something to learn."""


def digits(prompts, completions, **columns):
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]
'''


class _Plain:
    """Progress as plain lines: typer and rich need not be there."""

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        print(stage, step, f"reward {metrics.get('reward/mean', float('nan')):.4f}", flush=True)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def warn(self, text: str) -> None:
        print("warning:", text, flush=True)


def run(setting: Setting, findings: Findings) -> None:
    """Four steps at once, and two that are resumed for two more."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model, tokenizer, _ = build_policy(SHAPE, "float32", setting.device, 0, DECODE["block_length"])
        save_policy(model, folder / "policy", tokenizer)
        recipe = make_recipe(folder, setting)
        whole = train(recipe, folder / "whole", STEPS)
        _look(whole, folder, findings)
        with findings.case("resume"):
            train(recipe, folder / "halves", STEPS // 2)
            resumed = train(recipe, folder / "halves", STEPS, resume=True)
            _compare(whole, resumed, setting, findings)


def make_recipe(folder: Path, setting: Setting) -> Path:
    """Write a recipe of tiny steps beside a policy in `folder / "policy"`."""
    (folder / "reward.py").write_text(REWARD)
    recipe: dict[str, Any] = {
        "output_dir": str(folder / "unnamed"),
        "model": {"path": str(folder / "policy"), "device": setting.device},
        "data": {"path": "arithmetic", "kwargs": {"max_a": 9, "max_b": 9}},
        "rewards": [{"fn": f"{folder / 'reward.py'}:digits", "isolation": "inline"}],
        "rollout": {"prompts_per_step": 4, "num_generations": 8, "decode": DECODE, "dtype": "float32"},
        "trainer": {
            "total_steps": STEPS,
            "learning_rate": 1e-3,
            "save_steps": STEPS // 2,
            "precision": {"compute": "float32"},
        },
        "cluster": {"backend": "inprocess", "learner_threads": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    return path


def train(recipe: Path, out: Path, steps: int, *overrides: str, resume: bool = False) -> Path:
    """Run a recipe into the folder `out`, and return that."""
    config = load_recipe([recipe], [f"output_dir={out}", f"trainer.total_steps={steps}", *overrides])
    recorder = Recorder(config, _Plain())
    try:
        run_training(config, recorder, resume)
    finally:
        recorder.close()
    return out


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Read the metrics of a run's batches."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["stage"] == "train"]


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"step_{STEPS:06d}" / "hf" / "model.safetensors")


def _look(out: Path, folder: Path, findings: Findings) -> None:
    rows = rows_of(out)
    findings.equal("steps trained", [row["step"] for row in rows], list(range(1, STEPS + 1)))
    findings.at_least("smallest gradient norm", min(row["objective/grad_norm"] for row in rows), 1e-6)
    # The learner's replay of the decoder's own probabilities: float32 both, on the same device.
    worst = max(row["mismatch/log_prob_abs"] for row in rows)
    findings.at_most("learner against decoder, nats per token", worst, 1e-3)
    before, after = load_file(folder / "policy" / "model.safetensors"), _weights(out)
    moved = [name for name, value in after.items() if not torch.equal(value, before[name])]
    findings.at_least("tensors that moved", len(moved), len(after) // 2)
    findings.equal("all weights are finite", all(bool(value.isfinite().all()) for value in after.values()), True)
    columns = ("step", "reward", "gradient norm", "mismatch, nats")
    names = ("reward/mean", "objective/grad_norm", "mismatch/log_prob_abs")
    lines = [[str(row["step"]), *(f"{row[name]:.3g}" for name in names)] for row in rows]
    findings.table("Training", "Float32, everything in one process.", columns, lines)


def _compare(whole: Path, resumed: Path, setting: Setting, findings: Findings) -> None:
    findings.equal("steps after the resume", [row["step"] for row in rows_of(resumed)], list(range(1, STEPS + 1)))
    before = _flat(load_file(whole.parent / "policy" / "model.safetensors"))
    one, two = _flat(_weights(whole)), _flat(_weights(resumed))
    what, parted = "resumed against undisturbed, over the way gone", float((one - two).norm() / (one - before).norm())
    if setting.on_gpu:  # sums into shared places are of no fixed order there
        findings.at_most(what, parted, 0.2)
    else:
        findings.equal(what, parted, 0.0)


def _flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])
