"""Completions as tensors: the canvas of every completion on the block grid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from redraft.rl.protocols import Experience
from redraft.rollout.blocks import padded_length
from redraft.rollout.sampling import mix
from redraft.rollout.trajectory import DecodeTrace


@dataclass(frozen=True)
class CanvasBatch:
    """Prompts with their whole canvases, padded to whole blocks: one sequence per completion.

    Padding only fills later blocks or the tail of the last one, which block-causal attention hides from every scored
    position before it; canvases end on the block grid, so nothing else shares their blocks.

    Attributes:
        tokens: Prompt, canvas and padding.
        editable: Positions of the canvas, that is of generated tokens.
        advantages: Per sequence.
        noise_seeds: Per sequence: its noise is the same in every batch.
        groups: Completions of one prompt have the same number.
        traces: What the decoder did, per sequence; empty where no view needs it.
        prompt_lengths: Tokens before the canvas, per sequence.
        block_length: Tokens per block.
    """

    tokens: Int[Tensor, "batch length"]
    editable: Bool[Tensor, "batch length"]
    advantages: Float[Tensor, " batch"]
    noise_seeds: Int[Tensor, " batch"]
    groups: Int[Tensor, " batch"]
    traces: tuple[DecodeTrace, ...]
    prompt_lengths: tuple[int, ...]
    block_length: int

    @property
    def first_editable(self) -> int:
        """First position of the first block that holds a generated token of any sequence."""
        return min(self.prompt_lengths) // self.block_length * self.block_length


def collate(rows: Sequence[Experience], block_length: int, pad_id: int, device: str | torch.device) -> CanvasBatch:
    """Put completions on one grid of blocks."""
    prompts = [row.prompt.token_ids for row in rows]
    canvases = [row.completion.canvas_ids for row in rows]
    tokens, editable = pad_to_grid(prompts, canvases, block_length, pad_id)
    return CanvasBatch(
        tokens=tokens.to(device),
        editable=editable.to(device),
        advantages=torch.tensor([row.advantage for row in rows], dtype=torch.float64, device=device),
        noise_seeds=torch.tensor([row.noise_seed for row in rows], device=device),
        groups=torch.tensor([row.prompt.group for row in rows], device=device),
        traces=tuple(row.completion.trace for row in rows),
        prompt_lengths=tuple(map(len, prompts)),
        block_length=block_length,
    )


def redrawn(batch: CanvasBatch, redraw: int) -> CanvasBatch:
    """Give the canvases the noise of another pass over them; pass 0 keeps the seeds of the batch."""
    return batch if redraw == 0 else replace(batch, noise_seeds=mix(batch.noise_seeds + redraw))


def pad_to_grid(
    prompts: Sequence[Sequence[int]], canvases: Sequence[Sequence[int]], block_length: int, pad_id: int
) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """Write prompts and their canvases one after the other, and pad all to the same number of whole blocks.

    Returns:
        The tokens, and which of them are canvas.
    """
    sizes = [len(prompt) + len(canvas) for prompt, canvas in zip(prompts, canvases, strict=True)]
    length = padded_length(max(sizes), block_length)
    tokens = torch.full((len(sizes), length), pad_id, dtype=torch.int64)
    editable = torch.zeros(len(sizes), length, dtype=torch.bool)
    for index, (prompt, canvas) in enumerate(zip(prompts, canvases, strict=True)):
        tokens[index, : sizes[index]] = torch.tensor([*prompt, *canvas])
        editable[index, len(prompt) : sizes[index]] = True
    return tokens, editable
