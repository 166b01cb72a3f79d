"""One denoising step on a bare table of probabilities, every number by hand.

Tokens 0 to 3 are words and 4 is the mask. Logits are natural logarithms of the tables, so the tables are the softmax.
"""

import math

import pytest
import torch

from rollout.config import DecodeConfig
from rollout.editing import StepRules, denoise, edit_set, propose, unmask_set
from rollout.scores import DenseScores, read, suppress_mask_

MASK = 4
CPU = torch.device("cpu")


def logits_of(*table: list[float]) -> torch.Tensor:
    """One row of slots; the mask token gets an absurdly high logit, which must not matter."""
    logits = torch.tensor([list(table)], dtype=torch.float64).log()
    return torch.cat([logits, torch.full((1, len(table), 1), 50.0)], dim=-1)


def rules(threshold: float = 0.7, editing_threshold: float = 0.5, **sampling) -> StepRules:
    config = DecodeConfig(threshold=threshold, editing_threshold=editing_threshold, **sampling)
    return StepRules.from_configs([config], CPU)


def step(
    tokens: list[int], logits: torch.Tensor, step_rules: StepRules, prompt: int = 0, noise: list[float] | None = None
):
    """Denoises one row; its first `prompt` slots belong to the prompt."""
    row = torch.tensor([tokens])
    protected = torch.arange(len(tokens))[None] < prompt
    numbers = torch.tensor([noise if noise else [0.0] * len(tokens)], dtype=torch.float64)
    scores = DenseScores(logits, MASK)
    return denoise(row, (row == MASK) & ~protected, protected, scores, numbers, step_rules)


def where(slots: torch.Tensor) -> list[int]:
    return slots[0].nonzero().flatten().tolist()


def test_the_mask_token_has_no_probability_and_is_not_written():
    out = step([MASK], logits_of([0.1, 0.2, 0.6, 0.1]), rules())
    assert out.tokens.tolist() == [[2]]
    assert out.proposal.log_prob_raw.item() == pytest.approx(math.log(0.6))


def test_every_masked_slot_above_the_threshold_is_filled_at_once():
    table = logits_of([0.8, 0.2, 0.0, 0.0], [0.3, 0.7, 0.0, 0.0], [0.1, 0.0, 0.9, 0.0])
    out = step([MASK, MASK, MASK], table, rules(threshold=0.75))
    assert where(out.unmasked) == [0, 2]
    assert out.tokens.tolist() == [[0, MASK, 2]]


def test_the_inequality_of_the_fill_is_strict():
    # 0.5 is exact: exp(log 2 - log 4) could round, so the confidence is given as it is.
    masked, confidence = (
        torch.ones(1, 3, dtype=torch.bool),
        torch.tensor([[0.5, 0.5 + 2**-52, 0.25]], dtype=torch.float64),
    )
    assert where(unmask_set(masked, confidence, confidence, torch.tensor([0.5], dtype=torch.float64))) == [1]


def test_without_a_confident_slot_the_most_confident_masked_one_is_filled():
    # Slot 0 is visible and more confident than all, slot 3 ties with slot 2: the lower one is filled.
    table = logits_of([0.9, 0.1, 0.0, 0.0], [0.3, 0.3, 0.4, 0.0], [0.0, 0.5, 0.5, 0.0], [0.5, 0.0, 0.0, 0.5])
    out = step([0, MASK, MASK, MASK], table, rules(threshold=0.6))
    assert where(out.unmasked) == [2]
    assert out.tokens.tolist() == [[0, MASK, 1, MASK]]


def test_the_fallback_looks_at_the_top_probability_and_not_at_the_draw():
    masked = torch.ones(1, 2, dtype=torch.bool)
    drawn, top = torch.tensor([[0.01, 0.30]]), torch.tensor([[0.60, 0.35]])
    assert where(unmask_set(masked, drawn, top, torch.tensor([0.7]))) == [0]


def test_the_leftmost_fallback_fills_the_first_mask_and_only_where_none_passes():
    masked = torch.tensor([[False, True, True], [False, True, True], [False, False, False]])
    top = torch.tensor([[0.9, 0.1, 0.5], [0.9, 0.1, 0.8], [0.9, 0.9, 0.9]])
    thresholds = torch.tensor([0.6, 0.6, 1.0])
    chosen = unmask_set(masked, top, top, thresholds, leftmost=True)
    assert chosen.tolist() == [[False, True, False], [False, False, True], [False, False, False]]
    per_row = unmask_set(
        masked[:1].expand(2, -1),
        top[:1].expand(2, -1),
        top[:1].expand(2, -1),
        thresholds[:2],
        torch.tensor([False, True]),
    )
    assert per_row.tolist() == [[False, False, True], [False, True, False]]


def test_a_row_without_masks_fills_nothing_and_rows_are_judged_apart():
    masked = torch.tensor([[False, False], [True, True], [True, True]])
    confidence = torch.tensor([[0.9, 0.9], [0.9, 0.1], [0.2, 0.3]])
    chosen = unmask_set(masked, confidence, confidence, torch.tensor([0.5, 0.5, 0.5]))
    assert chosen.tolist() == [[False, False], [True, False], [False, True]]
    assert unmask_set(masked, confidence, confidence, torch.tensor([0.5, 0.05, 0.95])).tolist() == [
        [False, False],
        [True, True],
        [False, True],
    ]


def test_a_visible_slot_is_edited_only_by_another_token_above_the_threshold():
    # 0: another token, 0.6 > 0.5.  1: argmax is the token itself.  2: another token, but 0.45.  3: prompt would edit.
    table = logits_of([0.6, 0.4, 0, 0], [0.1, 0.9, 0, 0], [0.45, 0.4, 0.15, 0], [0.99, 0.01, 0, 0])
    out = step([1, 1, 1, 1], table, rules(editing_threshold=0.5))
    assert where(out.edited) == [0, 3]
    assert out.tokens.tolist() == [[0, 1, 1, 0]]
    assert where(out.unmasked) == []


def test_the_inequality_of_the_edit_is_strict():
    reading = read(suppress_mask_(logits_of([0.5, 0.25, 0.25, 0.0]), MASK))
    reading = reading._replace(top_prob=torch.tensor([[0.5]], dtype=torch.float64))
    tokens, editable = torch.tensor([[1]]), torch.tensor([[True]])
    assert not edit_set(tokens, editable, reading, torch.tensor([0.5], dtype=torch.float64)).any()
    assert edit_set(tokens, editable, reading, torch.tensor([0.5 - 2**-53], dtype=torch.float64)).all()


def test_prompt_slots_are_never_written_even_where_they_hold_the_mask_id():
    table = logits_of([0.99, 0.01, 0, 0], [0.99, 0.01, 0, 0], [0.99, 0.01, 0, 0])
    out = step([1, MASK, MASK], table, rules(editing_threshold=0.0), prompt=2)
    assert out.tokens.tolist() == [[1, MASK, 0]]
    assert where(out.edited) == []
    assert where(out.unmasked) == [2]


def test_edits_fire_beside_fills_on_the_tokens_before_the_step():
    table = logits_of([0.9, 0.1, 0, 0], [0.0, 0.2, 0.8, 0], [0.4, 0.3, 0.3, 0])
    out = step([3, MASK, MASK], table, rules())
    assert out.tokens.tolist() == [[0, 2, MASK]]
    assert where(out.edited) == [0]
    assert where(out.unmasked) == [1]


def test_an_editing_threshold_of_zero_edits_every_slot_whose_argmax_differs():
    table = logits_of([0.26, 0.25, 0.25, 0.24], [0.25, 0.26, 0.25, 0.24])
    out = step([1, 1], table, rules(editing_threshold=0.0))
    assert out.tokens.tolist() == [[0, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_editing_threshold_of_one_edits_nothing_and_a_threshold_of_one_fills_one_slot(dtype):
    """Even where a token is certain up to rounding."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1000, 5, generator=generator).to(dtype)
    logits[..., 0] += 40.0
    assert read(suppress_mask_(logits.clone(), MASK)).top_prob.max() == 1.0
    assert where(step([1] * 1000, logits, rules(editing_threshold=1.0)).edited) == []
    assert len(where(step([MASK] * 1000, logits, rules(threshold=1.0)).unmasked)) == 1


def test_log_probabilities_at_temperature_zero_are_zero_tempered_and_the_softmax_untempered():
    out = step([MASK, 1], logits_of([0.8, 0.2, 0, 0], [0.6, 0.4, 0, 0]), rules())
    assert out.proposal.log_prob.tolist() == [[0.0, 0.0]]
    assert out.proposal.log_prob_raw[0].tolist() == pytest.approx([math.log(0.8), math.log(0.6)])


def test_the_threshold_tests_the_drawn_token_or_the_top_one():
    # The noise 0.9 draws token 1 (probability 0.2) in both slots; tokens 0 have 0.8.
    table, noise = logits_of([0.8, 0.2, 0, 0], [0.75, 0.25, 0, 0]), [0.9, 0.9]
    drawn = step([MASK, MASK], table, rules(temperature=1.0), noise=noise)
    assert where(drawn.unmasked) == [0]  # neither draw passes; slot 0 has the higher top probability
    assert drawn.tokens.tolist() == [[1, MASK]]
    top = step([MASK, MASK], table, rules(temperature=1.0, unmask_confidence="top"), noise=noise)
    assert where(top.unmasked) == [0, 1]
    assert top.tokens.tolist() == [[1, 1]]


def test_thresholds_test_the_untempered_probability():
    # At temperature 0.5 the probabilities 0.6, 0.4 become 0.36/0.52 = 0.692, 0.308; 0.6 does not pass 0.65.
    table = logits_of([0.6, 0.4, 0, 0], [0.6, 0.4, 0, 0])
    for confidence in ("drawn", "top"):
        out = step([MASK, MASK], table, rules(threshold=0.65, temperature=0.5, unmask_confidence=confidence))
        assert where(out.unmasked) == [0]
        assert out.proposal.log_prob[0, 0].item() == pytest.approx(math.log(0.36 / 0.52))
        assert out.proposal.log_prob_raw[0, 0].item() == pytest.approx(math.log(0.6))


def test_an_edit_writes_the_argmax_or_redraws_its_slot_and_may_keep_the_old_token():
    table, noise = logits_of([0.6, 0.4, 0, 0], [0.6, 0.4, 0, 0]), [0.3, 0.7]
    argmax = step([1, 1], table, rules(temperature=1.0), noise=noise)
    assert argmax.tokens.tolist() == [[0, 0]]
    assert argmax.proposal.log_prob.tolist() == [[0.0, 0.0]]
    redrawn = step([1, 1], table, rules(temperature=1.0, edit_sampling="sample"), noise=noise)
    assert where(redrawn.edited) == [0, 1]
    assert redrawn.tokens.tolist() == [[0, 1]]
    assert redrawn.proposal.log_prob[0].tolist() == pytest.approx([math.log(0.6), math.log(0.4)])


def test_slots_that_are_not_drawn_propose_their_argmax():
    table = logits_of([0.6, 0.4, 0, 0], [0.6, 0.4, 0, 0])
    scores, drawn = DenseScores(table, MASK), torch.tensor([[True, False]])
    noise = torch.full((1, 2), 0.9)
    proposal = propose(scores, scores.read(torch.ones_like(drawn)), drawn, noise, rules(temperature=1.0))
    assert proposal.token.tolist() == [[1, 0]]
    assert proposal.log_prob[0].tolist() == pytest.approx([math.log(0.4), 0.0])
