"""Completions on the block grid and in micro-batches."""

import pytest
import torch

from redraft.rl.learner.microbatches import composite_tokens, split_by_tokens
from redraft.rl.protocols import Experience
from redraft.rl.views.canvas import collate
from redraft.rollout.trajectory import Completion, DecodeTrace, Prompt

EMPTY = DecodeTrace(9, 0, (), (), (), (), (), ())


def row(prompt: int, canvas: int, advantage: float = 1.0, seed: int = 0) -> Experience:
    completion = Completion("p", (5,) * (canvas - 1), (5,) * (canvas - 1) + (6,), "length", EMPTY)
    return Experience(Prompt("p", (3,) * prompt, 0), completion, advantage, noise_seed=seed)


def test_a_batch_lays_prompts_and_whole_canvases_out_and_pads_to_the_longest():
    batch = collate([row(1, 3, 0.5, 11), row(5, 3, -1.0, 2**62 - 1)], block_length=4, pad_id=0, device="cpu")
    assert batch.tokens.tolist() == [[3, 5, 5, 6, 0, 0, 0, 0], [3, 3, 3, 3, 3, 5, 5, 6]]
    assert batch.editable.int().tolist() == [[0, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1, 1]]
    assert batch.advantages.tolist() == [0.5, -1.0]
    assert batch.noise_seeds.tolist() == [11, 2**62 - 1]
    assert batch.advantages.dtype == torch.float64


@pytest.mark.parametrize(("prompts", "first"), [([5, 9], 4), ([3, 9], 0), ([8, 8], 8), ([0, 4], 0)])
def test_the_first_editable_block_is_that_of_the_shortest_prompt(prompts, first):
    rows = [row(prompt, 8 - prompt % 4) for prompt in prompts]
    assert collate(rows, 4, 0, "cpu").first_editable == first


@pytest.mark.parametrize(("prompt", "canvas", "tokens"), [(0, 4, 8), (3, 5, 16), (4, 4, 12), (9, 3, 16)])
def test_composite_tokens_are_the_clean_canvas_and_its_editable_blocks(prompt, canvas, tokens):
    assert composite_tokens([row(prompt, canvas)], 4) == tokens
    batch = collate([row(prompt, canvas)], 4, 0, "cpu")
    assert 2 * batch.tokens.shape[1] - batch.first_editable == tokens


def test_rows_together_pay_for_the_longest_canvas_and_the_shortest_prompt():
    rows = [row(30, 6), row(0, 20)]
    batch = collate(rows, 4, 0, "cpu")
    assert composite_tokens(rows, 4) == 2 * (2 * batch.tokens.shape[1] - batch.first_editable) == 144
    assert len(split_by_tokens(rows, 4, 100)) == 2


@pytest.mark.parametrize("budget", [1, 40, 64, 10_000])
def test_micro_batches_hold_every_row_once_and_keep_to_the_budget(budget):
    rows = [row(prompt, canvas, seed=7 * prompt + canvas) for prompt in (0, 3, 9, 13, 30) for canvas in (4, 5, 12)]
    groups = split_by_tokens(rows, 4, budget)
    assert sorted(r.noise_seed for group in groups for r in group) == sorted(r.noise_seed for r in rows)
    for group in groups:
        batch = collate(group, 4, 0, "cpu")
        real = len(group) * (2 * batch.tokens.shape[1] - batch.first_editable)
        assert len(group) == 1 or real <= budget


def test_nothing_to_split_is_no_micro_batch():
    assert split_by_tokens([], 4, 100) == []
