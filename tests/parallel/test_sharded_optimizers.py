"""Optimizers with little memory step sharded weights bit for bit as whole ones, noise of the rounding included."""

import pytest
import torch
from torch.distributed.tensor import DTensor

from oracles.tiny_policy import tiny_model
from parallel.together import together
from redraft.rl.config.sections import TrainerConfig
from redraft.rl.learner.optim import make_optimizer
from redraft.rl.parallel.pieces import own_rows
from redraft.rl.parallel.shard import make_meshes, shard

OPTIMIZERS = [("adamw_bf16_sr", "none"), ("adamw_bf16_sr", "states"), ("adamw", "all")]


def weights_after(kind, offload, meshes=None):
    """Three steps of a bf16 network with gradients that depend on parameter and step alone."""
    model = tiny_model(dtype=torch.bfloat16)
    if meshes is not None:
        shard(model, meshes)
    config = TrainerConfig(learning_rate=1e-2, optimizer={"kind": kind, "offload": offload}, weight_decay=0.1)
    optimizer = make_optimizer(model, config, seed=3)
    for step in range(3):
        source = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape, generator=source).bfloat16()
            if isinstance(parameter, DTensor):
                first, own = own_rows(parameter.detach())
                gradient = DTensor.from_local(
                    gradient[first : first + len(own)].contiguous(),
                    parameter.device_mesh,
                    parameter.placements,
                    shape=parameter.shape,
                    stride=parameter.stride(),
                )
            parameter.grad = gradient
        optimizer.step()
    return [own_rows(parameter.detach()) for parameter in model.parameters()]


def rank_weights():
    meshes = make_meshes("cpu", 2)
    return [[(first, rows.clone()) for first, rows in weights_after(*one, meshes)] for one in OPTIMIZERS]


@pytest.mark.heavy
def test_sharded_steps_are_those_of_one_process_bit_for_bit():
    ranks = together(2, rank_weights)
    for number, (kind, offload) in enumerate(OPTIMIZERS):
        for parameter, (_, whole) in enumerate(weights_after(kind, offload)):
            for rank in ranks:
                first, rows = rank[number][parameter]
                assert torch.equal(rows, whole[first : first + len(rows)]), (kind, offload, parameter)
