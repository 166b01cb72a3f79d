"""Views of published surrogates that are no ELBO: mean field, coupled pairs, levels spaced from a random start.

They are cheap and biased (docs/math.md section 4). docs/algorithms.md has the measured angles to the true gradient.
"""

from dataclasses import replace

import torch

from redraft.rl.views.canvas import CanvasBatch
from redraft.rl.views.elbo import arc
from redraft.rl.views.view import View, block_counter, draw_uniforms, masked_view, position_counter, ranks, spread

COUPLED_LEVELS = (0.2, 0.8)


def mean_field_views(batch: CanvasBatch, num_mc: int, prompt_mask_ratio: float, mask_id: int) -> list[View]:
    """Mask everything: log-probabilities after one forward, as if tokens were independent (eq 36).

    With `prompt_mask_ratio` each view also masks prompt tokens, in both halves. Without it all views would be equal, so
    only one is made.

    Source: d1 / diffu-GRPO (arXiv 2504.12216); wd1 (2507.08838).
    """
    count = num_mc if prompt_mask_ratio else 1
    views: list[View] = []
    weight = torch.full(batch.tokens.shape, 1 / count, dtype=torch.float64, device=batch.tokens.device)
    full = masked_view(batch, batch.editable, weight, mask_id)
    position = position_counter(batch)
    prompt = position < torch.tensor(batch.prompt_lengths, device=position.device)[:, None]
    for view in range(count):
        hidden = prompt & (draw_uniforms(batch, "prompt_mask", view, position) < prompt_mask_ratio)
        context = torch.where(hidden, mask_id, batch.tokens) if prompt_mask_ratio else None
        views.append(replace(full, noisy=torch.where(hidden, mask_id, full.noisy), context=context))
    return views


def coupled_views(batch: CanvasBatch, num_mc: int, mask_id: int) -> list[View]:
    """Make the full mask and pairs of complementary masks.

    They estimate 1/2 [log p(y_k | all masked) + w log p(y_k | its half masked)] with t ~ U(0.2, 0.8) per completion and
    pair, w = 1 / t in the half that is masked with probability t, and w = 1 / (1 - t) in the other.

    Source: coupled-GRPO, DiffuCoder (arXiv 2506.20639). Its weights add up to 1.5 units of likelihood, not one
    (eq 37).
    """
    half = torch.full(batch.tokens.shape, 0.5, dtype=torch.float64, device=batch.tokens.device)
    views, pairs = [masked_view(batch, batch.editable, half, mask_id)], num_mc // 2
    low, high = COUPLED_LEVELS
    for pair in range(pairs):
        level = low + (high - low) * draw_uniforms(batch, "level", pair, block_counter(batch)[:, :1])
        first = batch.editable & (draw_uniforms(batch, "rank", pair, position_counter(batch)) < level)
        for masked, chance in ((first, level), (batch.editable & ~first, 1 - level)):
            views.append(masked_view(batch, masked, half / (pairs * chance), mask_id))
    return views


def spaced_views(batch: CanvasBatch, num_mc: int, mask_id: int) -> list[View]:
    """Mask at levels spaced evenly from a random start t_0 up to 1.

    Each view's value is its mean over masked tokens times the number n of editable ones.

    Source: UniGRPO's structured noising, MMaDA (arXiv 2505.15809). High levels are more frequent than low ones, so this
    is no ELBO (eq 38).
    """
    blocks = batch.editable.view(len(batch.tokens), -1, batch.block_length)
    size = blocks.sum(-1)
    start = draw_uniforms(batch, "level", 0, block_counter(batch)[:, :1])
    views = []
    for view in range(num_mc):
        level = start + (1 - start) * view / max(1, num_mc - 1)
        count = (level * size).floor().long().add(1).minimum(size)
        masked = arc(ranks(batch, view), torch.zeros_like(count), count, size) & blocks
        weight = size.double() / (num_mc * count.clamp_min(1))
        views.append(masked_view(batch, masked.flatten(1), spread(weight, batch), mask_id))
    return views
