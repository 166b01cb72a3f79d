"""Log-probabilities of scored views. The only caller of the network during learning."""

import functools
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rl.batch import CanvasBatch
from rl.masks import composite_mask
from rl.noising import View
from rl.route_tape import RouteTape


class Scores(NamedTuple):
    """Scored positions of a view, in row-major order."""

    log_prob: Float[Tensor, " scored"]  # nats
    entropy: Float[Tensor, " scored"]  # nats, without gradient
    row: Int[Tensor, " scored"]


def score_view(
    model: nn.Module,
    batch: CanvasBatch,
    view: View,
    mask_id: int,
    temperature: float,
    tape: RouteTape | None = None,
) -> Scores:
    """Score one view of every block by one composite forward `[noisy ; clean]`.

    Hidden states are gathered at the scored positions before the head, so the logits never exist for the others.

    Args:
        model: The policy, with `hidden_states` and `logits`.
        batch: Canvases; the clean half.
        view: The noisy half and what is scored.
        mask_id: Never written by the decoder: its logit is suppressed here as there.
        temperature: Of the distribution that was sampled from; 1 for an ELBO.
        tape: Of a `rl.route_tape.RoutedPolicy`: notes the routes of the composite input, and may replace them.

    Returns:
        Log-probability and entropy per scored position.
    """
    start = batch.first_editable
    scored = view.scored[:, start:]
    hidden = _composite_hidden(model, batch, view.noisy[:, start:], tape)
    row, column = scored.nonzero(as_tuple=True)
    logits = model.logits(hidden[row, column])  # pyright: ignore[reportCallIssue]
    distribution = _log_softmax(logits, mask_id, temperature)
    log_prob = distribution.gather(-1, view.target[:, start:][scored][:, None]).squeeze(-1)
    with torch.no_grad():
        entropy = torch.special.entr(distribution.exp()).sum(-1)
    return Scores(log_prob, entropy, row)


def _composite_hidden(model: Any, batch: CanvasBatch, noisy: Tensor, tape: RouteTape | None) -> Tensor:
    start, positions = batch.first_editable, torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    mask = composite_mask(positions[start:], positions, batch.block_length)
    both = torch.cat([positions[start:], positions]).expand(len(noisy), -1)
    # Only networks with a mixture of experts know tapes.
    run = model.hidden_states if tape is None else functools.partial(model.hidden_states, tape=tape)
    hidden = run(torch.cat([noisy, batch.tokens], dim=1), both, mask[None])
    return hidden[:, : noisy.shape[1]]


def _log_softmax(logits: Tensor, mask_id: int, temperature: float) -> Tensor:
    mask_column = torch.arange(logits.shape[-1], device=logits.device) == mask_id
    return (logits / temperature).masked_fill(mask_column, -torch.inf).log_softmax(-1)
