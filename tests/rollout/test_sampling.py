"""The stateless uniforms and the categorical sampler."""

import math

import pytest
import torch

from redraft.rollout.sampling import draw, seed_tensor, truncate, uniform

ONE = torch.ones(1, dtype=torch.float64)


def grid(seeds: int, forwards: int, positions: int) -> torch.Tensor:
    """Uniforms of consecutive counters, ``[seeds, forwards, positions]``."""
    seed = torch.arange(seeds).repeat_interleave(forwards)
    forward = torch.arange(forwards).repeat(seeds)
    return uniform(seed, forward, torch.arange(positions).expand(len(seed), -1)).view(seeds, forwards, positions)


def splitmix64(state: int) -> int:
    """One output of the published generator from its state, in Python integers."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def test_the_uniforms_are_splitmix64_nested_over_seed_forward_and_position():
    def reference(seed: int, forward: int, position: int) -> float:
        stream = splitmix64(seed % 2**64)
        stream = splitmix64((stream + forward * 0x9E3779B97F4A7C15) % 2**64)
        return (splitmix64((stream + position * 0x9E3779B97F4A7C15) % 2**64) >> 12) * 2.0**-52

    for seed, forward, position in [(0, 0, 0), (1, 2, 3), (2**63 + 5, 100, 31), (-7, 0, 4095), (2**64 - 1, 9, 8)]:
        drawn = uniform(seed_tensor([seed]), torch.tensor([forward]), torch.tensor([[position]]))
        assert drawn.item() == reference(seed, forward, position)


def test_splitmix64_is_the_published_one():
    assert splitmix64(1234567) == 6457827717110365317  # first output for this state in the reference code


def test_a_uniform_depends_on_nothing_but_its_own_counters():
    whole = grid(5, 4, 8)
    alone = uniform(torch.tensor([3]), torch.tensor([2]), torch.tensor([[6, 1]]))
    assert alone.tolist() == [[whole[3, 2, 6].item(), whole[3, 2, 1].item()]]


def test_seeds_of_any_size_are_taken_modulo_two_to_the_64():
    assert seed_tensor([0, 2**64, -1, 2**64 - 1, 2**63]).tolist() == [0, 0, -1, -1, -(2**63)]


def test_uniforms_have_the_moments_of_the_uniform_distribution():
    numbers = grid(100, 100, 100).flatten()
    n = len(numbers)
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    # Four standard errors: the variances of u, u^2 and u^3 are 1/12, 4/45 and 9/112.
    for power, variance in [(1, 1 / 12), (2, 4 / 45), (3, 9 / 112)]:
        assert abs((numbers**power).mean().item() - 1 / (power + 1)) < 4 * math.sqrt(variance / n)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_uniforms_fill_their_bins_evenly_along_every_counter(axes):
    """Chi-square with 255 degrees of freedom has mean 255 and standard deviation 22.6."""
    numbers = grid(64, 64, 64).permute(axes).reshape(64, -1)
    for part in numbers[:4]:  # one value of the first counter, all of the others
        counts = (part * 256).long().bincount(minlength=256).double()
        expected = len(part) / 256
        assert abs(((counts - expected) ** 2 / expected).sum().item() - 255) < 5 * 22.6


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("lag", [1, 2, 32])
def test_neighbouring_counters_are_not_correlated(axis, lag):
    numbers = grid(64, 64, 64)
    left = numbers.narrow(axis, 0, 64 - lag).flatten() - 0.5
    right = numbers.narrow(axis, lag, 64 - lag).flatten() - 0.5
    correlation = 12 * (left * right).mean().item()
    assert abs(correlation) < 4 / math.sqrt(len(left))
    # Low-order structure would show in the joint distribution of pairs even where the correlation is 0.
    cells = ((left + 0.5) * 16).long() * 16 + ((right + 0.5) * 16).long()
    expected = len(left) / 256
    statistic = ((cells.bincount(minlength=256) - expected) ** 2 / expected).sum().item()
    assert abs(statistic - 255) < 5 * 22.6


def test_counters_that_swap_roles_give_other_numbers():
    numbers = grid(32, 32, 32)
    assert numbers.unique().numel() == 32**3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_draws_follow_the_tempered_softmax(temperature):
    logits = torch.tensor([0.3, -1.0, 2.0, -math.inf, 0.9, 1.1], dtype=torch.float64)
    n = 200_000
    noise = uniform(torch.tensor([7]), torch.tensor([0]), torch.arange(n)[None])[0]
    token, log_prob = draw(logits.expand(n, -1), noise, torch.tensor([temperature]))
    expected = (logits / temperature).softmax(dim=0)
    observed = token.bincount(minlength=6) / n
    assert (observed - expected).abs().max() < 4 * math.sqrt(0.25 / n)
    assert observed[3] == 0.0
    torch.testing.assert_close(log_prob, expected.log()[token])


def test_a_draw_inverts_the_distribution_function():
    logits = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).log().expand(7, -1)
    noise = torch.tensor([0.0, 0.1999, 0.2001, 0.6999, 0.7001, 0.9999, 1 - 2**-52], dtype=torch.float64)
    assert draw(logits, noise, ONE)[0].tolist() == [0, 0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("possible", "vocab"), [(30, 50), (64, 128), (100, 300), (128, 200)])
def test_the_largest_uniform_never_draws_a_token_of_probability_zero(dtype, possible, vocab):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, vocab, generator=generator).to(dtype)
    logits[:, possible:] = -math.inf
    token, log_prob = draw(logits, torch.full((2000,), 1 - 2**-52, dtype=torch.float64), ONE)
    assert token.max() == possible - 1
    assert log_prob.isfinite().all()
    token, _ = draw(logits.flip(-1), torch.zeros(2000, dtype=torch.float64), ONE)
    assert (token == vocab - possible).all()


@pytest.mark.parametrize("vocab", [5, 64, 65, 500])
def test_draws_are_those_of_the_running_sum_over_the_whole_vocabulary(vocab):
    generator = torch.Generator().manual_seed(4)
    logits = 3.0 * torch.randn(4000, vocab, generator=generator, dtype=torch.float64)
    logits[torch.rand(4000, vocab, generator=generator) < 0.3] = -math.inf
    logits[:, vocab // 2] = 0.0
    noise = torch.rand(4000, generator=generator, dtype=torch.float64)
    token, log_prob = draw(logits, noise, 0.8 * ONE)
    expected = (logits / 0.8).log_softmax(-1)
    assert torch.equal(token, (expected.exp().cumsum(-1) <= noise[:, None]).sum(-1))
    torch.testing.assert_close(log_prob, expected.gather(-1, token[:, None])[:, 0], rtol=0, atol=1e-12)


def test_a_uniform_just_below_the_end_of_a_run_of_tokens_draws_no_impossible_token():
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(20_000, 200, generator=generator, dtype=torch.float64)
    weight[:, 60:70] = weight[:, 128:140] = 0.0
    reached = weight[:, :128].sum(-1) / weight.sum(-1)
    for steps in range(1, 5):
        reached = reached.nextafter(torch.zeros_like(reached))
        token, log_prob = draw(weight.log(), reached, ONE)
        assert ((token == 127) | (token == 140)).all(), steps  # rounding may go either way, but not astray
        assert log_prob.isfinite().all()


def test_tokens_too_improbable_for_a_sum_of_32_bits_are_still_drawn():
    logits = torch.full((1, 64), 2.0**-30).log()
    logits[0, 0] = 0.0
    largest = torch.full((1,), 1 - 2**-52, dtype=torch.float64)
    assert draw(logits, largest, ONE)[0].item() == 63
    assert draw(logits, largest - 2.0**-25, ONE)[0].item() in range(20, 44)  # half of what lies behind token 0


def test_rows_are_drawn_with_their_own_temperature_and_truncation():
    generator = torch.Generator().manual_seed(5)
    settings = [(0.5, 0, 1.0), (1.0, 0, 1.0), (1.0, 3, 1.0), (2.0, 0, 0.6), (0.7, 20, 0.9), (1.3, 1, 0.5)] * 50
    temperature, top_k, top_p = (torch.tensor(column) for column in zip(*settings, strict=True))
    logits = torch.randn(300, 100, generator=generator)
    noise = torch.rand(300, generator=generator, dtype=torch.float64)
    tokens, log_probs = draw(logits, noise, temperature, top_k, top_p)
    for row in range(300):
        own = slice(row, row + 1)
        plain = settings[row][1:] == (0, 1.0)
        truncation = (None, None) if plain else (top_k[own], top_p[own])
        token, log_prob = draw(logits[own], noise[own], temperature[own], *truncation)
        assert (token.item(), log_prob.item()) == (tokens[row].item(), log_probs[row].item())
    assert tokens[5::6].equal(logits[5::6].argmax(-1))
    assert not log_probs[5::6].any()


def test_drawing_leaves_the_logits_as_they_are():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    before = logits.clone()
    for top_k, top_p in [(0, 1.0), (3, 0.5)]:
        draw(logits, torch.rand(4, dtype=torch.float64), 0.7 * ONE, torch.tensor([top_k]), torch.tensor([top_p]))
        assert torch.equal(logits, before)


def test_no_draws_are_no_tokens():
    token, log_prob = draw(torch.zeros(0, 5), torch.zeros(0, dtype=torch.float64), ONE, 2 * ONE.long(), ONE / 2)
    assert (len(token), len(log_prob)) == (0, 0)


def kept(probabilities: list[float], top_k: int, top_p: float) -> list[int]:
    logits = torch.tensor([probabilities], dtype=torch.float64).log()
    return (
        truncate(logits, torch.tensor([top_k]), torch.tensor([top_p], dtype=torch.float64))[0]
        .isfinite()
        .nonzero()
        .flatten()
        .tolist()
    )


def test_top_k_keeps_the_k_most_probable_tokens_and_of_equal_ones_the_lower_id():
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=2, top_p=1.0) == [1, 3]
    assert kept([0.25, 0.25, 0.25, 0.25], top_k=2, top_p=1.0) == [0, 1]
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=9, top_p=1.0) == [0, 1, 2, 3]


def test_top_p_keeps_the_smallest_set_that_reaches_the_probability():
    table = [0.125, 0.5, 0.125, 0.25]
    assert kept(table, top_k=0, top_p=0.5) == [1]
    assert kept(table, top_k=0, top_p=0.51) == [1, 3]
    assert kept(table, top_k=0, top_p=0.8) == [0, 1, 3]
    assert kept(table, top_k=0, top_p=1e-9) == [1]


def test_top_p_is_counted_on_what_top_k_left():
    # Of 0.5, 0.25, 0.125, 0.125 the top 2 are renormalised to 2/3, 1/3: the nucleus of 0.6 is one token, of 0.7 two.
    table = [0.125, 0.5, 0.125, 0.25]
    assert kept(table, top_k=2, top_p=0.6) == [1]
    assert kept(table, top_k=2, top_p=0.7) == [1, 3]


def test_a_row_that_is_not_truncated_keeps_every_token_beside_rows_that_are():
    logits = 6.0 * torch.randn(32, 500, generator=torch.Generator().manual_seed(6))  # running sums round above 1
    top_k, top_p = torch.tensor([0, 9] * 16), torch.tensor([1.0, 0.5] * 16)
    left = truncate(logits, top_k, top_p)
    assert torch.equal(left[::2], logits[::2])
    assert (left[1::2].isfinite().sum(-1) <= 9).all()


def test_the_log_probability_of_a_draw_is_that_of_the_truncated_distribution():
    logits = torch.tensor([[0.125, 0.5, 0.125, 0.25]], dtype=torch.float64).log()
    token, log_prob = draw(logits, torch.tensor([0.9], dtype=torch.float64), ONE, 2 * ONE.long())
    assert (token.item(), log_prob.item()) == (3, pytest.approx(math.log(1 / 3)))
