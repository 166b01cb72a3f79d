"""A learner on one rank that computes in bf16: float32 weights, float32 gradients, and the update of a bf16 copy."""

import contextlib
import copy
import json

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from displays import Silent
from oracles.tiny_policy import DECODE, TOKENS, rollouts, run_config, tiny_model
from redraft.rl.config.recipe import load_recipe
from redraft.rl.learner.learner import Learner
from redraft.rl.parallel.alone import join_alone
from redraft.rl.parallel.shard import shard
from redraft.rl.parallel.together import Together
from redraft.rl.run import run_training
from redraft.rl.run_folder.recorder import Recorder
from tiny import make_policy, write_recipe


@pytest.fixture
def meshes():
    yield join_alone(torch.device("cpu"))
    dist.destroy_process_group()


@pytest.mark.heavy
def test_a_rank_alone_keeps_float32_where_products_are_bf16(meshes):
    model, config = tiny_model(dtype=torch.float32), run_config()
    rows = rollouts(model, [3, 5], DECODE)
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    shard(model, meshes, torch.bfloat16)
    assert join_alone(torch.device("cpu")).dense.size() == 1
    found = Learner(model, config, TOKENS, lockstep=Together()).update(rows)
    expected = Learner(rounded, config, TOKENS).update(rows)
    assert found["objective/grad_norm"] == pytest.approx(expected["objective/grad_norm"], rel=0.02)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is None or parameter.grad.dtype == torch.float32, name


def test_one_rank_of_several_is_not_alone(monkeypatch):
    for name, value in [("is_initialized", True), ("get_world_size", 2), ("get_rank", 1)]:
        monkeypatch.setattr(dist, name, lambda value=value: value)
    with pytest.raises(RuntimeError, match="this process is rank 1 of 2 and cannot be alone"):
        join_alone(torch.device("cpu"))


def of_a_run(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    weights = load_file(out / "checkpoints" / "step_000002" / "hf" / "model.safetensors")
    return [row["objective/grad_norm"] for row in rows if row["stage"] == "train"], weights


@pytest.mark.heavy
def test_a_run_with_bf16_products_keeps_float32_weights_and_goes_on_bit_for_bit(tmp_path):
    make_policy(tmp_path / "policy")
    words = ["trainer.precision.compute=bfloat16", "trainer.save_steps=1", "algorithm.regulariser.kl.beta=0.01"]
    found = {}
    try:
        for name, steps in [("whole", (2,)), ("halves", (1, 2))]:
            for number in steps:
                end = [f"trainer.total_steps={number}", f"output_dir={tmp_path / name}", "model.device=cpu"]
                config = load_recipe([write_recipe(tmp_path)], [*words, *end])
                with contextlib.closing(Recorder(config, Silent())) as recorder:
                    run_training(config, recorder, resume=number > steps[0])
            found[name] = of_a_run(tmp_path / name)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    (norms, weights), (norms_again, weights_again) = found.values()
    assert norms == norms_again
    assert all(norm > 0 for norm in norms)
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float32"}
    for name, tensor in weights.items():
        assert torch.equal(tensor, weights_again[name]), name
