"""The `loss` section: what has one ratio, and which loss is computed from the ratios (docs/math.md section 5).

Each kind has its own keys. Losses on whole completions allow only the sequence ratio.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from redraft.rl.config.section import Section, kind_or

Epsilon = Annotated[float, Field(gt=0, description="A ratio is cut below 1 - epsilon.")]
EpsilonHigh = Annotated[float, Field(gt=0, description="A ratio is cut above 1 + epsilon_high.")]
T2TEpsilon = Annotated[
    Annotated[float, Field(gt=0)] | None,
    Field(description="The same for the ratios of edits; without it, they have epsilon."),
]
T2TEpsilonHigh = Annotated[
    Annotated[float, Field(gt=0)] | None,
    Field(description="The same for the ratios of edits; without it, they have epsilon_high."),
]


class TokenRatio(Section):
    """One ratio per scored token, or per position over its views."""

    kind: Literal["token", "position"] = Field(
        default="token", description="One ratio per scored token, or one per position over all its views."
    )
    normaliser: Literal["constant", "sequence", "batch"] = Field(
        default="constant",
        description="Divide by the longest allowed length (constant), the completion's own length (sequence) or the"
        " generated tokens of the batch (batch).",
    )


class SequenceRatio(Section):
    """One ratio per completion."""

    kind: Literal["sequence"] = Field(default="sequence", description="One ratio per completion.")
    gamma: float = Field(
        default=1.0, ge=0, le=1, description="The log ratio is divided by the number of generated tokens ** gamma."
    )


Ratio = Annotated[
    TokenRatio | SequenceRatio,
    Field(discriminator="kind", description="What has one ratio: a token, a position or a completion."),
    kind_or("token"),
]


def _is_whole(ratio: Any) -> Any:
    if isinstance(ratio, Mapping) and ratio["kind"] != "sequence":
        raise ValueError("this loss is defined on whole completions; use ratio: sequence, or leave it out")
    return ratio


WholeRatio = Annotated[
    SequenceRatio,
    Field(description="This loss is defined on whole completions."),
    BeforeValidator(_is_whole),
    kind_or("sequence"),
]


class _Loss(Section):
    """Keys that all losses have."""

    t2t_weight: float = Field(default=1.0, ge=0, description="Weight of edits (T2T) beside unmasked tokens (M2T).")


class _TokenLoss(_Loss):
    ratio: Ratio = TokenRatio()


class _WholeLoss(_Loss):
    ratio: WholeRatio = SequenceRatio()


class _Clip(_Loss):
    """Bounds of a ratio on both sides."""

    epsilon: Epsilon = 0.2
    epsilon_high: EpsilonHigh = 0.28
    t2t_epsilon: T2TEpsilon = None
    t2t_epsilon_high: T2TEpsilonHigh = None


class ClipLoss(_TokenLoss, _Clip):
    """PPO's clip (eq 20)."""

    kind: Literal["clip"] = Field(default="clip", description="PPO's pessimistic clip of the ratio (eq 20).")


class StableLoss(_TokenLoss, _Clip):
    """StableDRL (eq 22)."""

    kind: Literal["stable"] = Field(default="stable", description="Clip both sides, normalise in the group (eq 22).")


class CispoLoss(_TokenLoss):
    """CISPO (eq 21)."""

    kind: Literal["cispo"] = Field(default="cispo", description="Weight log-probabilities by capped ratios (eq 21).")
    epsilon_high: EpsilonHigh = 0.28
    t2t_epsilon_high: T2TEpsilonHigh = None


class ReinforceLoss(_TokenLoss):
    """REINFORCE: advantage times log-probability."""

    kind: Literal["reinforce"] = Field(default="reinforce", description="Advantage times log-probability, no ratio.")


class SquaredLoss(_WholeLoss, _Clip):
    """GDSD (eq 24)."""

    kind: Literal["squared"] = Field(default="squared", description="Squared distance of log ratio and psi A (eq 24).")
    psi: float = Field(default=1.0, gt=0, description="Log ratio, in nats, that an advantage of 1 asks for.")


class BgpoLoss(_WholeLoss):
    """BGPO (eq 23)."""

    kind: Literal["bgpo"] = Field(default="bgpo", description="A lower bound that is linear in the views (eq 23).")


class DpoLoss(_WholeLoss):
    """DPO on the best and the worst completion of each group (eq 25)."""

    kind: Literal["dpo"] = Field(default="dpo", description="Preference of the best over the worst completion (eq 25).")
    beta: float = Field(default=0.1, gt=0, description="Scale of the margin of log-likelihood ratios, per nat.")


class SandwichLoss(_WholeLoss):
    """SPG (eq 26)."""

    kind: Literal["sandwich"] = Field(
        default="sandwich", description="A lower bound where A >= 0, mixed with an upper bound where A < 0 (eq 26)."
    )
    bound_beta: float = Field(default=1.5, ge=1, description="Order of the Renyi upper bound.")
    bound_mix: float = Field(default=0.5, ge=0, le=1, description="Share of the upper bound where A < 0.")


LossConfig = Annotated[
    ClipLoss | StableLoss | CispoLoss | ReinforceLoss | SquaredLoss | BgpoLoss | DpoLoss | SandwichLoss,
    Field(discriminator="kind", description="Which loss is computed from the ratios."),
    kind_or("clip"),
]
