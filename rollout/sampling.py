"""The one categorical sampler: stateless uniforms and inverse-CDF draws."""

from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the same 64 bits as ``value``."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


_INCREMENT: Final = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS: Final = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def seed_tensor(seeds: list[int], device: torch.device | None = None) -> Int[Tensor, " rows"]:
    """Python integers of any size as int64 seeds (modulo 2^64)."""
    return torch.tensor([_signed(seed) for seed in seeds], dtype=torch.int64, device=device)


def _shift_right(bits: Int[Tensor, "*n"], count: int) -> Int[Tensor, "*n"]:
    """Logical shift (int64 shifts copy the sign bit)."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def mix(bits: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """The splitmix64 finaliser: a bijection of 64 bits in which every input bit moves every output bit."""
    bits = (bits ^ _shift_right(bits, 30)) * _MULTIPLIERS[0]
    bits = (bits ^ _shift_right(bits, 27)) * _MULTIPLIERS[1]
    return bits ^ _shift_right(bits, 31)


def uniform(
    seed: Int[Tensor, " rows"], forward: Int[Tensor, " rows"], position: Int[Tensor, "rows slots"]
) -> Float[Tensor, "rows slots"]:
    """Uniforms in [0, 1) that depend only on (seed, forward, position), so on no batch and no order.

    Args:
        seed: Seed of each row.
        forward: Forward of each row, from 0.
        position: Slot numbers.

    Returns:
        float64, multiples of 2^-52.
    """
    stream = mix(mix(seed + _INCREMENT) + (forward + 1) * _INCREMENT)
    bits = mix(stream[:, None] + (position + 1) * _INCREMENT)
    # 52 bits, not 53: u * total < total then holds in float64 for every total, which `draw` relies on.
    return _shift_right(bits, 12).double() * 2.0**-52


def truncate(
    logits: Float[Tensor, "n vocab"], top_k: Int[Tensor, "#n"] | None, top_p: Float[Tensor, "#n"] | None
) -> Float[Tensor, "n vocab"]:
    """Sets the logits of tokens outside the top k, then outside the nucleus of the rest, to -inf.

    Args:
        logits: Tempered logits.
        top_k: Tokens to keep; 0 keeps all. Of equal logits the lower id is kept. None: 0 everywhere.
        top_p: Probability that the kept tokens must reach, in (0, 1]; 1.0 keeps all. None: 1.0 everywhere.
    """
    if top_k is None and top_p is None:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        kept = torch.where(top_k > 0, top_k, logits.shape[-1])
        rank = torch.arange(logits.shape[-1], device=logits.device)
        ordered = ordered.masked_fill(rank >= kept[:, None], -torch.inf)
    if top_p is not None:
        probability = ordered.softmax(dim=-1)
        before = probability.cumsum(dim=-1) - probability
        before[:, 0] = 0.0  # the most probable token stays, whatever the rounding
        limit = top_p.to(before.dtype).masked_fill(top_p >= 1.0, torch.inf)
        ordered = ordered.masked_fill(before >= limit[:, None], -torch.inf)
    return torch.empty_like(logits).scatter_(-1, order, ordered)


def draw(
    logits: Float[Tensor, "n vocab"],
    noise: Float[Tensor, " n"],
    temperature: Float[Tensor, "#n"],
    top_k: Int[Tensor, "#n"] | None = None,
    top_p: Float[Tensor, "#n"] | None = None,
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Draws one token per row from softmax(logits / temperature), truncated, by inverting its distribution function.

    Args:
        logits: One row per draw; -inf is never drawn.
        noise: Uniforms from `uniform`.
        temperature: Greater than 0; of every row, or one for all.
        top_k: See `truncate`.
        top_p: See `truncate`.

    Returns:
        The tokens, and their log-probabilities in nats under the distribution they were drawn from.
    """
    tempered = logits / temperature.to(logits.dtype)[:, None]
    log_prob = truncate(tempered, top_k, top_p).log_softmax(dim=-1)
    cumulative = log_prob.double().exp().cumsum(dim=-1)
    target = noise[:, None] * cumulative[:, -1:]
    # The first index whose cumulative probability exceeds the target always has positive probability.
    token = torch.searchsorted(cumulative, target, right=True)
    return token.squeeze(-1), log_prob.gather(-1, token).squeeze(-1)
