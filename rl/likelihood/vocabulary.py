"""Log-probabilities of chosen tokens from hidden states, without ever holding all logits.

The head's product is made in slices of the vocabulary, with a running maximum and sum, and made once more in the
backward pass. That is a third more matrix work than the plain path, for the memory of one slice instead of positions
times vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

SLICE_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}
"""Size of one slice of logits: on a CPU what its cache holds, on a GPU enough work for its matrix units."""
LEAST_COLUMNS = 128
"""Columns of the narrowest slice: narrower products waste the matrix units."""


def token_log_probs(
    hidden: Float[Tensor, "n hidden"],
    head_weight: Float[Tensor, "vocab hidden"],
    target: Int[Tensor, " n"],
    mask_id: int,
    temperature: float,
    chunk_size: int | None = None,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """`log softmax(hidden head_weight^T / temperature)` at the targets, nats; the mask token's logit is -inf.

    Sums run in fp32 (float64 for float64 inputs) and so do the results. Under autocast the factors of the products are
    rounded to its dtype. Differentiable once, by hidden states and head weight; nothing is computed for one of them
    that needs no gradient.

    Args:
        hidden: Final hidden states.
        head_weight: The language-model head.
        target: Token to score at each position.
        mask_id: The mask token.
        temperature: Of the distribution that was sampled from.
        chunk_size: Columns of the vocabulary per slice; None takes as many as fit into `SLICE_BYTES`.

    Returns:
        Log-probability of each target and entropy of each distribution, in nats; the entropy carries no gradient.
    """
    device = hidden.device.type
    factors = torch.promote_types(hidden.dtype, head_weight.dtype)
    if torch.is_autocast_enabled(device) and factors != torch.float64:
        factors = torch.get_autocast_dtype(device)
    if chunk_size is None:
        chunk_size = columns_per_slice(len(hidden), torch.promote_types(factors, torch.float32).itemsize, device)
    head = _Head(mask_id, temperature, chunk_size, factors)
    with torch.autocast(device, enabled=False):
        return _TokenLogProbs.apply(hidden, head_weight, target, head)


def columns_per_slice(rows: int, itemsize: int, device: str) -> int:
    """Count vocabulary columns whose logits for `rows` positions fit into the device's `SLICE_BYTES`."""
    return max(SLICE_BYTES.get(device, SLICE_BYTES["cuda"]) // (max(rows, 1) * itemsize), LEAST_COLUMNS)


@dataclass(frozen=True)
class _Head:
    """The distribution of the head, and the types and slices of its computation."""

    mask_id: int
    temperature: float
    chunk_size: int
    factors: torch.dtype  # of hidden states and weight inside the products

    def logits(self, hidden: Tensor, weight: Tensor, start: int) -> Tensor:
        """Compute the tempered logits of the slice that starts at token `start`."""
        logits = _product(hidden, weight[start : start + self.chunk_size].to(self.factors).T)
        if self.temperature != 1.0:
            logits /= self.temperature
        logits[:, self.mask_columns(start)] = -torch.inf
        return logits

    def mask_columns(self, start: int) -> slice:
        """Find the mask token's column in the slice that starts at token `start`; empty if it lies elsewhere."""
        column = self.mask_id - start
        return slice(column, column + 1) if 0 <= column < self.chunk_size else slice(0, 0)

    def slices(self, hidden: Tensor, weight: Tensor) -> range:
        """List the first tokens of all slices; none without positions."""
        return range(0, len(weight) if len(hidden) else 0, self.chunk_size)


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, head: _Head) -> tuple[Tensor, Tensor]:
        rows = hidden.to(head.factors)
        dtype = torch.promote_types(head.factors, torch.float32)
        # The sums over tokens j of e_j = exp(logit_j - top) and of e_j (logit_j - top), rescaled as the maximum grows.
        top = torch.full(target.shape, torch.finfo(dtype).min, dtype=dtype, device=hidden.device)
        total, spread, chosen = torch.zeros_like(top), torch.zeros_like(top), torch.zeros_like(top)
        for start in head.slices(hidden, weight):
            logits = head.logits(rows, weight, start)
            column, inside = _columns(target, start, logits)
            chosen = torch.where(inside, logits.gather(1, column[:, None])[:, 0], chosen)
            higher = torch.maximum(top, logits.amax(-1))
            shift, top = top - higher, higher
            logits -= top[:, None]
            mass = logits.exp()
            logits[:, head.mask_columns(start)] = 0.0  # its mass is 0; 0 * -inf would be nan
            spread = shift.exp() * (spread + total * shift) + logits.mul_(mass).sum(-1)
            total = shift.exp() * total + mass.sum(-1)
        log_total = top + total.log()
        entropy = total.log() - spread / total
        ctx.save_for_backward(hidden, weight, target, log_total)
        ctx.head = head
        ctx.mark_non_differentiable(entropy)
        return chosen - log_total, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, target, log_total = ctx.saved_tensors
        head: _Head = ctx.head
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        rows, slope = hidden.to(head.factors), slope / head.temperature
        by_hidden = torch.zeros_like(hidden, dtype=slope.dtype) if need_hidden else None
        by_weight = torch.zeros_like(weight) if need_weight else None
        with torch.autocast(hidden.device.type, enabled=False):
            for start in head.slices(hidden, weight):
                # d log p_t / d logit_j = [j = t] - p_j, and 0 at the suppressed mask token whatever the target is.
                by_logits = head.logits(rows, weight, start).sub_(log_total[:, None]).exp_().mul_(-slope[:, None])
                column, inside = _columns(target, start, by_logits)
                hit = torch.where(inside & (target != head.mask_id), slope, 0.0)
                by_logits.scatter_add_(1, column[:, None], hit[:, None])
                if by_hidden is not None:
                    by_hidden += _product(by_logits, weight[start : start + head.chunk_size].to(head.factors))
                if by_weight is not None:
                    by_weight[start : start + head.chunk_size] = _product(by_logits.T, rows)
        return None if by_hidden is None else by_hidden.to(hidden.dtype), by_weight, None, None


def _columns(target: Tensor, start: int, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Find the targets' columns in a slice, and whether they lie in it; outside, the column is the nearest one."""
    column, width = target - start, logits.shape[1]
    return column.clamp(0, width - 1), (column >= 0) & (column < width)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Multiply matrices, summed in fp32 also where `right` has fewer bits; `left` may have more."""
    dtype = torch.promote_types(right.dtype, torch.float32)
    if right.dtype != dtype and right.is_cuda:
        return torch.mm(left.to(right.dtype), right, out_dtype=dtype)  # exact products on the bf16 matrix units
    return left.to(dtype) @ right.to(dtype)
