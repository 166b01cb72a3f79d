"""Token probabilities of one block by the ordinary forward: clean earlier blocks, then one noisy block.

Nothing is shared with `rl.likelihood.score`: no composite input, no gathering, no padding, one row at a time.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from redraft.rl.views import View
from redraft.rl.views.canvas import CanvasBatch
from redraft.rollout.trajectory import DecodeTrace


def block_log_probs(
    model: nn.Module, earlier: Sequence[int], block: Sequence[int], mask_id: int, temperature: float = 1.0
) -> Float[Tensor, "block vocab"]:
    """Log-probabilities at the slots of a block that follows final tokens; the mask token is left out."""
    ids = torch.tensor([[*earlier, *block]])
    logits = model(ids, len(block))[0, len(earlier) :] / temperature
    allowed = [token for token in range(logits.shape[-1]) if token != mask_id]
    result = torch.full_like(logits, -torch.inf)
    result[:, allowed] = logits[:, allowed] - logits[:, allowed].exp().sum(-1, keepdim=True).log()
    return result


def states_before(prompt: Sequence[int], trace: DecodeTrace, size: int) -> list[list[int]]:
    """The whole canvas before every forward of a trace, by replaying one action after the other."""
    canvas = [*prompt, *[trace.mask] * (size - len(prompt))]
    states = []
    for forward in range(trace.num_forwards):
        states.append(list(canvas))
        for at, position, new in zip(trace.forward, trace.position, trace.new, strict=True):
            if at == forward:
                canvas[len(prompt) + position] = new
    return states


def action_log_probs(
    model: nn.Module, prompt: Sequence[int], trace: DecodeTrace, block_length: int, temperature: float
) -> list[Tensor]:
    """Log-probability of every action of a trace, in the state that the decoder took it in."""
    size = len(prompt) + len(trace.unmask_forward)
    states = states_before(prompt, trace, size)
    result = []
    for forward, position, new in zip(trace.forward, trace.position, trace.new, strict=True):
        start = (len(prompt) + position) // block_length * block_length
        canvas = states[forward]
        block = canvas[start : start + block_length]
        log_probs = block_log_probs(model, canvas[:start], block, trace.mask, temperature)
        result.append(log_probs[len(prompt) + position - start, new])
    return result


def view_log_probs(model: nn.Module, batch: CanvasBatch, view: View, mask_id: int, temperature: float) -> list[Tensor]:
    """Log-probability of every scored position of a view, in row-major order."""
    size, blocks, result = batch.block_length, {}, []
    clean = batch.tokens if view.context is None else view.context
    for row, position in view.scored.nonzero().tolist():
        start = position // size * size
        if (row, start) not in blocks:
            earlier, block = clean[row, :start].tolist(), view.noisy[row, start : start + size].tolist()
            blocks[row, start] = block_log_probs(model, earlier, block, mask_id, temperature)
        result.append(blocks[row, start][position - start, view.target[row, position]])
    return result
