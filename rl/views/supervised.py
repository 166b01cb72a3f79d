"""The supervised view: the M2T + T2T mixture of training on demonstrations."""

import torch

from redraft.rl.views.canvas import CanvasBatch
from redraft.rl.views.view import View, block_counter, draw_uniforms, position_counter, ranks, spread


def supervised_view(
    batch: CanvasBatch, mask_ratio: tuple[float, float], edit_ratio: float, t2t_weight: float, mask_id: int
) -> View:
    """Make one noisy state per block with both kinds of noise, masks and wrong tokens.

    A block with n editable positions has k = 1 + floor(t n) of them masked (at most n), t uniform in `mask_ratio`. Each
    position that is still visible is replaced with probability `edit_ratio` by a token from anywhere in the batch. This
    is the only draw that depends on the other sequences: a sequence's own tokens are mostly what stands there already.
    Masked positions carry the ELBO weight n / k. Visible ones are scored too (repair what is wrong, keep what is right)
    with weight `t2t_weight` times n over their number, so both terms have the same unit (docs/math.md eq 41).

    Source: LLaDA2.1 section on the mixture; ratios there are unpublished, ours are configurable.
    """
    blocks = batch.editable.view(len(batch.tokens), -1, batch.block_length)
    size, position = blocks.sum(-1), position_counter(batch)
    low, high = mask_ratio
    level = low + (high - low) * draw_uniforms(batch, "level", 0, block_counter(batch))
    count = ((level * size).floor() + 1).clamp_max(size)
    masked = (blocks & (ranks(batch, 0) < count[..., None])).flatten(1)
    visible = batch.editable & ~masked
    wrong = visible & (draw_uniforms(batch, "wrong", 0, position) < edit_ratio)
    pool = batch.tokens[batch.editable]
    substitute = pool[(draw_uniforms(batch, "substitute", 0, position) * len(pool)).long()]
    noisy = torch.where(wrong, substitute, batch.tokens).masked_fill(masked, mask_id)
    unmask_weight = spread(size.double() / count.clamp_min(1), batch)
    edit_weight = spread(t2t_weight * size.double() / (size - count).clamp_min(1), batch)
    weight = torch.where(masked, unmask_weight, edit_weight) * batch.editable
    return View(noisy=noisy, target=batch.tokens, scored=weight > 0, weight=weight, edit=visible)
