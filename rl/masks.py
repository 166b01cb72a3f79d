"""The composite rule: which rows of `[noisy ; clean]` may see which."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def composite_mask(
    noisy_positions: Int[Tensor, " noisy"], clean_positions: Int[Tensor, " clean"], block_length: int
) -> Bool[Tensor, "noisy+clean noisy+clean"]:
    """Attention mask of the composite input, from absolute positions.

    A noisy row sees the noisy rows of its own block and the clean rows of earlier blocks; a clean row sees the clean
    rows of its own and earlier blocks and nothing noisy. So one forward scores one noisy view of every block.

    Source: LLaDA2.0 paper, block diffusion training mask; design/LLADA2.md section 3.
    """
    positions = torch.cat([noisy_positions, clean_positions])
    block = positions // block_length
    noisy = torch.arange(len(positions), device=positions.device) < len(noisy_positions)
    query_block, key_block = block[:, None], block[None, :]
    query_noisy, key_noisy = noisy[:, None], noisy[None, :]
    own_noisy = query_noisy & key_noisy & (query_block == key_block)
    earlier_clean = query_noisy & ~key_noisy & (key_block < query_block)
    clean_clean = ~query_noisy & ~key_noisy & (key_block <= query_block)
    return own_noisy | earlier_clean | clean_clean
