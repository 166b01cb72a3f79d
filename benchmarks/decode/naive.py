"""Decoding without a cache, one prompt at a time: the baseline of `python -m benchmarks decode`.

As the published `generate` works: every denoising step runs the whole canvas so far, from the prompt to the end of the
active block. Shared with the decoder are the decisions of one step (`rollout.decoding.editing.denoise`), nothing
else.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmarks.common.dense import DenseScores
from redraft.rollout.blocks import block_causal_mask
from redraft.rollout.config import DecodeConfig
from redraft.rollout.decoding.editing import StepRules, denoise
from redraft.rollout.sampling import seed_tensor, uniform
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens

ActiveLogits = Callable[[Int[Tensor, "1 length"], int], Float[Tensor, "1 block vocab"]]
"""Logits of the last block of a canvas, which begins at the given position."""


class Row(NamedTuple):
    """What every way of decoding says about a prompt.

    Attributes:
        tokens: The completion.
        num_forwards: Forwards that it took part in.
        num_edits: Visible tokens that were replaced.
    """

    tokens: tuple[int, ...]
    num_forwards: int
    num_edits: int

    @classmethod
    def of(cls, completion: Completion) -> "Row":
        """The same of the decoder's own result."""
        return cls(completion.token_ids, completion.num_forwards, completion.trace.num_edits)


def whole_head(model: nn.Module, block_length: int) -> ActiveLogits:
    """Logits of all positions, of which the last block's are used: what the published code does."""

    def logits(canvas: Tensor, start: int) -> Tensor:
        return model(canvas, block_length)[:, start:]

    return logits


def active_head(model: Any, block_length: int) -> ActiveLogits:
    """The same body, the head on the active block alone: the baseline without its easiest saving."""

    def logits(canvas: Tensor, start: int) -> Tensor:
        positions = torch.arange(canvas.shape[1], device=canvas.device)[None]
        mask = block_causal_mask(positions, positions, block_length)
        return model.logits(model.hidden_states(canvas, positions, mask)[:, start:])

    return logits


@torch.inference_mode()
def decode_naive(
    logits: ActiveLogits, prompt: Prompt, config: DecodeConfig, tokens: SpecialTokens, device: torch.device
) -> Row:
    """Completes one prompt.

    Args:
        logits: The policy, see `whole_head` and `active_head`.
        prompt: The request.
        config: How it is decoded.
        tokens: Mask and stop ids.
        device: Of the policy.
    """
    size, begin = config.block_length, len(prompt.token_ids)
    limit, rules = begin + config.max_completion_length, StepRules.from_configs([config], device)
    seed = seed_tensor([prompt.seed], device)
    canvas = torch.tensor([prompt.token_ids], dtype=torch.int64, device=device)
    num_forwards = num_edits = post_steps = 0
    done = False
    while not done:
        start = canvas.shape[1] // size * size
        canvas = torch.cat([canvas, canvas.new_full((1, start + size - canvas.shape[1]), tokens.mask)], dim=1)
        positions = torch.arange(start, start + size, device=device)[None]
        own = positions >= begin
        final, post_steps = False, 0
        while not final:
            before = canvas[:, start:].clone()
            masked = (before == tokens.mask) & own
            noise = uniform(seed, torch.tensor([num_forwards], device=device), positions)
            step = denoise(before, masked, ~own, DenseScores(logits(canvas, start), tokens.mask), noise, rules)
            canvas[:, start:] = step.tokens
            changed = step.tokens != before
            num_forwards += 1
            num_edits += int((changed & ~masked).sum())
            full = not masked.any()
            post_steps += full
            settled = (full and not changed.any()) or post_steps >= config.post_steps
            final = bool(settled and not (masked & ~step.unmasked).any())
        stopped = set(canvas[0, max(start, begin) :].tolist()) & set(tokens.stops)
        done = bool(stopped) or canvas.shape[1] >= limit
    return Row(_cut(canvas[0, begin:limit].tolist(), tokens.stops), num_forwards, num_edits)


def _cut(generated: list[int], stops: tuple[int, ...]) -> tuple[int, ...]:
    """Up to and including the first stop token."""
    ends = [index + 1 for index, token in enumerate(generated) if token in stops]
    return tuple(generated[: min(ends, default=len(generated))])
