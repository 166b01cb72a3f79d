"""Log-probabilities of scored views. The only caller of the network during learning.

Guarantees:
    * The distribution is the decoder's: the mask token's logit is suppressed here as there.
    * One forward scores one noisy view of every block of every canvas.
    * Logits of the whole vocabulary never exist for all scored positions (`token_log_probs` makes them in slices).

Assumes:
    * The network has block-causal attention, and a hidden state predicts its own position; others are refused.
    * Canvases are padded to whole blocks, and all of a batch have the same length and the same block length.

Rejected alternatives:
    * One forward per block over the canvas up to it: exact too, and as many times slower as there are blocks.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from redraft.rl.likelihood.composite import CompositeLayout, composite_mask
from redraft.rl.likelihood.vocabulary import token_log_probs
from redraft.rl.views.canvas import CanvasBatch
from redraft.rl.views.view import View, draw_uniforms, position_counter
from redraft.rollout.config import DecodeConfig
from redraft.rollout.decoding.editing import edit_set, unmask_set
from redraft.rollout.engine.protocol import DiffusionModel, as_diffusion_model, as_routed_model
from redraft.rollout.engine.route_tape import RouteTape
from redraft.rollout.engine.scores import read, suppress_mask_
from redraft.rollout.sampling import draw as draw_token


class ViewScores(NamedTuple):
    """Scored positions of a view, sequence by sequence, from left to right."""

    log_prob: Float[Tensor, " scored"]  # nats
    entropy: Float[Tensor, " scored"]  # nats, without gradient
    sequence: Int[Tensor, " scored"]


def score_view(
    model: nn.Module,
    batch: CanvasBatch,
    view: View,
    mask_id: int,
    temperature: float,
    tape: RouteTape | None = None,
) -> ViewScores:
    """Score one view of every block by one composite forward `[noisy ; clean]`.

    Hidden states are gathered at the scored positions before the head, and the head's logits exist in slices of the
    vocabulary only.

    Args:
        model: The policy, a `DiffusionModel`.
        batch: Canvases; the clean half.
        view: The noisy half and what is scored.
        mask_id: The mask token, which has no probability.
        temperature: Of the distribution that was sampled from; 1 for an ELBO.
        tape: Of a `RoutedModel`: notes the routes of the composite input, and may replace them.

    Returns:
        Log-probability and entropy per scored position.

    Raises:
        TypeError: The model lacks a part of `DiffusionModel`, or is given a tape and is no `RoutedModel`.
        ValueError: Its geometry is not supported.
    """
    policy = as_diffusion_model(model, "scored")
    scored = view.scored[:, batch.first_editable :]
    hidden = _noisy_hidden(policy, batch, view, tape)[scored]
    target = view.target[:, batch.first_editable :][scored]

    def read(hidden: Tensor, head_weight: Tensor) -> tuple[Tensor, Tensor]:
        return token_log_probs(hidden, head_weight, target, mask_id, temperature)

    log_prob, entropy = policy.through_head(hidden, read)
    return ViewScores(log_prob, entropy, scored.nonzero()[:, 0])


@torch.no_grad()
def draft_tokens(
    model: nn.Module, batch: CanvasBatch, view: View, number: int, mask_id: int
) -> Int[Tensor, "batch length"]:
    """Draw what the policy would write at a view's scored positions, at temperature 1; keep the other tokens."""
    scored = view.scored[:, batch.first_editable :]
    policy = as_diffusion_model(model, "scored")
    logits = suppress_mask_(policy.logits(_noisy_hidden(policy, batch, view, None)[scored]), mask_id)
    noise = draw_uniforms(batch, "draft", number, position_counter(batch))[view.scored]
    drafted = batch.tokens.clone()
    drafted[view.scored] = draw_token(logits, noise, noise.new_ones(1))[0]
    return drafted


@torch.no_grad()
def path_mismatch(
    model: nn.Module, batch: CanvasBatch, view: View, decode: DecodeConfig, mask_id: int
) -> Bool[Tensor, "batch blocks"]:
    """Find blocks in which the policy, on the recorded state, would act on other positions (math.md eq 45)."""
    assert view.denoising_step is not None
    assert view.acted is not None
    start, block_length = batch.first_editable, batch.block_length
    shape = (len(batch.tokens), -1, block_length)
    policy = as_diffusion_model(model, "scored")
    hidden = _noisy_hidden(policy, batch, view, None).unflatten(1, (-1, block_length))
    shown = view.denoising_step[:, start // block_length :] >= 0
    tokens = view.noisy[:, start:].reshape(shape)[shown]
    editable = batch.editable[:, start:].reshape(shape)[shown]
    reading = read(suppress_mask_(policy.logits(hidden[shown]), mask_id))
    masked = editable & (tokens == mask_id)
    limit = reading.top_prob.new_ones(len(tokens), dtype=torch.float64)
    leftmost = decode.unmask_fallback == "leftmost"
    filled = unmask_set(masked, reading.top_prob, reading.top_prob, decode.threshold * limit, leftmost)
    acting = filled | edit_set(tokens, editable & ~masked, reading, decode.editing_threshold * limit)
    differs = torch.zeros_like(view.denoising_step, dtype=torch.bool)
    differs[:, start // block_length :][shown] = (acting != view.acted[:, start:].reshape(shape)[shown]).any(-1)
    return differs


def composite_layout(batch: CanvasBatch) -> CompositeLayout:
    """Lay out the composite input of a batch; the clean half leaves out the last block, which no noisy row sees."""
    length = batch.tokens.shape[1]
    return CompositeLayout(batch.first_editable, length, length - batch.block_length, batch.block_length)


def _noisy_hidden(
    model: DiffusionModel, batch: CanvasBatch, view: View, tape: RouteTape | None
) -> Float[Tensor, "batch noisy hidden"]:
    """Compute the hidden states of the noisy half."""
    layout = composite_layout(batch)
    clean = batch.tokens if view.context is None else view.context
    ids = torch.cat([view.noisy[:, layout.start :], clean[:, : layout.clean_length]], dim=1)
    device = ids.device
    positions = torch.cat([torch.arange(layout.start, layout.length), torch.arange(layout.clean_length)]).to(device)
    inputs = ids, positions.expand_as(ids), composite_mask(layout, device)
    hidden = model.hidden_states(*inputs) if tape is None else as_routed_model(model).hidden_states(*inputs, tape=tape)
    return hidden[:, : layout.num_noisy]
