"""The network against the golden file, against itself in blocks, and against leaks."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from oracles.llada2_reference import rotate_pairs
from redraft.rl.models.llada2 import LLADA2_FLASH, LLADA2_MINI, LLaDA2Config, LLaDA2Model, init_weights, load_pretrained
from redraft.rl.models.llada2 import attention as attention_module
from redraft.rl.models.llada2.attention import attend, mask_tiles, rotary_tables, rotate
from redraft.rollout.blocks import block_causal_mask
from redraft.rollout.engine.paged_cache import PagedCache

GOLDEN = Path(os.environ.get("REDRAFT_GOLDEN", Path(__file__).parents[4] / "shared" / "golden")) / "llada2_tiny"
needs_golden = pytest.mark.skipif(
    not (GOLDEN / "cases.json").is_file(), reason=f"no golden file in {GOLDEN}; set REDRAFT_GOLDEN to its parent folder"
)
TINY = LLaDA2Config(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    num_experts=8,
    num_experts_per_tok=2,
    moe_intermediate_size=16,
    n_group=4,
    topk_group=2,
    rope_theta=600000.0,
    max_position_embeddings=512,
    initializer_range=0.2,
)


def tiny_model(dtype=torch.float64, **changes) -> LLaDA2Model:
    model = LLaDA2Model(TINY.model_copy(update=changes), dtype=dtype)
    init_weights(model, torch.Generator().manual_seed(0))
    return model


def random_ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, TINY.vocab_size, shape, generator=torch.Generator().manual_seed(1))


class GrowingCache(PagedCache):
    """Keeps finished blocks; the keys of the active block are offered each time and stored on `commit`."""

    def __init__(self) -> None:
        self.stored: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.offered: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(self, layer, key, value):
        if layer in self.stored:
            old_key, old_value = self.stored[layer]
            key, value = torch.cat([old_key, key], dim=2), torch.cat([old_value, value], dim=2)
        self.offered[layer] = key, value
        return key, value

    def commit(self) -> None:
        self.stored = self.offered.copy()


@needs_golden
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-4), (torch.float32, 1e-3)])
def test_golden_logits_are_reproduced(dtype, tolerance):
    model = load_pretrained(GOLDEN, dtype=dtype)
    cases = json.loads((GOLDEN / "cases.json").read_text())["logits"]
    assert len(cases) == 3
    for case in cases:
        with torch.no_grad():
            logits = model(torch.tensor([case["input_ids"]]))[0]
        assert logits.argmax(-1).tolist() == case["argmax"]
        torch.testing.assert_close(
            logits[:, :8], torch.tensor(case["logits_first8"], dtype=dtype), rtol=0, atol=tolerance
        )
        torch.testing.assert_close(
            logits.logsumexp(-1), torch.tensor(case["logsumexp"], dtype=dtype), rtol=0, atol=tolerance
        )


@pytest.mark.parametrize(("length", "block_length"), [(96, 32), (70, 32), (24, 8), (40, 40)])
def test_blocks_with_a_cache_equal_the_full_forward(length, block_length):
    model, ids = tiny_model(), random_ids(2, length)
    positions = torch.arange(length).expand(2, -1)
    cache = GrowingCache()
    with torch.no_grad():
        full = model(ids, block_length)
        for start in range(0, length, block_length):
            now = slice(start, min(start + block_length, length))
            mask = block_causal_mask(positions[:, now], positions[:, : now.stop], block_length)
            draft = model.hidden_states(ids[:, now].flip(1), positions[:, now], mask, cache)  # a draft is not kept
            hidden = model.hidden_states(ids[:, now], positions[:, now], mask, cache)
            cache.commit()
            assert draft.shape == hidden.shape
            torch.testing.assert_close(model.logits(hidden), full[:, now], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("dense_layers", "tolerance"),
    # Only attention mixes positions, so without experts nothing may change. With experts the later tokens change how
    # many rows the earlier ones share a matrix product with, and with it the order of its sums.
    [(TINY.num_hidden_layers, 0.0), (1, 1e-13)],
)
def test_a_later_block_reaches_no_earlier_logit(dense_layers, tolerance):
    model, ids = tiny_model(first_k_dense_replace=dense_layers), random_ids(1, 32)
    changed = ids.clone()
    changed[0, 16:] = (ids[0, 16:] + 7) % TINY.vocab_size
    with torch.no_grad():
        difference = (model(ids, 8) - model(changed, 8)).abs().amax(-1)[0]
    assert difference[:16].max() <= tolerance
    assert difference[16:].min() > 1e-6


def test_the_gradient_of_a_block_is_exactly_zero_at_every_later_token_and_at_no_other():
    model, ids = tiny_model(), random_ids(1, 32)
    embedded = model.word_embeddings(ids).detach().requires_grad_()
    positions = torch.arange(32)[None]
    model.word_embeddings.forward = lambda _: embedded
    hidden = model.hidden_states(ids, positions, block_causal_mask(positions, positions, 8))
    (gradient,) = torch.autograd.grad(model.logits(hidden)[:, 8:16].sin().sum(), embedded)
    assert torch.equal(gradient[:, 16:], torch.zeros_like(gradient[:, 16:]))
    assert (gradient[:, :16].abs().amax(-1) > 0).all()


def test_rows_of_a_batch_do_not_touch_each_other():
    model, ids = tiny_model(), random_ids(3, 24)
    with torch.no_grad():
        together = model(ids, 8)
        for row in range(3):
            torch.testing.assert_close(model(ids[row : row + 1], 8)[0], together[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_parameter_gets_a_finite_gradient(dtype):
    model = tiny_model(dtype)
    logits = model(random_ids(4, 64), 32)
    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    logits.log_softmax(-1)[..., 0].sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_bf16_stays_near_fp32():
    exact, rounded = tiny_model(torch.float32), tiny_model(torch.float32).to(torch.bfloat16)
    with torch.no_grad():
        expected, found = exact(random_ids(2, 32)).log_softmax(-1), rounded(random_ids(2, 32)).log_softmax(-1)
    # Near ties of the router may flip an expert, so the bound is on the average, in nats.
    assert (expected - found).abs().mean() < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_and_backward_repeat_bit_for_bit(dtype):
    def gradients() -> list[torch.Tensor]:
        model = tiny_model(dtype)
        model(random_ids(4, 32)).log_softmax(-1)[..., 3].sum().backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        first, second = gradients(), gradients()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_flex_mask_gives_what_the_dense_mask_gives_in_values_and_gradients():
    model, ids = tiny_model(), random_ids(2, 64)
    positions = torch.arange(64).expand(2, -1)
    flex = create_block_mask(lambda b, h, q, k: k // 32 <= q // 32, None, None, 64, 64, device="cpu")
    results = []
    for mask in (block_causal_mask(positions, positions, 32), flex):
        hidden = model.hidden_states(ids, positions, mask)
        (gradient,) = torch.autograd.grad(hidden.square().sum(), model.word_embeddings.weight)
        results.append((hidden, gradient))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_equals_sdpa(monkeypatch):
    monkeypatch.setattr(attention_module, "_compiled_flex_attention", lambda: flex_attention)
    generator = torch.Generator().manual_seed(2)
    shapes = [(2, 4, 48, 16), (2, 2, 96, 16), (2, 2, 96, 16)]
    query, key, value = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    flex = create_block_mask(lambda b, h, q, k: k // 32 <= (q + 48) // 32, None, None, 48, 96, device="cpu")
    dense = block_causal_mask(torch.arange(48, 96)[None], torch.arange(96)[None], 32)
    with torch.no_grad():
        expected = attend(query, key, value, dense)
        torch.testing.assert_close(attend(query, key, value, flex), expected, rtol=0, atol=1e-12)


def test_tiles_of_a_block_mask_hold_the_keys_that_some_query_sees_and_attend_to_the_same_result():
    def sees(b, h, q, k):
        return (k // 32 <= q // 32) & (q < 128)  # the last rows see nothing

    tiles = mask_tiles(create_block_mask(sees, None, None, 192, 96, device="cpu", BLOCK_SIZE=64))
    assert [(tile.queries, len(tile.keys)) for tile in tiles] == [
        (slice(0, 64), 64),
        (slice(64, 128), 96),
        (slice(128, 192), 1),
    ]
    generator = torch.Generator().manual_seed(6)
    query = torch.randn(2, 4, 192, 16, generator=generator, dtype=torch.float64)
    key, value = torch.randn(2, 2, 2, 96, 16, generator=generator, dtype=torch.float64)
    dense = sees(None, None, torch.arange(192)[:, None], torch.arange(96)[None])[None]
    found, expected = attend(query, key, value, tiles), attend(query, key, value, dense)
    torch.testing.assert_close(found[:, :, :128], expected[:, :, :128], rtol=0, atol=1e-12)
    assert found.isfinite().all()


def test_attention_is_the_softmax_average_with_consecutive_query_heads_sharing_a_key_head():
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(1, 4, 3, 8, generator=generator, dtype=torch.float64)
    key, value = torch.randn(2, 1, 2, 5, 8, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 1]]], dtype=torch.bool)
    found = attend(query, key, value, mask)
    for head in range(4):
        for row in range(3):
            allowed = mask[0, row]
            scores = key[0, head // 2, allowed] @ query[0, head, row] / 8**0.5
            expected = scores.softmax(-1) @ value[0, head // 2, allowed]
            torch.testing.assert_close(found[0, head, row], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 2), (4, 4), (8, 1), (1, 1)])
@pytest.mark.parametrize(("queries", "entries"), [(5, 3), (5, 1), (1, 3)])
def test_one_row_of_a_mask_stands_for_all_queries(heads, key_heads, queries, entries):
    generator = torch.Generator().manual_seed(7)
    query = torch.randn(3, queries, heads, 8, generator=generator, dtype=torch.float64).transpose(1, 2)
    key, value = torch.randn(2, 3, key_heads, 9, 8, generator=generator, dtype=torch.float64)
    mask = torch.rand(entries, 1, 9, generator=generator) < 0.6
    mask[..., 0] = True
    assert not mask.all()
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
    found = attend(*inputs, mask)
    # Two rows at least: then the heads stay apart. Extra queries are cut off again.
    padded = torch.cat([query, query[:, :, :1]], dim=2)
    expected = attend(padded, key, value, mask.expand(-1, queries + 1, -1))[:, :, :queries]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weight = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((out * weight).sum(), inputs) for out in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_one_row_of_a_mask_serves_the_whole_network():
    model, ids = tiny_model(), random_ids(3, 16)
    positions = torch.arange(16).expand(3, -1)
    mask = (torch.arange(16) < torch.tensor([16, 9, 4])[:, None])[:, None]
    with torch.no_grad():
        found = model.hidden_states(ids, positions, mask)
        expected = model.hidden_states(ids, positions, mask.expand(-1, 16, -1).contiguous())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_a_query_that_may_attend_nothing_stays_finite_forward_and_backward():
    model, ids = tiny_model(torch.float32), random_ids(1, 16)
    mask = torch.ones(1, 16, 16, dtype=torch.bool)
    mask[:, 5] = False
    hidden = model.hidden_states(ids, torch.arange(16)[None], mask)
    hidden.square().sum().backward()
    assert hidden.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_an_additive_mask_is_refused():
    # Under the type checker of the test run the call itself is refused, without it the model refuses.
    with pytest.raises(Exception, match=r"must be boolean|Type-check error"):
        tiny_model().hidden_states(random_ids(1, 8), torch.arange(8)[None], torch.ones(1, 8, 8))


def test_rotation_turns_pairs_of_the_first_half_by_position_times_frequency():
    config = TINY.model_copy(update={"rope_theta": 100.0})
    states = torch.randn(1, 1, 3, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = rotate(states, rotary_tables(torch.tensor([[0, 5, 300]]), config))
    for row, position in enumerate((0, 5, 300)):
        expected = rotate_pairs(states[0, 0, row].tolist(), position, 100.0, 8)
        # The tables are fp32 by definition: at 300 radians an angle is good to about 3e-5.
        assert found[0, 0, row].tolist() == pytest.approx(expected, abs=1e-4)


def test_position_ids_count_and_not_places_in_the_tensor():
    model, ids = tiny_model(), random_ids(1, 16)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(5))
    mask = torch.ones(1, 16, 16, dtype=torch.bool)
    with torch.no_grad():
        straight = model.hidden_states(ids, torch.arange(16)[None], mask)
        shuffled = model.hidden_states(ids[:, order], order[None], mask)
    torch.testing.assert_close(shuffled, straight[:, order], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("config", "values", "tensors"), [(LLADA2_MINI, 16_255_643_392, 14_813), (LLADA2_FLASH, 102_889_705_216, 24_161)]
)
def test_full_size_networks_have_the_published_size(config, values, tensors):
    state = LLaDA2Model(config, dtype=torch.bfloat16, device="meta").state_dict()
    assert all(tensor.is_meta for tensor in state.values())
    # The published totals count the expert biases, which are buffers.
    assert sum(tensor.numel() for tensor in state.values()) == values
    stacked = [name for name in state if ".experts." in name]
    matrices = sum(2 if name.endswith("gate_up_proj") else 1 for name in stacked) * config.num_experts
    assert len(state) - len(stacked) + matrices == tensors


def test_building_draws_no_random_number_and_initialising_only_from_its_generator():
    before = torch.get_rng_state()
    first, second = tiny_model(), tiny_model()
    assert torch.equal(before, torch.get_rng_state())
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert all((p == 1).all() for p in first.parameters() if p.dim() == 1)
    assert not any(buffer.any() for buffer in first.buffers())
    matrices = torch.cat([p.detach().flatten() for p in first.parameters() if p.dim() > 1])
    assert matrices.std().item() == pytest.approx(TINY.initializer_range, rel=0.02)
