"""The composite rule: which positions of `[noisy ; clean]` may see which, as a dense mask or for FlexAttention.

All canvases of a batch share one layout, so one mask serves them all. Batches repeat few layouts, so masks are cached.
The rule is that of block-causal attention; `score` refuses networks with another geometry.

An example: blocks of 2, a noisy half from position 2 to 6, a clean half from 0 to 4, so 4 + 4 rows. The noisy row of
position 4 sees the noisy rows of 4 and 5 and the clean rows of 0 to 3. The clean row of position 2 sees the clean rows
of 0 to 3 and nothing noisy.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import no_type_check

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from redraft.rollout.engine.protocol import AttentionMask

MaskRule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
FLEX_LEAST_ROWS = 512
"""Rows from which FlexAttention is used. Shorter inputs have few tiles (128 x 128) to skip; SDPA compiles nothing."""


@dataclass(frozen=True)
class CompositeLayout:
    """Absolute positions of a composite input, in tokens.

    Attributes:
        start: First position of the noisy half, on the block grid.
        length: End of the noisy half.
        clean_length: End of the clean half, which begins at position 0.
        block_length: Tokens per block.
    """

    start: int
    length: int
    clean_length: int
    block_length: int

    @property
    def num_noisy(self) -> int:
        """Rows of the noisy half, which comes first."""
        return self.length - self.start

    @property
    def num_rows(self) -> int:
        """Rows of the whole input."""
        return self.num_noisy + self.clean_length


def composite_mask(layout: CompositeLayout, device: torch.device) -> AttentionMask:
    """Build the attention mask of a composite input: for FlexAttention, and dense for short inputs.

    On a CPU the network turns FlexAttention's mask into tiles for SDPA.
    """
    if layout.num_rows >= FLEX_LEAST_ROWS:
        return flex_mask(layout, device)
    return dense_mask(layout, device)


def composite_rule(layout: CompositeLayout, device: torch.device) -> MaskRule:
    """Build the rule as a predicate of (batch entry, head, query row, key row).

    A noisy row sees the noisy rows of its own block and the clean rows of earlier blocks; a clean row sees the clean
    rows of its own and earlier blocks and nothing noisy. So one forward scores one noisy view of every block.

    Source: LLaDA2.0 paper, block diffusion training mask; design/LLADA2.md section 3.
    """
    positions = [torch.arange(layout.start, layout.length), torch.arange(layout.clean_length)]
    # Looked up in tensors rather than computed from integers: FlexAttention compiles integers into its kernel, but
    # takes tensors as arguments, so one kernel serves all layouts.
    block = (torch.cat(positions) // layout.block_length).to(device)
    noisy = torch.arange(layout.num_rows, device=device) < layout.num_noisy

    @no_type_check  # FlexAttention counts the arguments in the bytecode, which a checker's wrapper hides
    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own_noisy = noisy[query] & noisy[key] & (block[query] == block[key])
        earlier_clean = noisy[query] & ~noisy[key] & (block[key] < block[query])
        clean_clean = ~noisy[query] & ~noisy[key] & (block[key] <= block[query])
        return own_noisy | earlier_clean | clean_clean

    return sees


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # the cached tensors must serve training too
def dense_mask(layout: CompositeLayout, device: torch.device) -> Bool[Tensor, "1 rows rows"]:
    """Apply the rule to every pair of rows. Masks are quadratic in memory, so few are kept."""
    row = torch.arange(layout.num_rows, device=device)
    nought = row.new_zeros(())
    return composite_rule(layout, device)(nought, nought, row[:, None], row[None, :])[None]


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def flex_mask(layout: CompositeLayout, device: torch.device) -> BlockMask:
    """Prepare the rule for FlexAttention, which skips tiles without any pair and tests only those with some."""
    rule = composite_rule(layout, device)
    return create_block_mask(rule, None, None, layout.num_rows, layout.num_rows, device=str(device))
