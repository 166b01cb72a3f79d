"""The one categorical sampler: stateless uniforms and inverse-CDF draws."""

from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the same 64 bits as ``value``."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


_INCREMENT: Final = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS: Final = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))
_GROUP: Final = 64  # tokens that are first summed and then, if it falls among them, searched


def seed_tensor(seeds: list[int], device: torch.device | None = None) -> Int[Tensor, " sequences"]:
    """Turn Python integers of any size into int64 seeds (modulo 2^64)."""
    return torch.tensor([_signed(seed) for seed in seeds], dtype=torch.int64, device=device)


def _shift_right(bits: Int[Tensor, "*n"], count: int) -> Int[Tensor, "*n"]:
    """Shift logically (int64 shifts copy the sign bit)."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def mix(bits: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """The splitmix64 finaliser: a bijection of 64 bits in which every input bit moves every output bit."""
    bits = (bits ^ _shift_right(bits, 30)) * _MULTIPLIERS[0]
    bits = (bits ^ _shift_right(bits, 27)) * _MULTIPLIERS[1]
    return bits ^ _shift_right(bits, 31)


def uniform(
    seed: Int[Tensor, " sequences"], forward: Int[Tensor, " sequences"], position: Int[Tensor, "sequences positions"]
) -> Float[Tensor, "sequences positions"]:
    """Uniforms in [0, 1) that depend only on (seed, forward, position), so on no batch and no order.

    Args:
        seed: Of each sequence.
        forward: Forward of each sequence, from 0.
        position: Absolute positions.

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
    """Set the logits of tokens outside the top k, then outside the nucleus of the rest, to -inf.

    Args:
        logits: Tempered logits.
        top_k: Tokens to keep; 0 keeps all. Of equal logits the lower id is kept. Without it, every draw keeps all
            tokens.
        top_p: Probability that the kept tokens must reach, in (0, 1]; 1.0 keeps all. Without it, every draw keeps
            all tokens.
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
    """Draw one token each from softmax(logits / temperature), truncated, by inverting its distribution function.

    Args:
        logits: Of each draw; -inf is never drawn.
        noise: Uniforms from `uniform`.
        temperature: Greater than 0; of every draw, or one for all.
        top_k: See `truncate`.
        top_p: See `truncate`.

    Returns:
        The tokens, and their log-probabilities in nats under the distribution they were drawn from.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    temperature = temperature.to(logits.dtype)[:, None]
    tempered = truncate(logits / temperature, top_k, top_p)
    peak = tempered.amax(dim=-1, keepdim=True)
    weight = tempered.sub_(peak).exp_()
    token, total = _invert(weight, noise)
    log_weight = (logits.gather(-1, token[:, None]) / temperature - peak)[:, 0]
    return token, log_weight - total.log().to(log_weight.dtype)


def _invert(
    weight: Float[Tensor, "n vocab"], noise: Float[Tensor, " n"]
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Find the tokens at which the distribution functions of some weights pass the noise, and the sums of the weights.

    A running sum over a whole vocabulary in float64 costs more than all that leads up to it. So tokens are taken in
    groups: the running sums are those of the groups, and those inside the one group that the noise falls into.
    """
    weight = F.pad(weight, (0, -weight.shape[1] % _GROUP)) if weight.shape[1] % _GROUP else weight
    groups = weight.unflatten(-1, (-1, _GROUP))
    reached = F.pad(groups.sum(dim=-1).double().cumsum(dim=-1), (1, 0))
    total = reached[:, -1:]
    target = noise[:, None] * total
    # The first running sum above the target is that of a group, and then of a token, with positive weight.
    group = torch.searchsorted(reached[:, 1:].contiguous(), target, right=True)
    before, behind = reached.gather(-1, group), reached.gather(-1, group + 1)
    inside = groups.take_along_dim(group[..., None], dim=1)[:, 0].double().cumsum(dim=-1)
    end = inside[:, -1:]
    # What is left of the noise inside the group. Rounding must not carry it to the end of the group.
    rest = torch.minimum((target - before) / (behind - before) * end, end.nextafter(torch.zeros_like(end)))
    token = group * _GROUP + torch.searchsorted(inside, rest, right=True)
    return token[:, 0], total[:, 0]
