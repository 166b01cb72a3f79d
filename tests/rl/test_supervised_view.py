"""The supervised mixture: masks and wrong tokens in one view."""

import torch

from oracles.noise_draws import batch_of, plain_row
from oracles.tiny_policy import TOKENS
from redraft.rl.views import supervised_view

MASK = TOKENS.mask


def test_a_supervised_view_masks_at_least_one_token_of_every_block_and_scores_the_visible_ones_as_edits():
    batch = batch_of(*(plain_row(5, 11, seed) for seed in range(200)))
    view = supervised_view(batch, (0.0, 1.0), 0.5, t2t_weight=1.0, mask_id=MASK)
    masked = view.noisy == MASK
    assert not (masked & ~batch.editable).any()
    assert (masked.view(200, -1, 4).any(-1) == batch.editable.view(200, -1, 4).any(-1)).all()
    assert torch.equal(view.edit, batch.editable & ~masked)
    assert torch.equal(view.scored, batch.editable)
    assert torch.equal(view.target, batch.tokens)
    wrong = (view.noisy != batch.tokens) & ~masked
    assert 0.3 < wrong.sum().item() / (batch.editable & ~masked).sum().item() < 0.55
    assert not (wrong & ~batch.editable).any()


def test_both_terms_of_a_supervised_view_weigh_as_much_as_their_block_has_tokens():
    batch = batch_of(*(plain_row(5, 11, seed) for seed in range(50)))
    view = supervised_view(batch, (0.0, 1.0), 0.5, t2t_weight=0.25, mask_id=MASK)
    size = batch.editable.view(50, -1, 4).sum(-1).double()
    masked_weight = (view.weight * (view.noisy == MASK)).view(50, -1, 4).sum(-1)
    torch.testing.assert_close(masked_weight, size, rtol=0, atol=1e-12)
    edit_weight = (view.weight * view.edit).view(50, -1, 4).sum(-1)
    shows = view.edit.view(50, -1, 4).any(-1)
    torch.testing.assert_close(edit_weight[shows], 0.25 * size[shows], rtol=0, atol=1e-12)


def test_without_a_t2t_weight_only_masks_are_scored():
    batch = batch_of(plain_row(5, 11, 0))
    view = supervised_view(batch, (0.2, 0.6), 0.5, t2t_weight=0.0, mask_id=MASK)
    assert torch.equal(view.scored, view.noisy == MASK)
