"""Completions as tensors: the canvas of every completion on the block grid, and its split into micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from redraft.rl.protocols import Experience
from redraft.rollout.blocks import padded_length
from redraft.rollout.sampling import mix
from redraft.rollout.trajectory import DecodeTrace


@dataclass(frozen=True)
class CanvasBatch:
    """Prompts with their whole canvases, padded to whole blocks.

    Padding only fills later blocks or the tail of the last one, which block-causal attention hides from every scored
    position before it; canvases end on the block grid, so nothing else shares their blocks.
    """

    tokens: Int[Tensor, "batch length"]
    editable: Bool[Tensor, "batch length"]
    advantages: Float[Tensor, " batch"]
    noise_seeds: Int[Tensor, " batch"]
    groups: Int[Tensor, " batch"]  # completions of one prompt share it
    traces: tuple[DecodeTrace, ...]
    prompt_lengths: tuple[int, ...]
    block_length: int

    @property
    def first_editable(self) -> int:
        """First position of the first block that holds a generated token, over all rows."""
        return min(self.prompt_lengths) // self.block_length * self.block_length


def collate(rows: Sequence[Experience], block_length: int, pad_id: int, device: str | torch.device) -> CanvasBatch:
    """Put completions on one grid."""
    prompts = [row.prompt.token_ids for row in rows]
    canvases = [row.completion.canvas_ids for row in rows]
    tokens, editable = lay_out(prompts, canvases, block_length, pad_id)
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


def take_rows(batch: CanvasBatch, rows: Sequence[int]) -> CanvasBatch:
    """Some rows of a batch, any number of times; what the batch holds for no row stays empty."""
    index, columns = torch.tensor(rows, device=batch.tokens.device), {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            columns[field.name] = value[index]
        elif isinstance(value, tuple) and value:
            columns[field.name] = tuple(value[row] for row in rows)
    return replace(batch, **columns)


def redrawn(batch: CanvasBatch, update: int) -> CanvasBatch:
    """The same canvases with the noise of another pass over them; pass 0 keeps its own."""
    return batch if update == 0 else replace(batch, noise_seeds=mix(batch.noise_seeds + update))


def lay_out(
    prompts: Sequence[Sequence[int]], canvases: Sequence[Sequence[int]], block_length: int, pad_id: int
) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """Tokens of prompts followed by canvases, padded to whole blocks, and which of them are canvas."""
    sizes = [len(prompt) + len(canvas) for prompt, canvas in zip(prompts, canvases, strict=True)]
    length = padded_length(max(sizes), block_length)
    tokens = torch.full((len(sizes), length), pad_id, dtype=torch.int64)
    editable = torch.zeros(len(sizes), length, dtype=torch.bool)
    for index, (prompt, canvas) in enumerate(zip(prompts, canvases, strict=True)):
        tokens[index, : sizes[index]] = torch.tensor([*prompt, *canvas])
        editable[index, len(prompt) : sizes[index]] = True
    return tokens, editable


def composite_tokens(rows: Sequence[Experience], block_length: int) -> int:
    """Tokens of the composite input of some rows together: clean canvases and noisy copies of editable blocks.

    All rows are padded to the longest one, and their noisy halves start where the shortest prompt ends.
    """
    prompts = [len(row.prompt.token_ids) for row in rows]
    ends = [prompt + len(row.completion.canvas_ids) for prompt, row in zip(prompts, rows, strict=True)]
    start = min(prompts) // block_length * block_length
    return len(rows) * (2 * padded_length(max(ends), block_length) - start)


def split_by_tokens(rows: Sequence[Experience], block_length: int, budget: int) -> list[list[Experience]]:
    """Micro-batches whose padded composite inputs hold at most `budget` tokens (at least one row each).

    Rows are sorted by size first, so that a micro-batch pads little. The sum of the gradients does not depend on the
    split: every normaliser is a constant of the whole batch.
    """
    groups: list[list[Experience]] = []
    for row in sorted(rows, key=lambda row: composite_tokens([row], block_length), reverse=True):
        if groups and composite_tokens([*groups[-1], row], block_length) <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
