"""Log-probabilities by slices of the vocabulary against the plain log-softmax of all logits."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from redraft.rl.likelihood import vocabulary as module
from redraft.rl.likelihood.vocabulary import columns_per_slice, token_log_probs

N, VOCAB, HIDDEN, MASK = 13, 37, 6, 20
CHUNKS = [1, 5, 8, 20, 21, 37, 64, None]  # 20 and 21: the mask token begins a slice, and ends one


def plain(hidden, weight, target, temperature):
    """Values and entropies from all logits, the mask token left out by hand."""
    allowed = [token for token in range(len(weight)) if token != MASK]
    logits = hidden @ weight.T / temperature
    distribution = torch.full_like(logits, -torch.inf)
    distribution[:, allowed] = logits[:, allowed].log_softmax(-1)
    log_prob = distribution.gather(-1, target[:, None])[:, 0]
    kept = distribution[:, allowed].detach()
    return log_prob, -(kept.exp() * kept.clamp_min(-1e300)).sum(-1)


def case(scale: float = 1.0, n: int = N, dtype: torch.dtype = torch.float64):
    source = torch.Generator().manual_seed(0)
    hidden = (scale * torch.randn(n, HIDDEN, dtype=torch.float64, generator=source)).to(dtype)
    weight = torch.randn(VOCAB, HIDDEN, dtype=torch.float64, generator=source).to(dtype)
    target = torch.randint(0, VOCAB - 1, (n,), generator=source)
    target += target >= MASK
    if n > 1:
        target[0], target[-1] = 0, VOCAB - 1
    return hidden.requires_grad_(), weight.requires_grad_(), target


def slopes(n: int) -> torch.Tensor:
    return torch.linspace(-1, 2, n, dtype=torch.float64)


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_values_and_gradients_are_those_of_the_plain_path(chunk_size, temperature, scale):
    hidden, weight, target = case(scale)
    log_prob, entropy = token_log_probs(hidden, weight, target, MASK, temperature, chunk_size)
    expected, expected_entropy = plain(hidden, weight, target, temperature)
    assert (expected.min() < -1000) == (scale == 1e3)
    torch.testing.assert_close(log_prob, expected, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(entropy, expected_entropy, rtol=1e-12, atol=1e-9)
    ours = torch.autograd.grad((log_prob * slopes(N)).sum(), [hidden, weight])
    theirs = torch.autograd.grad((expected * slopes(N)).sum(), [hidden, weight])
    for one, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 1e-2
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-9)


def test_the_gradient_is_that_of_finite_differences():
    hidden, weight, target = case(n=3)
    assert torch.autograd.gradcheck(lambda h, w: token_log_probs(h, w, target, MASK, 0.7, 8)[0], (hidden, weight))


@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_the_mask_token_has_no_probability_and_no_gradient(chunk_size):
    hidden, weight, target = case()
    target[3] = MASK
    log_prob, entropy = token_log_probs(hidden, weight, target, MASK, 1.0, chunk_size)
    assert (log_prob == -torch.inf).tolist() == [row == 3 for row in range(N)]
    assert entropy.isfinite().all()
    by_hidden, by_weight = torch.autograd.grad(log_prob.sum(), [hidden, weight])
    # As of a suppressed logit: every other token's share is still pushed down.
    share = torch.autograd.grad(
        -torch.cat([hidden[3] @ weight[:MASK].T, hidden[3] @ weight[MASK + 1 :].T]).logsumexp(0), hidden
    )
    torch.testing.assert_close(by_hidden[3], share[0][3], rtol=0, atol=1e-12)
    assert (by_weight[MASK] == 0).all()
    assert (by_weight[MASK + 1] != 0).all()


@pytest.mark.parametrize("chunk_size", [8, None])
def test_logits_so_large_that_their_exponentials_overflow_give_finite_results(chunk_size):
    hidden, weight, target = (part.detach() for part in case(1e30, dtype=torch.float32))
    target = (hidden @ weight.T).index_fill(1, torch.tensor([MASK]), -torch.inf).argmax(-1)
    log_prob, entropy = token_log_probs(hidden, weight, target, MASK, 1.0, chunk_size)
    assert log_prob.tolist() == [0.0] * N
    assert entropy.tolist() == [0.0] * N


def test_a_uniform_distribution_has_the_entropy_of_its_size():
    hidden, weight, target = case()
    log_prob, entropy = token_log_probs(torch.zeros_like(hidden), weight, target, MASK, 1.0, 8)
    expected = torch.tensor(VOCAB - 1.0, dtype=torch.float64).log()
    torch.testing.assert_close(entropy, expected.expand(N), rtol=0, atol=1e-12)
    torch.testing.assert_close(log_prob, -expected.expand(N), rtol=0, atol=1e-12)
    assert not entropy.requires_grad


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_no_product_is_spent_on_a_gradient_that_nobody_needs(frozen, monkeypatch):
    parts = dict(zip(("hidden", "weight", "target"), case(), strict=True))
    full = torch.autograd.grad((plain(*parts.values(), 1.0)[0] * slopes(N)).sum(), [parts["hidden"], parts["weight"]])
    parts[frozen].requires_grad_(False)
    calls, product = [], module._product
    log_prob, _ = token_log_probs(*parts.values(), MASK, 1.0, 8)
    monkeypatch.setattr(module, "_product", lambda left, right: calls.append(left.shape) or product(left, right))
    (log_prob * slopes(N)).sum().backward()
    assert len(calls) == 2 * 5  # in each of five slices: the logits again, and one gradient
    assert parts[frozen].grad is None
    learned = {"hidden": "weight", "weight": "hidden"}[frozen]
    torch.testing.assert_close(parts[learned].grad, full[learned == "weight"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk_size", [8, None])
def test_nothing_scored_gives_nothing_and_a_gradient_of_zero(chunk_size):
    hidden, weight, target = case(n=0)
    log_prob, entropy = token_log_probs(hidden, weight, target, MASK, 1.0, chunk_size)
    assert log_prob.shape == entropy.shape == (0,)
    log_prob.sum().backward()
    assert hidden.grad.shape == (0, HIDDEN)
    assert (weight.grad == 0).all()


def test_products_of_bf16_factors_are_summed_and_kept_in_fp32():
    hidden, weight, target = case(dtype=torch.bfloat16)
    log_prob, entropy = token_log_probs(hidden, weight, target, MASK, 1.0, 8)
    assert log_prob.dtype == entropy.dtype == torch.float32
    expected, _ = plain(hidden.double(), weight.double(), target, 1.0)
    torch.testing.assert_close(log_prob.double(), expected, rtol=0, atol=5e-6)
    rounded = (hidden @ weight.T).float()
    assert (rounded - hidden.float() @ weight.float().T).abs().max() > 1e-3  # what summing in bf16 would cost
    ours = torch.autograd.grad((log_prob * slopes(N).float()).sum(), [hidden, weight])
    exact = torch.autograd.grad((expected * slopes(N)).sum(), [hidden, weight])
    for one, other in zip(ours, exact, strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one, other, rtol=2**-8, atol=1e-5)  # one rounding, at the end


def test_under_autocast_the_factors_are_rounded_and_the_gradients_keep_their_types():
    hidden, weight, target = case(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        log_prob, _ = token_log_probs(hidden, weight, target, MASK, 1.0, 8)
    rounded, _ = token_log_probs(hidden.bfloat16(), weight.bfloat16(), target, MASK, 1.0, 8)
    unrounded, _ = token_log_probs(hidden, weight, target, MASK, 1.0, 8)
    assert torch.equal(log_prob, rounded)
    assert not torch.equal(log_prob, unrounded)
    log_prob.sum().backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scoring_without_a_graph_gives_the_same_bits(temperature):
    hidden, weight, target = case(dtype=torch.float32)
    with_graph = token_log_probs(hidden, weight, target, MASK, temperature, 8)
    with torch.no_grad():
        without = token_log_probs(hidden, weight, target, MASK, temperature, 8)
    assert all(torch.equal(one, other) for one, other in zip(with_graph, without, strict=True))


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, tuple | list) else (out,)
        self.numel = max([self.numel, *(part.numel() for part in made if isinstance(part, torch.Tensor))])
        return out


def test_no_tensor_is_larger_than_a_slice_forward_or_backward():
    hidden, weight, target = case(n=50)
    with Largest() as sliced:
        token_log_probs(hidden, weight, target, MASK, 0.7, 8)[0].sum().backward()
    assert sliced.numel == 50 * 8 > VOCAB * HIDDEN  # the head's gradient would be the next largest
    with Largest() as whole:
        plain(hidden, weight, target, 0.7)[0].sum().backward()
    assert whole.numel == 50 * VOCAB


def test_the_graph_keeps_inputs_and_one_number_per_position():
    hidden, weight, target = case(n=50)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        token_log_probs(hidden, weight, target, MASK, 0.7, 8)
    assert sorted(tensor.numel() for tensor in kept) == sorted([hidden.numel(), weight.numel(), 50, 50])


@pytest.mark.parametrize(("rows", "columns"), [(0, 1 << 20), (1024, 1024), (10**9, 128)])
def test_a_slice_has_the_columns_that_fit_and_never_too_few(rows, columns):
    assert columns_per_slice(rows, 4, "cpu") == columns
