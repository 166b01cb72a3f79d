"""The router and the experts against slow versions written from the equations."""

import pytest
import torch

from oracles.llada2_reference import experts_by_loop, sigmoid_route
from redraft.rl.models.llada2 import LLADA2_MINI, LLaDA2Config
from redraft.rl.models.llada2.moe import Experts, MoE, Router, choose, weigh


def small_config(**changes) -> LLaDA2Config:
    sizes = {"hidden_size": 16, "num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 8}
    return LLADA2_MINI.model_copy(update={**sizes, "n_group": 4, "topk_group": 2, **changes})


def route(scores, bias, config):
    index = choose(scores, bias, config)
    return index, weigh(scores, index, config)


def as_dict(index, weight):
    return dict(zip(index.tolist(), weight.tolist(), strict=True))


@pytest.mark.parametrize(
    ("n_group", "topk_group", "k", "normalise"),
    [(4, 2, 4, True), (4, 4, 4, True), (1, 1, 3, True), (8, 3, 5, False), (2, 1, 8, True), (16, 5, 5, True)],
)
def test_route_agrees_with_the_slow_router_on_random_scores(n_group, topk_group, k, normalise):
    generator = torch.Generator().manual_seed(0)
    config = small_config(n_group=n_group, topk_group=topk_group, num_experts_per_tok=k, norm_topk_prob=normalise)
    scores = torch.rand(200, 16, generator=generator, dtype=torch.float64)
    bias = torch.randn(16, generator=generator, dtype=torch.float64) * 0.3
    index, weight = route(scores, bias, config)
    for token in range(len(scores)):
        expected = sigmoid_route(scores[token].tolist(), bias.tolist(), n_group, topk_group, k, normalise, 2.5)
        assert as_dict(index[token], weight[token]) == pytest.approx(expected, abs=1e-12)


def test_the_best_expert_is_dropped_when_its_group_is_weak():
    # Groups (0.9, 0.1), (0.6, 0.5): worth 1.0 and 1.1, so expert 0 is out although it scores highest.
    config = small_config(num_experts=4, n_group=2, topk_group=1, num_experts_per_tok=1)
    index, weight = route(torch.tensor([[0.9, 0.1, 0.6, 0.5]]), torch.zeros(4), config)
    assert index.tolist() == [[2]]
    assert weight.tolist() == [[2.5]]


def test_the_bias_moves_the_choice_but_not_the_weights():
    config = small_config(num_experts=4, n_group=1, topk_group=1, num_experts_per_tok=2)
    index, weight = route(torch.tensor([[0.8, 0.6, 0.4, 0.2]]), torch.tensor([-1.0, 0.0, 0.0, 1.0]), config)
    assert as_dict(index[0], weight[0]) == pytest.approx({3: 0.2 / 0.8 * 2.5, 1: 0.6 / 0.8 * 2.5})


def random_experts(dtype, config):
    generator = torch.Generator().manual_seed(1)
    experts = Experts(config).to(dtype)
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    hidden = torch.randn(40, config.hidden_size, generator=generator).to(dtype).requires_grad_()
    index = torch.stack([torch.randperm(12, generator=generator)[:4] for _ in range(40)])  # experts 12..15 stay empty
    weight = torch.rand(40, 4, generator=generator).to(dtype).requires_grad_()
    return experts, hidden, index, weight


@pytest.mark.parametrize(
    ("dtype", "inner", "tolerance"),
    [(torch.float64, 8, 1e-12), (torch.float32, 8, 1e-5), (torch.float32, 7, 1e-5), (torch.bfloat16, 8, 5e-2)],
)
def test_grouped_experts_equal_the_loop_in_values_and_gradients(dtype, inner, tolerance):
    experts, hidden, index, weight = random_experts(dtype, small_config(moe_intermediate_size=inner))
    inputs = [hidden, weight, experts.gate_up_proj, experts.down_proj]
    output = experts(hidden, index, weight)
    reference = [tensor.detach().double().requires_grad_() for tensor in inputs]
    at = experts.config.expert_place(torch.arange(16))  # the stack's order is that of places
    expected = experts_by_loop(*reference[:1], index, reference[1], reference[2][at], reference[3][at])
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = torch.autograd.grad(output, inputs, direction.to(dtype))
    expected_gradients = torch.autograd.grad(expected, reference, direction)
    for found, wanted in zip([output, *gradients], [expected, *expected_gradients], strict=True):
        assert found.dtype == dtype
        scale = wanted.abs().max()
        torch.testing.assert_close(found.double() / scale, wanted / scale, rtol=0, atol=tolerance)


def test_one_token_and_one_used_expert_are_enough():
    experts, hidden, _, weight = random_experts(torch.float32, small_config())
    index = torch.full((1, 1), 15)
    output = experts(hidden[:1], index, weight[:1, :1])
    place = experts.config.expert_place(index)
    expected = experts_by_loop(hidden[:1], place, weight[:1, :1], experts.gate_up_proj, experts.down_proj)
    torch.testing.assert_close(output, expected)


def test_the_router_stays_in_fp32_inside_a_bf16_model_and_under_autocast():
    router = Router(small_config())
    with torch.no_grad():
        router.weight.normal_(generator=torch.Generator().manual_seed(3))
        router.expert_bias.zero_()
    hidden = torch.randn(64, 16, generator=torch.Generator().manual_seed(4))
    index, weight = router(hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast_index, cast_weight = router(hidden)
    assert torch.equal(index, cast_index)
    assert torch.equal(weight, cast_weight)
    assert router.to(torch.bfloat16)(hidden.bfloat16())[1].dtype == torch.float32


def test_experts_follow_autocast_as_linear_layers_do():
    experts, hidden, index, weight = random_experts(torch.float32, small_config())
    exact = experts(hidden, index, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = experts(hidden, index, weight)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05 * exact.abs().max()


def test_a_cast_of_the_model_leaves_the_expert_bias_in_fp32_to_the_bit():
    router = Router(small_config())
    bias = torch.rand(16, generator=torch.Generator().manual_seed(5))
    router.expert_bias.copy_(bias)
    for dtype in (torch.bfloat16, torch.float64, torch.float16):
        router.to(dtype)
        assert router.weight.dtype == dtype
        assert router.expert_bias.dtype == torch.float32
        assert torch.equal(router.expert_bias, bias)
    assert torch.equal(router.state_dict()["expert_bias"], bias)


def test_the_shared_expert_is_added_unscaled():
    layer = MoE(small_config()).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(6))
        layer.gate.expert_bias.zero_()
        layer.experts.down_proj.zero_()
    hidden = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    torch.testing.assert_close(layer(hidden), layer.shared_experts(hidden), rtol=0, atol=1e-12)


def test_groups_take_turns_in_the_stack():
    config = small_config(num_experts=8, n_group=2, topk_group=1, num_experts_per_tok=1)
    assert [config.expert_at(place) for place in range(8)] == [0, 4, 1, 5, 2, 6, 3, 7]
    everyone = torch.arange(8)
    assert torch.equal(config.expert_place(config.expert_at(everyone)), everyone)
