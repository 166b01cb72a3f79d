"""T2T views for estimators without a trajectory: a draft in place of masks, scored where it has to be repaired.

The editor must learn to correct the policy's own fluent mistakes, so drafts come from the old policy. Random tokens are
kept as an ablation: their gradient has a cosine of about one half with that of real edits.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from redraft.rl.views.canvas import CanvasBatch
from redraft.rl.views.view import View, block_counter, draw_uniforms, position_counter, spread

KEPT_WEIGHT = 0.5


def random_draft(batch: CanvasBatch, view: int) -> Int[Tensor, "batch length"]:
    """Draw for every position a token from the completion's own canvas: right tokens of wrong places."""
    first = torch.tensor(batch.prompt_lengths, device=batch.tokens.device)[:, None]
    place = draw_uniforms(batch, "draft", view, position_counter(batch)) * batch.editable.sum(-1, keepdim=True)
    return batch.tokens.gather(1, first + place.long())


def draft_view(batch: CanvasBatch, source: View, draft: Int[Tensor, "batch length"], view: int) -> View:
    """Show a draft in the masked positions of another view, and score the wrong ones and as many right ones.

    Only completions with an advantage of at least 0 are scored. In a bad completion the loss would push a visible token
    away from the one that was written, which says nothing about the token to write instead.

    Args:
        batch: Canvases.
        source: A masked view; its masked positions are drafted.
        draft: A token for every position; read at the masked ones.
        view: Number of the view, for its draws.

    Returns:
        A T2T view with the source's weights n / k for wrong positions and half of them for kept ones (math.md eq 40).
    """
    noisy = torch.where(source.scored, draft, batch.tokens)
    good = batch.advantages[:, None] >= 0
    wrong = source.scored & (noisy != batch.tokens) & good
    right = source.scored & (noisy == batch.tokens) & good
    # The right positions of each block in random order; the first ones are kept, as many as the block has wrong ones.
    chance = draw_uniforms(batch, "keep", view, position_counter(batch)).masked_fill(~right, 2.0)
    blocks = (*block_counter(batch).shape, batch.block_length)
    place = chance.view(blocks).argsort(-1).argsort(-1).flatten(1)
    number_wrong = wrong.view(blocks).sum(-1).double()
    kept = right & (place < spread(number_wrong, batch))
    scored = wrong | kept
    return View(
        noisy=noisy,
        target=batch.tokens,
        scored=scored,
        weight=source.weight * (wrong + KEPT_WEIGHT * kept),
        edit=scored,
    )
