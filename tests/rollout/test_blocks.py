"""The block grid."""

import pytest
import torch

from redraft.rollout.blocks import block_causal_mask, num_blocks, padded_length


@pytest.mark.parametrize(("length", "blocks"), [(0, 0), (1, 1), (31, 1), (32, 1), (33, 2), (64, 2)])
def test_a_started_block_counts_whole(length, blocks):
    assert num_blocks(length, 32) == blocks
    assert padded_length(length, 32) == 32 * blocks


def test_a_query_sees_its_own_block_and_earlier_ones_counted_from_position_zero():
    positions = torch.arange(5)
    assert block_causal_mask(positions, positions, 2).int().tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


def test_the_mask_follows_positions_and_keeps_batch_dimensions():
    queries, keys = torch.tensor([[6, 7], [0, 9]]), torch.tensor([[5, 2, 8], [3, 4, 0]])
    mask = block_causal_mask(queries, keys, 4)
    assert mask.int().tolist() == [[[1, 1, 0], [1, 1, 0]], [[1, 0, 1], [1, 1, 1]]]


def test_blocks_of_one_token_are_causal_and_one_block_is_bidirectional():
    positions = torch.arange(6)
    assert torch.equal(block_causal_mask(positions, positions, 1), torch.ones(6, 6).tril().bool())
    assert block_causal_mask(positions, positions, 6).all()
