"""Log-probabilities of scored views. The only caller of the network during learning."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rl.batch import CanvasBatch
from rl.masks import composite_mask
from rl.views.view import View, draw, position_counter
from rollout.config import DecodeConfig
from rollout.editing import edit_set, read, suppress_mask_, unmask_set
from rollout.sampling import draw as draw_token


class Scores(NamedTuple):
    """Scored positions of a view, in row-major order."""

    log_prob: Float[Tensor, " scored"]  # nats
    entropy: Float[Tensor, " scored"]  # nats, without gradient
    row: Int[Tensor, " scored"]


def score_view(model: nn.Module, batch: CanvasBatch, view: View, mask_id: int, temperature: float) -> Scores:
    """Score one view of every block by one composite forward `[noisy ; clean]`.

    Hidden states are gathered at the scored positions before the head, so the logits never exist for the others.

    Args:
        model: The policy, with `hidden_states` and `logits`.
        batch: Canvases; the clean half.
        view: The noisy half and what is scored.
        mask_id: Never written by the decoder: its logit is suppressed here as there.
        temperature: Of the distribution that was sampled from; 1 for an ELBO.

    Returns:
        Log-probability and entropy per scored position.
    """
    start = batch.first_editable
    scored = view.scored[:, start:]
    hidden = _composite_hidden(model, batch, view, start)
    row, column = scored.nonzero(as_tuple=True)
    logits = model.logits(hidden[row, column])  # pyright: ignore[reportCallIssue]
    distribution = _log_softmax(logits, mask_id, temperature)
    log_prob = distribution.gather(-1, view.target[:, start:][scored][:, None]).squeeze(-1)
    with torch.no_grad():
        entropy = torch.special.entr(distribution.exp()).sum(-1)
    return Scores(log_prob, entropy, row)


@torch.no_grad()
def draft_tokens(
    model: nn.Module, batch: CanvasBatch, view: View, number: int, mask_id: int
) -> Int[Tensor, "batch length"]:
    """What the policy would write into a view's scored slots, drawn at temperature 1; other positions as they are."""
    start = batch.first_editable
    scored = view.scored[:, start:]
    hidden = _composite_hidden(model, batch, view, start)
    logits = suppress_mask_(model.logits(hidden[scored]), mask_id)  # pyright: ignore[reportCallIssue]
    noise = draw(batch, "draft", number, position_counter(batch))[view.scored]
    drafted = batch.tokens.clone()
    drafted[view.scored] = draw_token(logits, noise, 1.0, 0, 1.0)[0]
    return drafted


@torch.no_grad()
def path_mismatch(
    model: nn.Module, batch: CanvasBatch, view: View, decode: DecodeConfig, mask_id: int
) -> Bool[Tensor, "batch blocks"]:
    """Blocks in which the policy, on the recorded state, would act on other slots than the decoder recorded."""
    assert view.step is not None
    assert view.acted is not None
    start, block_length = batch.first_editable, batch.block_length
    shape = (len(batch.tokens), -1, block_length)
    hidden = _composite_hidden(model, batch, view, start).unflatten(1, (-1, block_length))
    shown = view.step[:, start // block_length :] >= 0
    tokens = view.noisy[:, start:].reshape(shape)[shown]
    editable = batch.editable[:, start:].reshape(shape)[shown]
    reading = read(suppress_mask_(model.logits(hidden[shown]), mask_id))  # pyright: ignore[reportCallIssue]
    masked = editable & (tokens == mask_id)
    limit = reading.top_prob.new_ones(len(tokens), dtype=torch.float64)
    filled = unmask_set(masked, reading.top_prob, reading.top_prob, decode.threshold * limit)
    acting = filled | edit_set(tokens, editable & ~masked, reading, decode.editing_threshold * limit)
    differs = torch.zeros_like(view.step, dtype=torch.bool)
    differs[:, start // block_length :][shown] = (acting != view.acted[:, start:].reshape(shape)[shown]).any(-1)
    return differs


def _composite_hidden(model: Any, batch: CanvasBatch, view: View, start: int) -> Tensor:
    noisy, clean = view.noisy[:, start:], batch.tokens if view.context is None else view.context
    positions = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    mask = composite_mask(positions[start:], positions, batch.block_length)
    both = torch.cat([positions[start:], positions]).expand(len(noisy), -1)
    hidden = model.hidden_states(torch.cat([noisy, clean], dim=1), both, mask[None])
    return hidden[:, : noisy.shape[1]]


def _log_softmax(logits: Tensor, mask_id: int, temperature: float) -> Tensor:
    mask_column = torch.arange(logits.shape[-1], device=logits.device) == mask_id
    return (logits / temperature).masked_fill(mask_column, -torch.inf).log_softmax(-1)
