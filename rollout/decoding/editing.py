"""One denoising step of block diffusion with editing, as pure functions of tensors.

A denoising step looks at the scores of one active block per sequence. It decides which masked positions to fill (M2T)
and which visible positions to rewrite (T2T). Both sets are computed from the tokens before the step. Sequences may
differ in all of their rules.
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
    """The decision rules of one denoising step, per sequence; see `DecodeConfig` for their meaning.

    The plain bools let the host leave work out without asking the device. After `of` they may still be True for the
    sake of sequences that it left out; that costs work and changes no result.

    Attributes:
        threshold: M2T threshold.
        editing_threshold: T2T threshold.
        temperature: Of the sampling distribution; 0.0 takes the argmax.
        top_k: Truncation of the sampling distribution; 0 is off.
        top_p: Truncation of the sampling distribution; 1.0 is off.
        draw_edits: Edits redraw their position instead of writing the argmax.
        on_draw: Masked positions are tested on the drawn token, not on the top one; False at temperature 0.
        leftmost: Where no position passes, the leftmost masked one is filled instead of the most confident one.
        any_draw: Some sequence has a temperature.
        any_on_draw: Some sequence has `on_draw`.
        any_top_k: Some sequence has a `top_k`.
        any_top_p: Some sequence has a `top_p`.
    """

    threshold: Float[Tensor, " sequences"]
    editing_threshold: Float[Tensor, " sequences"]
    temperature: Float[Tensor, " sequences"]
    top_k: Int[Tensor, " sequences"]
    top_p: Float[Tensor, " sequences"]
    draw_edits: Bool[Tensor, " sequences"]
    on_draw: Bool[Tensor, " sequences"]
    leftmost: Bool[Tensor, " sequences"]
    any_draw: bool
    any_on_draw: bool
    any_top_k: bool
    any_top_p: bool

    @classmethod
    def from_configs(cls, configs: Sequence[DecodeConfig], device: torch.device) -> "StepRules":
        """Collect the rules of sequences with the given configs."""

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

    def of(self, index: Int[Tensor, " live"]) -> "StepRules":
        """Return the rules of some of the sequences."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: column[index] for name, column in columns.items() if isinstance(column, Tensor)})


class Proposal(NamedTuple):
    """The token that each position would take, were it chosen.

    Attributes:
        token: The token.
        log_prob: Nats under the sampling distribution; 0.0 where the token is the argmax by rule and not a draw.
        log_prob_raw: Nats under the untempered softmax.
    """

    token: Int[Tensor, "sequences positions"]
    log_prob: Float[Tensor, "sequences positions"]
    log_prob_raw: Float[Tensor, "sequences positions"]


class Step(NamedTuple):
    """The outcome of one denoising step.

    Attributes:
        tokens: The blocks after the step.
        unmasked: Positions that were filled.
        edited: Positions that were rewritten, if only with the token they had (possible when edits are drawn).
        proposal: What was written there.
    """

    tokens: Int[Tensor, "sequences positions"]
    unmasked: Bool[Tensor, "sequences positions"]
    edited: Bool[Tensor, "sequences positions"]
    proposal: Proposal


def unmask_set(
    masked: Bool[Tensor, "sequences positions"],
    confidence: Float[Tensor, "sequences positions"],
    top_prob: Float[Tensor, "sequences positions"],
    threshold: Float[Tensor, " sequences"],
    leftmost: Bool[Tensor, " sequences"] | bool = False,
) -> Bool[Tensor, "sequences positions"]:
    """Gamma: masked positions with confidence above the threshold; where there are none, one masked position.

    That one has the highest `top_prob`, whatever was drawn there; of equal ones it is the lowest. With `leftmost` it is
    the first masked position.
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
    tokens: Int[Tensor, "sequences positions"],
    editable: Bool[Tensor, "sequences positions"],
    reading: Reading,
    threshold: Float[Tensor, " sequences"],
) -> Bool[Tensor, "sequences positions"]:
    """Delta: editable positions whose argmax is another token, more probable than the threshold.

    Editable are visible positions outside the prompt.
    """
    return editable & (reading.top != tokens) & (reading.top_prob > threshold[:, None])


def propose(
    scores: Scores,
    reading: Reading,
    drawn: Bool[Tensor, "sequences positions"],
    noise: Float[Tensor, "sequences positions"],
    rules: StepRules,
) -> Proposal:
    """Propose the argmax of each position, and a draw from the sampling distribution at the `drawn` ones."""
    token, log_prob_raw = reading.top, reading.top_log_prob
    log_prob = torch.zeros_like(log_prob_raw)
    for sequence, position, logits in scores.pieces(drawn):
        own, own_log_prob = draw(
            logits,
            noise[sequence, position],
            rules.temperature[sequence],
            rules.top_k[sequence] if rules.any_top_k else None,
            rules.top_p[sequence] if rules.any_top_p else None,
        )
        logit = logits.gather(-1, own[:, None])[:, 0]
        token = token.index_put((sequence, position), own)
        log_prob = log_prob.index_put((sequence, position), own_log_prob)
        log_prob_raw = log_prob_raw.index_put((sequence, position), logit - reading.log_normalizer[sequence, position])
    return Proposal(token, log_prob, log_prob_raw)


def denoise(
    tokens: Int[Tensor, "sequences positions"],
    masked: Bool[Tensor, "sequences positions"],
    prompt: Bool[Tensor, "sequences positions"],
    scores: Scores,
    noise: Float[Tensor, "sequences positions"],
    rules: StepRules,
) -> Step:
    """Take one denoising step: fill Gamma and rewrite Delta, both found on the tokens before the step.

    Scores are read at masked positions, and at the other positions outside the prompt in sequences that may edit.

    Args:
        tokens: The active blocks.
        masked: Positions that are still empty; none of the prompt.
        prompt: Positions that are never written.
        scores: Of the active blocks.
        noise: One uniform per position; unused at temperature 0.
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
