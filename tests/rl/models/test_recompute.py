"""Layers that are computed again in the backward pass: the same gradients, on the same routes."""

import torch

from oracles.tiny_policy import flat_gradient, tiny_model
from redraft.rl.models.llada2 import moe

IDS = torch.tensor([[3, 4, 5, 7, 7, 2, 1, 7], [6, 6, 7, 7, 1, 2, 3, 7]])


def gradient(recompute: bool) -> torch.Tensor:
    model = tiny_model()
    if recompute:
        model.checkpoint_layers()
    model(IDS, 4).square().sum().backward()
    return flat_gradient(model)


def test_recomputed_layers_have_the_gradient_of_kept_ones():
    assert torch.equal(gradient(recompute=True), gradient(recompute=False))


def test_a_layer_that_runs_again_keeps_its_routes_though_the_router_would_choose_others(monkeypatch):
    expected = gradient(recompute=False)
    choose, calls = moe.choose, []

    def near_a_tie(scores, bias, config):
        calls.append(choose(scores, bias, config))
        return calls[-1] if len(calls) == 1 else calls[-1].roll(1, dims=0)

    monkeypatch.setattr(moe, "choose", near_a_tie)
    assert torch.equal(gradient(recompute=True), expected)
    assert len(calls) == 2
    assert not torch.equal(calls[0], calls[1].roll(1, dims=0))
