"""Routes of the LLaDA2 network: what a tape records, and what replaying it does to values and gradients."""

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from oracles.llada2_reference import sigmoid_route
from oracles.tiny_policy import tiny_model
from redraft.rl.models.llada2 import LLaDA2Model, init_weights
from redraft.rl.models.llada2.moe import MoE
from redraft.rollout.blocks import block_causal_mask
from redraft.rollout.engine.protocol import as_routed_model
from redraft.rollout.engine.route_tape import RouteTape

LAYERS, TOKENS, K, EXPERTS = 2, 24, 3, 12
SIZES = {"num_hidden_layers": 3, "num_experts": EXPERTS, "num_experts_per_tok": K, "n_group": 4, "topk_group": 2}


def routed_model(dtype: torch.dtype = torch.float64, seed: int = 0) -> LLaDA2Model:
    """Two routed layers with a group-limited choice and a bias that matters."""
    model = LLaDA2Model(tiny_model().config.model_copy(update=SIZES), dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    init_weights(model, generator)
    for buffer in model.buffers():
        buffer.normal_(0.0, 0.1, generator=generator)
    return model


def perturbed(model: LLaDA2Model, size: float = 0.05) -> LLaDA2Model:
    """The same network some way on: every weight moved, the routers' too."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def outputs(model: LLaDA2Model, tape: RouteTape | None = None) -> Tensor:
    ids = torch.randint(0, 8, (3, TOKENS // 3), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(ids.shape[1])[None]
    mask = block_causal_mask(positions, positions, 4)
    return model.logits(model.hidden_states(ids, positions.expand_as(ids), mask, tape=tape))


def recorded(model: LLaDA2Model) -> Tensor:
    tape = model.route_tape()
    with torch.no_grad():
        outputs(model, tape)
    return tape.routes


def sets(routes: Tensor) -> list[list[set[int]]]:
    return [[set(token) for token in layer] for layer in routes.tolist()]


def share_equal(one: Tensor, other: Tensor) -> float:
    pairs = [a == b for x, y in zip(sets(one), sets(other), strict=True) for a, b in zip(x, y, strict=True)]
    return sum(pairs) / len(pairs)


def test_the_tape_records_the_experts_that_the_slow_router_chooses():
    model, inputs = routed_model(), []
    for layer in model.layers[1:]:
        layer.mlp.gate.register_forward_pre_hook(lambda gate, arguments: inputs.append((gate, arguments[0])))
    tape = model.route_tape()
    outputs(model, tape)
    assert tape.routes.shape == (LAYERS, TOKENS, K)
    assert tape.routes.dtype == torch.int16
    for layer, (gate, hidden) in enumerate(inputs):
        scores = (hidden @ gate.weight.T).sigmoid()
        for token in range(TOKENS):
            chosen = sigmoid_route(scores[token].tolist(), gate.expert_bias.tolist(), 4, 2, K, True, 2.5)
            assert set(tape.routes[layer, token].tolist()) == chosen.keys()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_recording_and_then_replaying_on_the_same_weights_changes_no_bit(dtype):
    model = routed_model(dtype)
    plain = outputs(model)
    gradients = torch.autograd.grad(plain.sum(), list(model.parameters()))
    recording = model.route_tape()
    assert torch.equal(outputs(model, recording), plain)
    replaying = model.route_tape(recording.routes)
    again = outputs(model, replaying)
    assert torch.equal(again, plain)
    for one, other in zip(torch.autograd.grad(again.sum(), list(model.parameters())), gradients, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(replaying.routes, recording.routes)
    assert replaying.agreement() == (LAYERS * TOKENS, LAYERS * TOKENS, LAYERS * TOKENS)
    assert recording.agreement() == (0, 0, 0)


def test_agreement_falls_with_moved_weights_and_replay_restores_it_to_one():
    model = routed_model()
    before = recorded(model)
    perturbed(model)
    live = recorded(model)
    share = share_equal(before, live)
    assert 0 < share < 1
    comparing, replaying = model.route_tape(before, replay=False), model.route_tape(before)
    compared, replayed = outputs(model, comparing), outputs(model, replaying)
    assert torch.equal(compared, outputs(model))
    assert not torch.equal(replayed, compared)
    found = comparing.agreement()
    assert found.used / found.known == found.live / found.known == pytest.approx(share, abs=1e-12)
    found = replaying.agreement()
    assert found.used / found.known == 1
    assert 0 < found.live / found.known < 1
    assert torch.equal(replaying.routes, before)


def test_agreement_compares_sets_and_leaves_out_unknown_routes():
    given = torch.tensor([[[0, 1], [2, 3], [-1, -1], [4, 5]]], dtype=torch.int16)
    tape = RouteTape(1, given, replay=False)
    tape.exchange(0, torch.tensor([[1, 0], [2, 4], [0, 1], [4, 5]]))
    assert tape.agreement() == (3, 2, 2)
    tape = RouteTape(1, given)
    tape.exchange(0, torch.tensor([[1, 0], [2, 4], [0, 1], [4, 5]]))
    assert tape.agreement() == (3, 3, 2)
    assert tape.routes.tolist() == [[[0, 1], [2, 3], [0, 1], [4, 5]]]


def test_tokens_without_a_given_route_are_routed_live():
    model = routed_model()
    given = recorded(model)
    perturbed(model)
    nothing = torch.full_like(given, -1)
    assert torch.equal(outputs(model, model.route_tape(nothing)), outputs(model))
    unknown = torch.arange(TOKENS) % 2 == 0
    tape = model.route_tape(given.masked_fill(unknown[:, None], -1))
    outputs(model, tape)
    live = recorded(model)
    # The first routed layer sees the same inputs in both forwards, so its live choice is known from the plain one.
    assert torch.equal(tape.routes[0, unknown], live[0, unknown])
    assert torch.equal(tape.routes[:, ~unknown], given[:, ~unknown])
    assert share_equal(live[:1, ~unknown], given[:1, ~unknown]) < 1
    assert tape.agreement().known == LAYERS * TOKENS / 2


def routed_layer() -> tuple[MoE, Tensor, Tensor, Tensor]:
    """A routed layer, inputs, routes of which some are not those the router would choose, and an output direction."""
    layer, generator = routed_model().layers[1].mlp, torch.Generator().manual_seed(2)
    hidden = torch.randn(1, 10, 16, generator=generator, dtype=torch.float64)
    routes = torch.stack([torch.randperm(EXPERTS, generator=generator)[:K] for _ in range(10)])
    direction = torch.randn(1, 10, 16, generator=generator, dtype=torch.float64)
    return layer, hidden, routes[None].to(torch.int16), direction


def router_gradient_by_loops(layer: MoE, hidden: Tensor, routes: Tensor, direction: Tensor) -> Tensor:
    """By the quotient rule: w_e = 2.5 s_e / S with S the sum over the route, s_j = sigmoid(W_j x)."""
    gradient = torch.zeros_like(layer.gate.weight)
    for x, route, along in zip(hidden[0], routes[0].tolist(), direction[0], strict=True):
        score = [1 / (1 + torch.exp(-(layer.gate.weight[e] @ x))) for e in route]
        total, slopes = sum(score), []
        for e in route:
            place = layer.gate.config.expert_place(e)
            gate, up = (layer.experts.gate_up_proj[place] @ x).chunk(2)
            slopes.append(along @ (layer.experts.down_proj[place] @ (gate / (1 + torch.exp(-gate)) * up)))
        for j, e in enumerate(route):
            by_score = 2.5 * sum(slopes[i] * ((i == j) / total - score[i] / total**2) for i in range(K))
            gradient[e] += by_score * score[j] * (1 - score[j]) * x
    return gradient


def test_the_router_gradient_under_replay_is_that_of_slow_loops():
    layer, hidden, routes, direction = routed_layer()
    (gradient,) = torch.autograd.grad((layer(hidden, RouteTape(1, routes)) * direction).sum(), [layer.gate.weight])
    with torch.no_grad():
        expected = router_gradient_by_loops(layer, hidden, routes, direction)
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)


def test_replayed_experts_that_the_live_router_would_drop_keep_their_gradient():
    layer, hidden, routes, direction = routed_layer()
    recording = RouteTape(1)
    layer(hidden, recording)
    given, chosen = sets(routes)[0], sets(recording.routes)[0]
    drifted = [token for token in range(10) if not given[token] & chosen[token]]
    assert len(drifted) > 1
    for token in drifted:
        one = slice(token, token + 1)
        output = layer(hidden[:, one], RouteTape(1, routes[:, one]))
        (gradient,) = torch.autograd.grad((output * direction[:, one]).sum(), [layer.gate.weight])
        assert set(gradient.abs().amax(-1).gt(1e-6).nonzero()[:, 0].tolist()) == given[token]


def test_with_replayed_routes_the_whole_network_is_smooth_and_its_gradient_the_difference_quotient():
    model = routed_model()
    given = recorded(model)
    perturbed(model)

    def loss() -> Tensor:
        return outputs(model, model.route_tape(given)).log_softmax(-1)[..., 3].sum()

    routers = [layer.mlp.gate.weight for layer in model.layers[1:]]
    gradients = torch.autograd.grad(loss(), routers)
    generator, step = torch.Generator().manual_seed(3), 1e-5
    for router, gradient in zip(routers, gradients, strict=True):
        direction = torch.randn(router.shape, generator=generator, dtype=torch.float64)
        values = []
        for sign in (1, -2, 1):
            with torch.no_grad():
                router.add_(sign * step * direction)
                values.append(loss().item())
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-7)
        assert abs(slope) > 1e-3


def test_the_bias_never_moves_and_has_no_say_on_replayed_routes():
    model = routed_model()
    given, plain = recorded(model), outputs(model, model.route_tape(recorded(model)))
    biases = [buffer.clone() for buffer in model.buffers()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    plain.sum().backward()
    optimizer.step()
    assert len(biases) == LAYERS
    assert all(torch.equal(one, other) for one, other in zip(model.buffers(), biases, strict=True))
    replayed, live = outputs(model, model.route_tape(given)), outputs(model)
    for buffer in model.buffers():
        buffer.copy_(buffer.flip(0))
    assert torch.equal(outputs(model, model.route_tape(given)), replayed)
    assert not torch.equal(outputs(model), live)


def test_the_router_stays_in_fp32_under_replay_and_autocast():
    layer, hidden, routes, _ = routed_layer()
    gate, hidden = layer.gate.float(), hidden[0].float()
    _, exact = gate(hidden, RouteTape(1, routes))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, weight = gate(hidden, RouteTape(1, routes))
    assert weight.dtype == torch.float32
    assert torch.equal(weight, exact)


def test_a_forward_that_runs_again_for_its_backward_writes_the_same_tape():
    model = routed_model()
    given = recorded(model)
    perturbed(model)
    tapes = [model.route_tape(given, replay=False) for _ in range(2)]
    plain = outputs(model, tapes[0])
    again = checkpoint(outputs, model, tapes[1], use_reentrant=False)
    again.sum().backward()
    assert torch.equal(plain, again)
    assert torch.equal(tapes[0].routes, tapes[1].routes)
    assert tapes[0].agreement() == tapes[1].agreement()


def test_wrong_tapes_are_refused_with_what_is_wrong():
    model = routed_model()
    given = recorded(model)
    with pytest.raises(ValueError, match="routes of 1 layers were given to a network with 2 routed layers"):
        model.route_tape(given[:1])
    with pytest.raises(ValueError, match=r"given for \[tokens, k\] = \[23, 3\], but \[24, 3\] are routed"):
        outputs(model, model.route_tape(given[:, 1:]))
    with pytest.raises(ValueError, match="holds expert 12; valid: 0 to 11"):
        model.route_tape(given.clamp_min(12))
    with pytest.raises(RuntimeError, match="0 of 2 routed layers wrote to the tape"):
        _ = model.route_tape().routes
    dense = LLaDA2Model(model.config.model_copy(update={"first_k_dense_replace": 3}), device="meta")
    with pytest.raises(ValueError, match="all 3 layers are dense"):
        dense.route_tape()


def test_a_model_without_routers_is_refused_by_name():
    model = routed_model()
    assert as_routed_model(model) is model
    with pytest.raises(TypeError, match="Linear can neither record nor replay routes: it has no route_tape"):
        as_routed_model(torch.nn.Linear(2, 2))
