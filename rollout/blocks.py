"""The block grid: blocks of ``block_length`` tokens counted from absolute position 0, the prompt inside."""

from jaxtyping import Bool, Int
from torch import Tensor


def num_blocks(length: int, block_length: int) -> int:
    """Count how many blocks hold ``length`` tokens (a started block counts whole)."""
    return -(-length // block_length)


def padded_length(length: int, block_length: int) -> int:
    """Round ``length``, in tokens, up to whole blocks."""
    return num_blocks(length, block_length) * block_length


def block_causal_mask(
    query_positions: Int[Tensor, "*b q"], key_positions: Int[Tensor, "*b k"], block_length: int
) -> Bool[Tensor, "*b q k"]:
    """Build the strict block-causal mask: a query sees every key of its own block and of earlier blocks.

    Args:
        query_positions: Absolute positions of the queries, in tokens.
        key_positions: Absolute positions of the keys, in tokens.
        block_length: Tokens per block.

    Returns:
        True where the query may attend: ``block(key) <= block(query)``.
    """
    return key_positions.unsqueeze(-2) // block_length <= query_positions.unsqueeze(-1) // block_length
