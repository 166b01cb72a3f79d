"""One denoising step of block diffusion with editing, as pure functions of tensors.

A step looks at the scores of one active block per row and decides which masked slots to fill (M2T) and which visible
slots to rewrite (T2T). Every set is computed from the tokens before the step. Rows may differ in all their rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from redraft.rollout.config import DecodeConfig
from redraft.rollout.engine.scores import Reading, Scores
from redraft.rollout.sampling import draw


@dataclass(frozen=True)
class StepRules:
    """The decision rules of one step, per row; see `DecodeConfig` for their meaning.

    What the host must know to leave work out, it knows from plain bools, not from the device: they may be True for
    the sake of rows that `of` left out.

    Attributes:
        threshold: M2T threshold.
        editing_threshold: T2T threshold.
        temperature: Of the sampling distribution; 0.0 takes the argmax.
        top_k: Truncation of the sampling distribution; 0 is off.
        top_p: Truncation of the sampling distribution; 1.0 is off.
        draw_edits: Edits redraw their slot instead of writing the argmax.
        on_draw: Masked slots are tested on the drawn token, not on the top one; False at temperature 0.
        leftmost: Where no slot passes, the leftmost masked one is filled instead of the most confident one.
        any_draw: Some row has a temperature.
        any_on_draw: Some row has `on_draw`.
        any_top_k: Some row has a `top_k`.
        any_top_p: Some row has a `top_p`.
    """

    threshold: Float[Tensor, " rows"]
    editing_threshold: Float[Tensor, " rows"]
    temperature: Float[Tensor, " rows"]
    top_k: Int[Tensor, " rows"]
    top_p: Float[Tensor, " rows"]
    draw_edits: Bool[Tensor, " rows"]
    on_draw: Bool[Tensor, " rows"]
    leftmost: Bool[Tensor, " rows"]
    any_draw: bool
    any_on_draw: bool
    any_top_k: bool
    any_top_p: bool

    @classmethod
    def from_configs(cls, configs: Sequence[DecodeConfig], device: torch.device) -> "StepRules":
        """The rules of rows with the given configs."""

        def column(values: list, dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        draws = [config for config in configs if config.temperature > 0.0]
        on_draw = [config.temperature > 0.0 and config.unmask_confidence == "drawn" for config in configs]
        return cls(
            threshold=column([config.threshold for config in configs], torch.float64),
            editing_threshold=column([config.editing_threshold for config in configs], torch.float64),
            temperature=column([config.temperature for config in configs], torch.float64),
            top_k=column([config.top_k for config in configs], torch.int64),
            top_p=column([config.top_p for config in configs], torch.float64),
            draw_edits=column([config.edit_sampling == "sample" for config in configs], torch.bool),
            on_draw=column(on_draw, torch.bool),
            leftmost=column([config.unmask_fallback == "leftmost" for config in configs], torch.bool),
            any_draw=bool(draws),
            any_on_draw=any(on_draw),
            any_top_k=any(config.top_k > 0 for config in draws),
            any_top_p=any(config.top_p < 1.0 for config in draws),
        )

    def of(self, rows: Int[Tensor, " live"]) -> "StepRules":
        """The rules of some of the rows."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: column[rows] for name, column in columns.items() if isinstance(column, Tensor)})


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


def unmask_set(
    masked: Bool[Tensor, "rows slots"],
    confidence: Float[Tensor, "rows slots"],
    top_prob: Float[Tensor, "rows slots"],
    threshold: Float[Tensor, " rows"],
    leftmost: Bool[Tensor, " rows"] | bool = False,
) -> Bool[Tensor, "rows slots"]:
    """Gamma: masked slots with confidence above the threshold, else one masked slot.

    That one is the slot with the highest `top_prob`, the lowest position of equal ones (the draw is ignored), or the
    `leftmost`.
    """
    confident = masked & (confidence > threshold[:, None])
    if isinstance(leftmost, Tensor):
        top_prob = top_prob.masked_fill(leftmost[:, None], 0.0)
    elif leftmost:
        top_prob = torch.zeros_like(top_prob)
    best = top_prob.masked_fill(~masked, -1.0).argmax(dim=-1, keepdim=True)
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
    scores: Scores,
    reading: Reading,
    drawn: Bool[Tensor, "rows slots"],
    noise: Float[Tensor, "rows slots"],
    rules: StepRules,
) -> Proposal:
    """The argmax of each slot, replaced by a draw from the sampling distribution in the `drawn` slots."""
    token, log_prob_raw = reading.top, reading.top_log_prob
    log_prob = torch.zeros_like(log_prob_raw)
    for row, slot, logits in scores.pieces(drawn):
        own, own_log_prob = draw(
            logits,
            noise[row, slot],
            rules.temperature[row],
            rules.top_k[row] if rules.any_top_k else None,
            rules.top_p[row] if rules.any_top_p else None,
        )
        logit = logits.gather(-1, own[:, None])[:, 0]
        token = token.index_put((row, slot), own)
        log_prob = log_prob.index_put((row, slot), own_log_prob)
        log_prob_raw = log_prob_raw.index_put((row, slot), logit - reading.log_normalizer[row, slot])
    return Proposal(token, log_prob, log_prob_raw)


def denoise(
    tokens: Int[Tensor, "rows slots"],
    masked: Bool[Tensor, "rows slots"],
    prompt: Bool[Tensor, "rows slots"],
    scores: Scores,
    noise: Float[Tensor, "rows slots"],
    rules: StepRules,
) -> Step:
    """One step: fill Gamma and rewrite Delta, both found on the tokens before the step.

    Asks for the scores of masked slots, and of other slots outside the prompt in rows that may edit.

    Args:
        tokens: The active blocks.
        masked: Slots that are still empty; none of the prompt.
        prompt: Slots that are never written.
        scores: Of the active blocks.
        noise: One uniform per slot; unused at temperature 0.
        rules: The decision rules.

    Source: LLaDA2.1 (arXiv 2602.08676), threshold decoding with token editing.
    """
    editable = ~(masked | prompt) & (rules.editing_threshold < 1.0)[:, None]
    reading = scores.read(masked | editable)
    edited = edit_set(tokens, editable, reading, rules.editing_threshold)
    unmasked = unmask_set(masked, reading.top_prob, reading.top_prob, rules.threshold, rules.leftmost)
    if not rules.any_draw:
        proposal = Proposal(reading.top, torch.zeros_like(reading.top_prob), reading.top_log_prob)
        return Step(torch.where(unmasked | edited, reading.top, tokens), unmasked, edited, proposal)
    on_draw = rules.on_draw[:, None]
    drawn = torch.where(on_draw, masked, unmasked) | (edited & rules.draw_edits[:, None])
    proposal = propose(scores, reading, drawn & (rules.temperature > 0.0)[:, None], noise, rules)
    if rules.any_on_draw:
        confidence = torch.where(on_draw, proposal.log_prob_raw.exp(), reading.top_prob)
        unmasked = unmask_set(masked, confidence, reading.top_prob, rules.threshold, rules.leftmost)
    return Step(torch.where(unmasked | edited, proposal.token, tokens), unmasked, edited, proposal)
