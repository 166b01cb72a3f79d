"""The composite attention rule against a drawing and against its prose."""

import torch

from rl.masks import composite_mask


def test_two_blocks_of_two_look_like_the_drawing():
    drawing = """
        XX.. ....
        XX.. ....
        ..XX XX..
        ..XX XX..

        .... XX..
        .... XX..
        .... XXXX
        .... XXXX
    """
    rows = ["".join(line.split()) for line in drawing.splitlines() if line.strip()]
    expected = torch.tensor([[cell == "X" for cell in row] for row in rows])
    positions = torch.arange(4)
    assert torch.equal(composite_mask(positions, positions, 2), expected)


def test_every_entry_follows_the_rule_when_the_noisy_half_starts_later():
    noisy, clean, size = torch.arange(3, 12), torch.arange(12), 3
    mask = composite_mask(noisy, clean, size)
    rows = [("noisy", p) for p in noisy.tolist()] + [("clean", p) for p in clean.tolist()]
    for i, (query, query_position) in enumerate(rows):
        for j, (key, key_position) in enumerate(rows):
            own, other = query_position // size, key_position // size
            if query == "noisy":
                sees = other == own if key == "noisy" else other < own
            else:
                sees = key == "clean" and other <= own
            assert mask[i, j].item() == sees, (query, query_position, key, key_position)


def test_no_row_is_left_without_a_key():
    mask = composite_mask(torch.arange(4, 16), torch.arange(16), 4)
    assert mask.any(-1).all()
