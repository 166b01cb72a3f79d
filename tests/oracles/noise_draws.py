"""Completions without a story, and statistics of their noise."""

import math

import torch

from oracles.tiny_policy import TOKENS
from redraft.rl.protocols import Experience
from redraft.rl.views.canvas import CanvasBatch, collate
from redraft.rollout.trajectory import Completion, DecodeTrace, Prompt

EMPTY = DecodeTrace(TOKENS.mask, 0, (), (), (), (), (), ())


def plain_row(prompt: int, canvas: int, seed: int) -> Experience:
    """Any tokens but the mask, in no known order."""
    ids = torch.randint(0, 7, (prompt + canvas,), generator=torch.Generator().manual_seed(seed)).tolist()
    completion = Completion("p", tuple(ids[prompt:]), tuple(ids[prompt:]), "length", EMPTY)
    return Experience(Prompt("p", tuple(ids[:prompt]), seed), completion, 1.0, noise_seed=seed)


def batch_of(*rows: Experience, block_length: int = 4) -> CanvasBatch:
    """Rows on one grid."""
    return collate(rows, block_length, TOKENS.pad, "cpu")


def repeated(batch: CanvasBatch, count: int) -> CanvasBatch:
    """The only row of a batch, under the noise seeds 0 to count - 1."""
    return CanvasBatch(
        tokens=batch.tokens.repeat(count, 1),
        editable=batch.editable.repeat(count, 1),
        advantages=batch.advantages.repeat(count),
        noise_seeds=torch.arange(count),
        groups=batch.groups.repeat(count),
        traces=batch.traces * count,
        prompt_lengths=batch.prompt_lengths * count,
        block_length=batch.block_length,
    )


def within_four_errors(samples: torch.Tensor, expected: float) -> bool:
    """Is the mean of the samples what is expected, by four of its standard errors?"""
    error = samples.std().item() / math.sqrt(len(samples))
    return abs(samples.mean().item() - expected) < 4 * error
