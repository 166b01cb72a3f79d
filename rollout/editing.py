"""One denoising step of block diffusion with editing, as pure functions of tensors.

A step reads the logits of one active block per row and decides which masked slots to fill (M2T) and which visible
slots to rewrite (T2T). Every set is computed from the tokens before the step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rollout.config import DecodeConfig
from rollout.sampling import draw


@dataclass(frozen=True)
class StepRules:
    """The decision rules of one step; see `DecodeConfig` for their meaning.

    Attributes:
        threshold: M2T threshold of each row.
        editing_threshold: T2T threshold of each row.
        temperature: Of the sampling distribution; 0.0 takes the argmax.
        top_k: Truncation of the sampling distribution; 0 is off.
        top_p: Truncation of the sampling distribution; 1.0 is off.
        draw_edits: Edits redraw their slot instead of writing the argmax.
        confidence: Masked slots are tested on the drawn token, or on the top one.
        leftmost: Where no slot passes, the leftmost masked one is filled instead of the most confident one.
    """

    threshold: Float[Tensor, " rows"]
    editing_threshold: Float[Tensor, " rows"]
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    draw_edits: bool = False
    confidence: Literal["drawn", "top"] = "drawn"
    leftmost: bool = False

    @classmethod
    def from_configs(cls, configs: Sequence[DecodeConfig], device: torch.device) -> "StepRules":
        """The rules of rows with the given configs, which must share their sampling settings."""
        shared = configs[0]
        return cls(
            threshold=torch.tensor([config.threshold for config in configs], dtype=torch.float64, device=device),
            editing_threshold=torch.tensor(
                [config.editing_threshold for config in configs], dtype=torch.float64, device=device
            ),
            temperature=shared.temperature,
            top_k=shared.top_k,
            top_p=shared.top_p,
            draw_edits=shared.edit_sampling == "sample",
            confidence=shared.unmask_confidence,
            leftmost=shared.unmask_fallback == "leftmost",
        )

    def of(self, rows: Int[Tensor, " live"]) -> "StepRules":
        """The rules of some of the rows."""
        return replace(self, threshold=self.threshold[rows], editing_threshold=self.editing_threshold[rows])


class Reading(NamedTuple):
    """What the untempered softmax says about each slot.

    Attributes:
        top: The most probable token; of equal ones the lowest id.
        top_prob: Its probability, at most 1.
        log_normalizer: log sum exp of the logits.
    """

    top: Int[Tensor, "rows slots"]
    top_prob: Float[Tensor, "rows slots"]
    log_normalizer: Float[Tensor, "rows slots"]


class Proposal(NamedTuple):
    """The token that each slot would take, were it chosen.

    Attributes:
        token: The token.
        log_prob: Nats under the sampling distribution; 0.0 where the token is the argmax by rule and not a draw.
        log_prob_raw: Nats under the untempered softmax.
    """

    token: Int[Tensor, "rows slots"]
    log_prob: Float[Tensor, "rows slots"]
    log_prob_raw: Float[Tensor, "rows slots"]


class Step(NamedTuple):
    """The outcome of one denoising step.

    Attributes:
        tokens: The blocks after the step.
        unmasked: Slots that were filled.
        edited: Slots that were rewritten, if only with the token they had (possible when edits are drawn).
        proposal: What was written there.
    """

    tokens: Int[Tensor, "rows slots"]
    unmasked: Bool[Tensor, "rows slots"]
    edited: Bool[Tensor, "rows slots"]
    proposal: Proposal


def suppress_mask_(logits: Float[Tensor, "*n vocab"], mask: int) -> Float[Tensor, "*n vocab"]:
    """Sets the mask token's logit to -inf in place: it has no probability and is never written."""
    logits[..., mask] = -torch.inf
    return logits


def read(logits: Float[Tensor, "rows slots vocab"]) -> Reading:
    """Argmax, its probability and the normaliser of each slot, without a softmax of the whole vocabulary.

    Raises:
        FloatingPointError: If logits hold nan or infinity, or nothing but -inf.
    """
    top_logit, top = logits.max(dim=-1)
    log_normalizer = logits.logsumexp(dim=-1)
    if not log_normalizer.isfinite().all():
        row, slot = (~log_normalizer.isfinite()).nonzero()[0].tolist()
        raise FloatingPointError(f"logits are not finite in row {row}, slot {slot} of the active blocks")
    # log sum exp >= max holds after rounding too, so no probability passes a threshold of 1.0, which means "never".
    return Reading(top, (top_logit - log_normalizer).exp(), log_normalizer)


def unmask_set(
    masked: Bool[Tensor, "rows slots"],
    confidence: Float[Tensor, "rows slots"],
    top_prob: Float[Tensor, "rows slots"],
    threshold: Float[Tensor, " rows"],
    leftmost: bool = False,
) -> Bool[Tensor, "rows slots"]:
    """Gamma: masked slots with confidence above the threshold, else one masked slot.

    That one is the slot with the highest `top_prob`, the lowest position of equal ones (the draw is ignored), or the
    `leftmost`.
    """
    confident = masked & (confidence > threshold[:, None])
    worth = masked.double() if leftmost else top_prob.masked_fill(~masked, -1.0)
    best = worth.argmax(dim=-1, keepdim=True)
    fallback = torch.zeros_like(masked).scatter_(-1, best, ~confident.any(dim=-1, keepdim=True))
    return confident | (fallback & masked)


def edit_set(
    tokens: Int[Tensor, "rows slots"],
    editable: Bool[Tensor, "rows slots"],
    reading: Reading,
    threshold: Float[Tensor, " rows"],
) -> Bool[Tensor, "rows slots"]:
    """Delta: editable slots (visible, not prompt) whose argmax is another token, more probable than the threshold."""
    return editable & (reading.top != tokens) & (reading.top_prob > threshold[:, None])


def propose(
    logits: Float[Tensor, "rows slots vocab"],
    reading: Reading,
    drawn: Bool[Tensor, "rows slots"],
    noise: Float[Tensor, "rows slots"],
    rules: StepRules,
) -> Proposal:
    """The argmax of each slot, replaced by a draw from the sampling distribution in the `drawn` slots."""
    token = reading.top
    log_prob = torch.zeros_like(reading.top_prob)
    if rules.temperature > 0.0:
        token = token.clone()
        token[drawn], log_prob[drawn] = draw(logits[drawn], noise[drawn], rules.temperature, rules.top_k, rules.top_p)
    logit = logits.gather(-1, token.unsqueeze(-1)).squeeze(-1)
    return Proposal(token, log_prob, logit - reading.log_normalizer)


def denoise(
    tokens: Int[Tensor, "rows slots"],
    masked: Bool[Tensor, "rows slots"],
    prompt: Bool[Tensor, "rows slots"],
    logits: Float[Tensor, "rows slots vocab"],
    noise: Float[Tensor, "rows slots"],
    rules: StepRules,
) -> Step:
    """One step: fill Gamma and rewrite Delta, both found on the tokens before the step.

    Args:
        tokens: The active blocks.
        masked: Slots that are still empty.
        prompt: Slots that are never written.
        logits: Of the active blocks, the mask token suppressed.
        noise: One uniform per slot; unused at temperature 0.
        rules: The decision rules.

    Source: LLaDA2.1 (arXiv 2602.08676), threshold decoding with token editing.
    """
    reading = read(logits)
    edited = edit_set(tokens, ~masked & ~prompt, reading, rules.editing_threshold)
    on_draw = rules.confidence == "drawn"
    fillable = masked
    if not on_draw:
        fillable = unmask_set(masked, reading.top_prob, reading.top_prob, rules.threshold, rules.leftmost)
    proposal = propose(logits, reading, fillable | edited if rules.draw_edits else fillable, noise, rules)
    unmasked = fillable
    if on_draw:
        unmasked = unmask_set(masked, proposal.log_prob_raw.exp(), reading.top_prob, rules.threshold, rules.leftmost)
    return Step(torch.where(unmasked | edited, proposal.token, tokens), unmasked, edited, proposal)
