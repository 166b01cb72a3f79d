"""Log-probabilities of scored views. The only caller of the network during learning."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rl.batch import CanvasBatch
from rl.masks import CompositeLayout, Mask, composite_mask
from rl.noising import View
from rl.route_tape import RouteTape, routed
from rl.token_log_probs import token_log_probs


@runtime_checkable
class ScoredModel(Protocol):
    """What a policy must offer to be scored."""

    @property
    def head_weight(self) -> Float[Tensor, "vocab hidden"]:
        """The language-model head."""
        ...

    def hidden_states(
        self, input_ids: Int[Tensor, "b q"], position_ids: Int[Tensor, "b q"], attention_mask: Mask
    ) -> Float[Tensor, "b q hidden"]:
        """Hidden states after the final norm."""
        ...


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

    Hidden states are gathered at the scored positions before the head, and the head's logits exist in slices of the
    vocabulary only.

    Args:
        model: The policy, a `ScoredModel`.
        batch: Canvases; the clean half.
        view: The noisy half and what is scored.
        mask_id: Never written by the decoder: its logit is suppressed here as there.
        temperature: Of the distribution that was sampled from; 1 for an ELBO.
        tape: Of a `rl.route_tape.RoutedPolicy`: notes the routes of the composite input, and may replace them.

    Returns:
        Log-probability and entropy per scored position.

    Raises:
        TypeError: The model lacks a part of `ScoredModel`, or is given a tape and is no `RoutedPolicy`.
    """
    if not isinstance(model, ScoredModel):
        raise TypeError(f"{type(model).__name__} must have hidden_states and head_weight to be scored")
    scored = view.scored[:, batch.first_editable :]
    hidden = _noisy_hidden(model, batch, view, tape)[scored]
    target = view.target[:, batch.first_editable :][scored]
    log_prob, entropy = token_log_probs(hidden, model.head_weight, target, mask_id, temperature)
    return Scores(log_prob, entropy, scored.nonzero()[:, 0])


def composite_layout(batch: CanvasBatch) -> CompositeLayout:
    """The composite input of a batch; the clean half leaves out the last block, which no noisy row sees."""
    length = batch.tokens.shape[1]
    return CompositeLayout(batch.first_editable, length, length - batch.block_length, batch.block_length)


def _noisy_hidden(
    model: ScoredModel, batch: CanvasBatch, view: View, tape: RouteTape | None
) -> Float[Tensor, "batch noisy hidden"]:
    """Hidden states of the noisy half."""
    layout = composite_layout(batch)
    ids = torch.cat([view.noisy[:, layout.start :], batch.tokens[:, : layout.clean_length]], dim=1)
    device = ids.device
    positions = torch.cat([torch.arange(layout.start, layout.length), torch.arange(layout.clean_length)]).to(device)
    inputs = ids, positions.expand_as(ids), composite_mask(layout, device)
    hidden = model.hidden_states(*inputs) if tape is None else routed(model).hidden_states(*inputs, tape=tape)
    return hidden[:, : layout.num_noisy]
