"""A sharded network computes in bf16 what a bf16 copy of it computes, and keeps gradients in fp32."""

import copy

import pytest
import torch

from oracles.tiny_policy import tiny_model
from parallel.together import together
from redraft.rl.learner.optim import freeze_router
from redraft.rl.parallel.shard import make_meshes, shard

IDS = torch.tensor([[3, 4, 5, 7, 7, 2, 1, 7], [6, 6, 7, 7, 1, 2, 3, 7]])


def sharded_bf16(routers_learn):
    model = tiny_model(dtype=torch.float32)
    if not routers_learn:
        freeze_router(model)
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    shard(model, make_meshes("cpu", 2), compute=torch.bfloat16)
    logits = model(IDS, 4)
    logits.square().sum().backward()
    grads = {name: p.grad.full_tensor() for name, p in model.named_parameters() if p.grad is not None}
    rounded(IDS, 4).square().sum().backward()
    expected = {name: p.grad for name, p in rounded.named_parameters() if p.grad is not None}
    return logits.detach(), rounded(IDS, 4).detach(), grads, expected


@pytest.mark.heavy
def test_a_bf16_forward_is_that_of_a_bf16_copy_and_gradients_are_summed_in_fp32():
    for logits, expected, grads, rounded in together(2, sharded_bf16, False):
        assert torch.equal(logits, expected)
        assert grads.keys() == rounded.keys()
        for name, grad in grads.items():
            assert grad.dtype == torch.float32
            # Two ranks with the same rows: twice the gradient, and nothing is lost in the sum.
            scale = rounded[name].float().abs().max()
            assert (grad - 2 * rounded[name].float()).abs().max() <= 0.02 * scale, name


def router_types():
    model = tiny_model(dtype=torch.float32)
    shard(model, make_meshes("cpu", 2), compute=torch.bfloat16)
    gate, seen = model.layers[1].mlp.gate, []
    gate.register_forward_hook(lambda module, *_: seen.append(module.weight.dtype))
    model(IDS, 4)
    return seen


@pytest.mark.heavy
def test_a_router_that_learns_computes_with_its_fp32_weights():
    assert together(2, router_types) == [[torch.float32]] * 2
