"""The composite attention rule against a drawing and against its prose, in both of its forms."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask

from oracles.tiny_policy import tiny_model
from redraft.rl.likelihood.composite import CompositeLayout, composite_mask, dense_mask, flex_mask

CPU = torch.device("cpu")
LAYOUTS = {
    "both halves whole": CompositeLayout(0, 12, 12, 4),
    "noisy half starts later, clean half ends earlier": CompositeLayout(3, 12, 9, 3),
    "one block, nothing clean": CompositeLayout(0, 4, 0, 4),
    "several tiles of FlexAttention": CompositeLayout(32, 352, 320, 32),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def by_the_prose(layout: CompositeLayout) -> torch.Tensor:
    """The rule for one pair of rows after the other."""
    rows = [("noisy", position // layout.block_length) for position in range(layout.start, layout.length)]
    rows += [("clean", position // layout.block_length) for position in range(layout.clean_length)]
    table = torch.zeros(len(rows), len(rows), dtype=torch.bool)
    for i, (query, own) in enumerate(rows):
        for j, (key, other) in enumerate(rows):
            if query == "noisy":
                table[i, j] = other == own if key == "noisy" else other < own
            else:
                table[i, j] = key == "clean" and other <= own
    return table


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
    assert torch.equal(dense_mask(CompositeLayout(0, 4, 4, 2), CPU)[0], expected)


@every_layout
def test_every_entry_of_the_dense_mask_follows_the_rule(layout):
    assert torch.equal(dense_mask(layout, CPU)[0], by_the_prose(layout))


@every_layout
def test_every_entry_of_the_flex_mask_follows_the_rule(layout):
    mask = flex_mask(layout, CPU)
    assert mask.shape[-2:] == (layout.num_rows, layout.num_rows)
    dense = create_mask(mask.mask_mod, 1, 1, layout.num_rows, layout.num_rows, device="cpu")[0, 0]
    assert torch.equal(dense, by_the_prose(layout))


@every_layout
def test_flex_attention_skips_only_empty_tiles_and_leaves_only_full_ones_untested(layout):
    mask, expected = flex_mask(layout, CPU), by_the_prose(layout)
    size = mask.BLOCK_SIZE[0]
    kept, full = torch.zeros(2, *mask.to_dense().shape[-2:], dtype=torch.bool)
    for tiles, counts, indices in (
        (kept, mask.kv_num_blocks[0, 0], mask.kv_indices[0, 0]),
        (full, mask.full_kv_num_blocks[0, 0], mask.full_kv_indices[0, 0]),
    ):
        for query, count in enumerate(counts.tolist()):
            tiles[query, indices[query, :count]] = True
    for query, key in torch.cartesian_prod(*map(torch.arange, kept.shape)).tolist():
        tile = expected[size * query : size * (query + 1), size * key : size * (key + 1)]
        if full[query, key]:
            assert tile.all()
        else:
            assert kept[query, key] == tile.any()


@pytest.mark.parametrize("layout", [CompositeLayout(8, 40, 36, 4), LAYOUTS["several tiles of FlexAttention"]])
def test_the_network_gives_the_same_hidden_states_and_gradients_under_both_masks(layout):
    model = tiny_model()
    ids = torch.randint(0, 7, (2, layout.num_rows), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(layout.start, layout.length), torch.arange(layout.clean_length)]).expand_as(ids)
    found = []
    for build in (dense_mask, flex_mask):
        hidden = model.hidden_states(ids, positions, build(layout, CPU))
        gradient = torch.autograd.grad(hidden.sin().sum(), model.layers[0].attention.query_key_value.weight)
        found.append((hidden, *gradient))
    for flex, dense in zip(*found, strict=True):
        torch.testing.assert_close(flex, dense, rtol=1e-12, atol=1e-11)


@every_layout
def test_no_row_is_left_without_a_key(layout):
    assert dense_mask(layout, CPU).any(-1).all()


def test_short_inputs_get_the_dense_mask_and_long_ones_that_with_tiles():
    short, long = CompositeLayout(0, 128, 96, 32), CompositeLayout(0, 512, 480, 32)
    assert composite_mask(short, CPU) is dense_mask(short, CPU)
    assert composite_mask(long, CPU) is flex_mask(long, CPU)


@pytest.mark.parametrize("build", [dense_mask, flex_mask])
def test_a_layout_is_built_once_and_few_are_kept(build):
    build.cache_clear()
    first = build(CompositeLayout(0, 8, 4, 4), CPU)
    assert build(CompositeLayout(0, 8, 4, 4), CPU) is first
    assert build(CompositeLayout(0, 8, 8, 4), CPU) is not first
    kept = build.cache_info().maxsize
    for length in range(1, kept + 1):
        build(CompositeLayout(0, length, length, length), CPU)
    assert build.cache_info().currsize == kept < 90


def test_a_mask_that_inference_asked_for_first_serves_training():
    dense_mask.cache_clear()
    model, layout = tiny_model(), CompositeLayout(0, 8, 4, 4)
    ids, positions = torch.zeros(1, 12, dtype=torch.int64), torch.tensor([[*range(8), *range(4)]])
    with torch.inference_mode():
        dense_mask(layout, CPU)
    model.hidden_states(ids, positions, dense_mask(layout, CPU)).sum().backward()
    assert model.layers[0].attention.query_key_value.weight.grad is not None
