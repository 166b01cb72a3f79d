"""A learner on one rank that computes in bf16: float32 weights, float32 gradients, and the update of a bf16 copy."""

import copy

import pytest
import torch
import torch.distributed as dist

from oracles.tiny_policy import DECODE, TOKENS, rollouts, run_config, tiny_model
from redraft.rl.learner.learner import Learner
from redraft.rl.parallel.alone import join_alone
from redraft.rl.parallel.shard import shard
from redraft.rl.parallel.together import Together


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
