"""Scores from slices of the head against the whole table, and against lists."""

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.common.dense import DenseScores
from oracles.head_rows import HeadRows
from redraft.rollout.engine.scores import HeadScores, Reading, read

VOCAB, MASK = 200, 77
EVERYWHERE = torch.ones(3, 4, dtype=torch.bool)
SOME = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]]).bool()
# From one logit at a time over one column, odd slices and whole groups to the whole table, and twice the table.
BUDGETS = [1, 12, 12 * 7, 12 * 64, 12 * 65, 12 * 130, 12 * 199, 12 * 200, 24 * 200]


class MatrixHead:
    """A head, and its whole table of logits."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.nn.functional.linear(hidden, self.weight)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def random_case(dtype: torch.dtype = torch.float64, size: int = 6) -> tuple[torch.Tensor, MatrixHead]:
    """Hidden states of 3 x 4 slots and a head; the mask token would win everywhere."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 4, size, dtype=torch.float64, generator=generator)
    weight = torch.randn(VOCAB, size, dtype=torch.float64, generator=generator)
    hidden[..., 0], weight[MASK, 0] = 1.0, 1e3
    return hidden.to(dtype), MatrixHead(weight.to(dtype))


def head_of(table: torch.Tensor) -> tuple[torch.Tensor, MatrixHead]:
    """Hidden states and a head with exactly the given logits ``[slots, vocab]``, in one row of slots."""
    return torch.eye(len(table), dtype=table.dtype)[None], MatrixHead(table.T.contiguous())


def assert_readings_agree(found: Reading, expected: Reading) -> None:
    assert torch.equal(found.top, expected.top)
    torch.testing.assert_close(tuple(found[1:]), tuple(expected[1:]), rtol=0, atol=1e-12)


def test_reading_gives_argmax_probability_and_normaliser():
    reading = read(torch.tensor([[[0.0, math.log(3.0)], [5.0, 5.0]]], dtype=torch.float64))
    assert reading.top.tolist() == [[1, 0]]
    assert reading.top_prob[0].tolist() == pytest.approx([0.75, 0.5])
    assert reading.log_normalizer[0].tolist() == pytest.approx([math.log(4.0), 5.0 + math.log(2.0)])
    assert reading.top_log_prob[0].tolist() == pytest.approx([math.log(0.75), math.log(0.5)])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error_with_the_place(bad):
    logits = torch.zeros(2, 3, 5)
    logits[1, 2, 0] = bad
    for reader in (read, lambda logits: DenseScores(logits, 4).read(torch.ones(2, 3, dtype=torch.bool))):
        with pytest.raises(FloatingPointError, match="sequence 1, position 2"):
            reader(logits)
    with pytest.raises(FloatingPointError, match="sequence 0, position 0"):
        read(torch.full((1, 1, 2), -math.inf))
    others = torch.tensor([[True] * 3, [True, True, False]])
    assert DenseScores(logits, 4).read(others).top_prob.tolist() == [[0.25] * 3, [0.25, 0.25, 0.0]]


def test_a_table_is_read_without_its_mask_token_and_left_as_it_is():
    logits = torch.randn(3, 4, VOCAB, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits[..., MASK] = 1e3
    before = logits.clone()
    reading = DenseScores(logits, MASK).read(EVERYWHERE)
    assert torch.equal(logits, before)
    without = torch.cat([logits[..., :MASK], logits[..., MASK + 1 :]], dim=-1)
    torch.testing.assert_close(reading.log_normalizer, without.logsumexp(-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(reading.top_prob, without.softmax(-1).amax(-1), rtol=0, atol=1e-12)
    assert (reading.top != MASK).all()


@pytest.mark.parametrize("where", [EVERYWHERE, SOME], ids=["everywhere", "some"])
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("mask", [0, MASK, VOCAB - 1])
def test_slices_of_the_head_read_what_the_whole_table_says(budget, where, mask):
    hidden, head = random_case()
    expected = DenseScores(head.logits(hidden), mask).read(where)
    found = HeadScores(hidden, head.weight, mask, 8 * budget).read(where)
    assert_readings_agree(found, expected)
    assert not any(field[~where].any() for field in found)


@pytest.mark.parametrize("budget", BUDGETS)
def test_of_equal_logits_in_any_slices_the_lowest_id_is_read(budget):
    table = torch.randint(0, 3, (12, VOCAB), generator=torch.Generator().manual_seed(2)).double()
    table[0], table[1], table[2, :] = 1.0, 1.0, torch.arange(VOCAB).flip(0).double()
    table[1, [MASK, 150, 199]] = 2.0
    hidden, head = head_of(table)
    where = torch.ones(1, 12, dtype=torch.bool)
    for mask in (0, MASK, VOCAB - 1):
        rows = [[-1.0 if i == mask else logit for i, logit in enumerate(row)] for row in table.tolist()]
        top = HeadScores(hidden, head.weight, mask, 8 * budget).read(where).top
        assert top.tolist() == [[row.index(max(row)) for row in rows]]


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_slice_that_holds_nothing_but_the_mask_token_adds_nothing(budget):
    table = torch.tensor([[50.0, math.log(0.2), math.log(0.8)]], dtype=torch.float64)
    for mask in range(3):
        hidden, head = head_of(table.roll(mask, dims=1))
        reading = HeadScores(hidden, head.weight, mask, 8 * budget).read(torch.ones(1, 1, dtype=torch.bool))
        assert reading.top.item() == (mask + 2) % 3
        assert reading.top_prob.item() == pytest.approx(0.8, abs=1e-15)
        assert reading.log_normalizer.item() == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("token", [0, 63, 64, 130, 199])
def test_a_value_that_is_not_finite_is_found_in_any_slice(budget, bad, token):
    hidden, head = random_case()
    head.weight[token, 0] = bad
    with pytest.raises(FloatingPointError, match="sequence 0, position 0"):
        HeadScores(hidden, head.weight, MASK, 8 * budget).read(SOME)
    with pytest.raises(FloatingPointError, match="sequence 2, position 1"):
        HeadScores(hidden, head.weight, MASK, 8 * budget).read(SOME & (torch.arange(3) > 0)[:, None])


@pytest.mark.parametrize("budget", BUDGETS)
def test_slots_are_judged_alone_and_only_if_they_are_asked_about(budget):
    hidden, head = random_case()
    hidden[0, 1] = math.nan
    hidden[2, 3] = math.nan
    with pytest.raises(FloatingPointError, match="sequence 2, position 3"):
        HeadScores(hidden, head.weight, MASK, 8 * budget).read(SOME)
    where = SOME & (torch.arange(3) < 2)[:, None]
    assert HeadScores(hidden, head.weight, MASK, 8 * budget).read(where).top_prob[where].isfinite().all()


def test_logits_that_are_minus_infinity_everywhere_are_an_error():
    hidden, head = torch.ones(1, 1, 1), MatrixHead(torch.full((VOCAB, 1), -math.inf))
    for budget in (4, 4 * 65, 4 * VOCAB, 8 * VOCAB):
        with pytest.raises(FloatingPointError, match="sequence 0, position 0"):
            HeadScores(hidden, head.weight, MASK, budget).read(torch.ones(1, 1, dtype=torch.bool))


def test_a_logit_of_minus_infinity_is_a_token_without_probability():
    table = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, 9.0]], dtype=torch.float64)
    for budget in (1, 2, 5, 10):
        hidden, head = torch.ones(1, 1, 1, dtype=torch.float64), MatrixHead(table.T.contiguous())
        reading = HeadScores(hidden, head.weight, 4, 8 * budget).read(torch.ones(1, 1, dtype=torch.bool))
        assert (reading.top.item(), reading.top_prob.item()) == (1, 0.5)


@pytest.mark.parametrize("budget", BUDGETS)
def test_pieces_hold_the_logits_of_the_slots_in_order_without_the_mask_token(budget):
    hidden, head = random_case()
    table = head.logits(hidden)
    table[..., MASK] = -math.inf
    for scores in (HeadScores(hidden, head.weight, MASK, 8 * budget), DenseScores(head.logits(hidden), MASK)):
        for read_before in (SOME, EVERYWHERE, SOME & False):  # what a reading may have kept is used or left alone
            scores.read(read_before)
            row, slot, logits = (torch.cat(parts) for parts in zip(*scores.pieces(SOME), strict=True))
            assert torch.stack([row, slot], dim=1).tolist() == SOME.nonzero().tolist()
            torch.testing.assert_close(logits, table[SOME], rtol=0, atol=1e-12)


def test_pieces_are_as_long_as_the_budget_allows():
    hidden, head = random_case()
    sizes = [
        [len(row) for row, _, _ in HeadScores(hidden, head.weight, MASK, budget).pieces(EVERYWHERE)]
        for budget in (1, 8 * 2 * VOCAB - 1, 8 * 5 * VOCAB, 8 * 12 * VOCAB)
    ]
    assert sizes == [[1] * 12, [1] * 12, [5, 5, 2], [12]]


def test_logits_of_a_small_reading_are_kept_for_its_pieces():
    hidden, head = random_case()
    scores = HeadScores(hidden, head.weight, MASK, 8 * 9 * 12 * VOCAB)  # float64; a draw makes nine tables
    with HeadRows(head.weight) as made:
        scores.read(EVERYWHERE)
        assert sum(len(row) for row, _, _ in scores.pieces(SOME)) == 5
        assert sum(len(row) for row, _, _ in scores.pieces(EVERYWHERE)) == 12
    assert made.rows == [12]


def test_nothing_is_computed_for_no_slots():
    hidden, head = random_case()
    head.weight.fill_(math.nan)
    for budget in (64, 1 << 20):
        scores = HeadScores(hidden, head.weight, MASK, budget)
        with HeadRows(head.weight) as made:
            reading = scores.read(SOME & False)
        assert [field.shape for field in reading] == [(3, 4)] * 4
        assert not any(field.any() for field in reading)
        assert list(scores.pieces(SOME & False)) == []
        assert sum(made.rows) == 0
    assert list(DenseScores(torch.zeros(3, 4, 5), 0).pieces(SOME & False)) == []


class LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation makes, views of given tensors left out."""

    def __init__(self, *given: torch.Tensor) -> None:
        super().__init__()
        self.given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.given:
                self.bytes = max(self.bytes, tensor.nbytes)
        return result


@pytest.mark.parametrize(
    ("dtype", "made_of", "share"), [(torch.float64, 8, 1), (torch.float32, 4, 1), (torch.bfloat16, 4, 4 / 6)]
)
def test_no_table_of_logits_is_larger_than_the_budget(dtype, made_of, share):
    """16-bit products and what they become, 2 and 4 bytes, exist side by side: the larger has a share of the budget."""
    hidden, head = random_case(dtype, size=1)
    largest = []
    with torch.no_grad():
        for columns in (20, 50, 130, 200, 400):
            budget = int(columns * 12 * made_of / share)
            scores = HeadScores(hidden, head.weight, MASK, budget)
            with LargestTensor(hidden, head.weight) as made:
                scores.read(EVERYWHERE)
                for _ in scores.pieces(EVERYWHERE):
                    pass
            assert made.bytes <= budget * share
            largest.append(made.bytes)
    assert largest[:4] == sorted(set(largest[:4]))  # and it is used


def test_sixteen_bit_logits_are_products_of_sixteen_bits_whatever_the_slices():
    hidden, head = random_case(torch.bfloat16, size=64)
    whole = HeadScores(hidden, head.weight, MASK, 1 << 20).read(EVERYWHERE)
    expected = DenseScores(head.logits(hidden), MASK).read(EVERYWHERE)
    assert all(torch.equal(a, b) for a, b in zip(whole, expected, strict=True))
    sliced = HeadScores(hidden, head.weight, MASK, 6 * 12 * 64).read(EVERYWHERE)
    assert sliced.log_normalizer.dtype == torch.float32
    assert torch.equal(sliced.top, expected.top)
    torch.testing.assert_close(sliced.log_normalizer, expected.log_normalizer, rtol=0, atol=1e-5)


def test_a_budget_of_nothing_is_refused():
    hidden, head = random_case()
    with pytest.raises(ValueError, match="budget_bytes must be at least 1, got 0"):
        HeadScores(hidden, head.weight, MASK, 0)
