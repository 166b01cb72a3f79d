"""Adapters compute W + scale B A, start as the frozen network, and merge into the published tensors (float64)."""

import pytest
import torch
import torch.nn.functional as F

from oracles.adapted_policy import SCALE, adapted_model, merged_model
from oracles.tiny_policy import TOKENS, rollouts, run_config, tiny_model
from redraft.rl.learner.learner import Learner
from redraft.rl.models.adapter import Adapted, adapters_of, adapters_off, merger
from redraft.rl.models.llada2.lora import add_adapters, init_adapters
from redraft.rl.models.shape import shape_of
from redraft.rl.seeding import make_generator

IDS = torch.tensor([[5, 2, 7, 7, 3, 1, 7, 7], [2, 2, 6, 4, 7, 7, 7, 0]])


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_adapters_start_as_the_frozen_network_bit_for_bit(targets):
    model = adapted_model(targets, moved=False)
    assert torch.equal(model(IDS, 4), tiny_model()(IDS, 4))
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        name for name, _ in model.named_parameters() if ".adapter." in name
    }


def test_rows_are_merged_wherever_they_are_cut():
    model = adapted_model()
    merge, weights, whole = merger(model), model.state_dict(), merged_model(model).state_dict()
    for name in adapters_of(model):
        rows = torch.cat([merge(name, 0, weights[name][:1]), merge(name, 1, weights[name][1:])])
        torch.testing.assert_close(rows, whole[name], rtol=0, atol=1e-12)
    assert merge("norm.weight", 0, weights["norm.weight"]) is weights["norm.weight"]
    assert tiny_model().merger() is None


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_the_merged_network_is_the_adapted_one(targets):
    model = adapted_model(targets)
    plain = merged_model(model)
    assert (model(IDS, 4) - tiny_model()(IDS, 4)).abs().max() > 0.1
    torch.testing.assert_close(plain(IDS, 4), model(IDS, 4), rtol=0, atol=1e-12)
    with adapters_off(model):
        assert torch.equal(model(IDS, 4), tiny_model()(IDS, 4))
    assert (model(IDS, 4) - tiny_model()(IDS, 4)).abs().max() > 0.1


def test_gradients_are_those_of_the_written_out_product():
    """With L the loss and G = dL/dW of the merged network: dL/dA = s B^T G and dL/dB = s G A^T."""
    model = adapted_model()
    plain = merged_model(model)
    for network in (model, plain):
        F.cross_entropy(network(IDS, 4).flatten(0, 1), IDS.flatten()).backward()
    slopes = dict(plain.named_parameters())
    found = 0
    for name, adapter in adapters_of(model).items():
        slope = slopes[name].grad
        torch.testing.assert_close(adapter.A.grad, SCALE * adapter.B.mT @ slope, rtol=0, atol=1e-12)
        torch.testing.assert_close(adapter.B.grad, SCALE * slope @ adapter.A.mT, rtol=0, atol=1e-12)
        found += adapter.A.grad.abs().max() > 1e-4
    assert found == 6


def test_a_is_drawn_by_published_name_and_number():
    model = adapted_model(moved=False)
    named = adapters_of(model)
    stack, bound = named["layers.1.mlp.experts.gate_up_proj"].A, 16**-0.5
    for expert in range(4):
        generator = make_generator(3, "adapter layers.1.mlp.experts.gate_up_proj", expert)
        drawn = torch.empty(8, 16).uniform_(-bound, bound, generator=generator)
        assert torch.equal(stack[model.config.expert_place(expert)], drawn.double())


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_adapters_have_as_many_numbers_as_the_plan_counts(targets):
    model = adapted_model(targets)
    dense, experts = shape_of(model.config).adapter_parameters(8, targets)
    counts = {name: adapter.A.numel() + adapter.B.numel() for name, adapter in adapters_of(model).items()}
    assert sum(count for name, count in counts.items() if "experts" not in name) == dense
    assert sum(count for name, count in counts.items() if "experts" in name) == experts


def test_half_precision_weights_with_fp32_adapters_learn_in_fp32():
    model = tiny_model(dtype=torch.bfloat16)
    add_adapters(model, Adapted(8, 8.0, "all", "base"), torch.float32)
    init_adapters(model, seed=3)
    F.cross_entropy(model(IDS, 4).flatten(0, 1), IDS.flatten()).backward()
    for name, adapter in adapters_of(model).items():
        assert adapter.B.grad.dtype == torch.float32, name
        assert adapter.B.grad.abs().max() > 0, name


def test_the_reference_policy_is_the_network_with_adapters_off():
    config = run_config({"estimator": "trajectory", "beta": 0.1, "kl": "k3"}, {"learning_rate": 0.01})
    rows = rollouts(tiny_model(), [0, 5])
    plain = Learner(adapted_model("attention", moved=False), config, TOKENS, tiny_model().requires_grad_(False))
    shared = Learner(adapted_model("attention", moved=False), config, TOKENS)
    assert shared.reference is shared.model
    for _ in range(2):
        expected, found = plain.update(rows), shared.update(rows)
        del expected["time/update_s"], found["time/update_s"]
        assert found == expected
    assert expected["objective/kl"] > 0
