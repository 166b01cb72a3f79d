"""One denoising step on a bare table of probabilities, every number by hand.

Tokens 0 to 3 are words and 4 is the mask. Logits are natural logarithms of the tables, so the tables are the softmax.
"""

import math
import random

import pytest
import torch

from benchmarks.common.dense import DenseScores
from oracles.slow_decode import denoise_block
from redraft.rollout.config import DecodeConfig
from redraft.rollout.decoding.editing import StepRules, denoise, edit_set, propose, unmask_set
from redraft.rollout.engine.scores import HeadScores, read, suppress_mask_
from redraft.rollout.trajectory import SpecialTokens

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


def random_rows(count: int, slots: int, vocab: int, seed: int):
    """Configs, canvases, prompt lengths, logits and noise of rows that have nothing in common."""
    source, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    configs = [
        DecodeConfig(
            threshold=source.choice([0.0, 0.2, 0.5, 1.0]),
            editing_threshold=source.choice([0.0, 0.2, 0.5, 1.0]),
            temperature=source.choice([0.0, 0.5, 1.0, 1.5]),
            top_k=source.choice([0, 0, 3]),
            top_p=source.choice([1.0, 1.0, 0.7]),
            edit_sampling=source.choice(["argmax", "sample"]),
            unmask_confidence=source.choice(["drawn", "top"]),
        )
        for _ in range(count)
    ]
    tokens = torch.tensor([[source.choice([MASK, source.randrange(vocab)]) for _ in range(slots)] for _ in configs])
    begins = [source.randrange(slots) for _ in configs]
    logits = 2.0 * torch.randn(count, slots, vocab, dtype=torch.float64, generator=generator)
    return configs, tokens, begins, logits, torch.rand(count, slots, dtype=torch.float64, generator=generator)


def denoised(configs, tokens, begins, scores, noise):
    prompt = torch.arange(tokens.shape[1]) < torch.tensor(begins)[:, None]
    return denoise(
        tokens, (tokens == MASK) & ~prompt, prompt, scores, noise, StepRules.from_configs(configs, tokens.device)
    )


def actions_of(step, before, row: int) -> list[tuple[int, int, int, int, float, float]]:
    """The actions of one row in the layout of the slow decoder, of forward 0."""
    return [
        (
            0,
            slot,
            int(before[row, slot]),
            int(step.tokens[row, slot]),
            step.proposal.log_prob[row, slot].item(),
            step.proposal.log_prob_raw[row, slot].item(),
        )
        for slot in (step.unmasked | step.edited)[row].nonzero()[:, 0].tolist()
    ]


@pytest.mark.parametrize("budget", [None, 1, 1000, 1 << 20], ids=["table", "by logit", "slices", "whole"])
def test_rows_of_one_step_follow_their_own_rules(budget):
    configs, tokens, begins, logits, noise = random_rows(count=200, slots=6, vocab=9, seed=0)
    scores = DenseScores(logits, MASK)
    if budget is not None:
        unit = torch.eye(9, dtype=torch.float64)
        scores = HeadScores(logits, unit, MASK, budget)
    found = denoised(configs, tokens, begins, scores, noise)
    for row, config in enumerate(configs):
        expected = denoise_block(
            logits[row].tolist(),
            tokens[row].tolist(),
            0,
            begins[row],
            0,
            lambda _, slot, row=row: noise[row, slot].item(),
            config.model_copy(update={"block_length": 6}),
            SpecialTokens(MASK, 0, ()),
        )
        actions = actions_of(found, tokens, row)
        assert [action[:4] for action in actions] == [action[:4] for action in expected]
        assert [action[4:] for action in actions] == [pytest.approx(action[4:], abs=1e-12) for action in expected]
    kept = ~(found.unmasked | found.edited)
    assert torch.equal(found.tokens[kept], tokens[kept])


def test_rules_of_some_rows_are_the_rules_of_these_rows():
    configs, tokens, begins, logits, noise = random_rows(count=20, slots=6, vocab=9, seed=1)
    rows = torch.tensor([3, 17, 4])
    picked = StepRules.from_configs(configs, CPU).of(rows)
    own = StepRules.from_configs([configs[row] for row in rows.tolist()], CPU)
    for name in ("threshold", "editing_threshold", "temperature", "top_k", "top_p", "draw_edits", "on_draw"):
        assert torch.equal(getattr(picked, name), getattr(own, name)), name
    whole = denoised(configs, tokens, begins, DenseScores(logits, MASK), noise)
    prompt = torch.arange(6) < torch.tensor(begins)[rows, None]
    masked = (tokens[rows] == MASK) & ~prompt
    some = denoise(tokens[rows], masked, prompt, DenseScores(logits[rows], MASK), noise[rows], picked)
    assert torch.equal(some.tokens, whole.tokens[rows])


def test_the_host_knows_what_work_no_row_needs():
    def known(**sampling) -> tuple[bool, bool, bool, bool]:
        own = StepRules.from_configs([DecodeConfig(), DecodeConfig(**sampling)], CPU)
        return own.any_draw, own.any_on_draw, own.any_top_k, own.any_top_p

    assert known(top_k=2, top_p=0.5) == (False, False, False, False)  # at temperature 0
    assert known(temperature=1.0) == (True, True, False, False)
    assert known(temperature=1.0, unmask_confidence="top", top_k=2) == (True, False, True, False)
    assert known(temperature=1.0, top_p=0.5) == (True, True, False, True)


class Asked(DenseScores):
    """Notes which slots are asked about."""

    def read(self, where):
        self.read_slots = where
        return super().read(where)

    def pieces(self, where):
        self.drawn_slots = where
        return super().pieces(where)


def test_scores_are_asked_for_only_where_they_can_matter():
    configs = [
        DecodeConfig(editing_threshold=1.0),  # fills only
        DecodeConfig(editing_threshold=0.5),  # fills and edits
        DecodeConfig(editing_threshold=1.0, temperature=1.0),  # draws in every masked slot
        DecodeConfig(editing_threshold=0.0, temperature=1.0, unmask_confidence="top", threshold=1.0),  # draws one fill
        DecodeConfig(editing_threshold=0.0, temperature=1.0, edit_sampling="sample"),  # draws edits too
    ]
    tokens = torch.tensor([[1, 2, MASK, MASK]] * 5)
    table = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0], dtype=torch.float64).log().expand(5, 4, 5)
    scores = Asked(table, MASK)
    denoised(configs, tokens, [1] * 5, scores, torch.zeros(5, 4, dtype=torch.float64))
    slots = [[i for i, asked in enumerate(row) if asked] for row in scores.read_slots.tolist()]
    assert slots == [[2, 3], [1, 2, 3], [2, 3], [1, 2, 3], [1, 2, 3]]
    slots = [[i for i, asked in enumerate(row) if asked] for row in scores.drawn_slots.tolist()]
    assert slots == [[], [], [2, 3], [2], [1, 2, 3]]
    greedy = Asked(table[:2], MASK)
    denoised(configs[:2], tokens[:2], [1, 1], greedy, torch.zeros(2, 4, dtype=torch.float64))
    assert not hasattr(greedy, "drawn_slots")


def test_the_leftmost_fallback_is_a_rule_of_its_row():
    table = logits_of([0.4, 0.3, 0.3, 0.0], [0.6, 0.4, 0.0, 0.0]).expand(2, -1, -1)
    configs = [DecodeConfig(), DecodeConfig(unmask_fallback="leftmost")]
    tokens = torch.tensor([[MASK, MASK]] * 2)
    out = denoised(configs, tokens, [0, 0], DenseScores(table, MASK), torch.zeros(2, 2, dtype=torch.float64))
    assert out.unmasked.tolist() == [[False, True], [True, False]]
