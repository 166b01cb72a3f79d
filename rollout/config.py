"""Settings of one decode: block length, thresholds, length limit and the sampling distribution."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "q": MappingProxyType({"threshold": 0.7, "editing_threshold": 0.5}),
        "s": MappingProxyType({"threshold": 0.5, "editing_threshold": 0.0}),
        "llada2.0": MappingProxyType({"threshold": 0.95, "editing_threshold": 1.0}),
    }
)
"""Published decoding modes: LLaDA2.1 quality and speed, and LLaDA2.0 (no editing)."""


LOGITS_BYTES: Final = 256 << 20


@dataclass(frozen=True)
class Limits:
    """What a rollout worker may use.

    Attributes:
        slots: Requests decoded at a time.
        cache_bytes: Most memory for keys and values; None takes what so many requests need.
        logits_bytes: Most memory for logits at a time.
        step_timeout_s: Longest wait for one forward; None waits without a deadline.
    """

    slots: int = 64
    cache_bytes: int | None = None
    logits_bytes: int = LOGITS_BYTES
    step_timeout_s: float | None = None


class DecodeConfig(BaseModel):
    """How one request is decoded; both thresholds are strict and test untempered probabilities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    block_length: int = Field(default=32, ge=1, description="Tokens per block.")
    threshold: float = Field(
        default=0.7,
        ge=0.0,
        le=1.0,
        description="A masked position is unmasked when its confidence, a probability, exceeds this.",
    )
    editing_threshold: float = Field(
        default=0.5,
        description="A visible position is edited when another token's probability exceeds this; 0.0 edits every"
        " position whose argmax differs, 1.0 switches editing off.",
    )
    max_post_steps: int = Field(
        default=16, ge=0, description="A block ends after this many mask-free forwards even if edits keep firing."
    )
    max_completion_length: int = Field(default=256, ge=1, description="Tokens after which a completion is cut.")
    temperature: float = Field(
        default=0.0, ge=0.0, description="Of the sampling distribution, at least 0.001; or 0.0, which takes the argmax."
    )
    top_k: int = Field(default=0, ge=0, description="Draw from the k most probable tokens only; 0 switches it off.")
    top_p: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="Draw from the smallest set of tokens with at least this probability; 1.0 switches it off.",
    )
    edit_sampling: Literal["argmax", "sample"] = Field(
        default="argmax",
        description="An edit writes the argmax, or a redraw of the position, which may keep the old token.",
    )
    unmask_confidence: Literal["drawn", "top"] = Field(
        default="drawn",
        description="Confidence of a masked position: the probability of the drawn token, or the highest probability."
        " With top the positions are chosen before the draw, so the log-probabilities of a completion's actions sum to"
        " the log-likelihood of its trajectory exactly.",
    )
    unmask_fallback: Literal["confident", "leftmost"] = Field(
        default="confident",
        description="The position that a denoising step fills when none passes the threshold: the most confident, or"
        " the leftmost; with thresholds of 1.0 leftmost writes one token at a time from left to right.",
    )
    editing_window: int = Field(
        default=1,
        ge=1,
        description="Blocks that are open to edits when a block is final: that block and those before it. The earlier"
        " ones are opened again one by one, from left to right, for edits only, with all of the window in sight. 1"
        " opens no earlier block.",
    )
    record_routes: bool = Field(
        default=False, description="Keep in the trace which experts every forward of the active block visited."
    )

    @field_validator("editing_threshold")
    @classmethod
    def _is_probability(cls, value: float) -> float:
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"editing_threshold must be in [0, 1], got {value}; use 1.0 to switch editing off")
        return value

    @field_validator("temperature")
    @classmethod
    def _is_zero_or_safe(cls, value: float) -> float:
        if 0.0 < value < 0.001:
            raise ValueError(f"temperature must be 0.0 (argmax) or at least 0.001, got {value}")
        return value

    @model_validator(mode="after")
    def _window_is_for_edits(self) -> "DecodeConfig":
        if self.editing_window > 1 and not self.post_steps:
            raise ValueError(
                f"editing_window {self.editing_window} opens blocks for edits, which editing_threshold"
                f" {self.editing_threshold} with max_post_steps {self.max_post_steps} never makes: use 1"
            )
        return self

    @property
    def post_steps(self) -> int:
        """Mask-free forwards that a block may take; 0 when editing is off, as they could then change no token."""
        return self.max_post_steps if self.editing_threshold < 1.0 else 0

    @classmethod
    def preset(cls, name: str, overrides: Mapping[str, Any] | None = None) -> "DecodeConfig":
        """Build a published decoding mode.

        Args:
            name: One of `PRESETS`: "q" (quality), "s" (speed), "llada2.0".
            overrides: Fields that replace or complete the preset.

        Raises:
            ValueError: The name is unknown.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown decoding mode {name!r}; valid: {', '.join(PRESETS)}")
        return cls.model_validate({**PRESETS[name], **(overrides or {})})
