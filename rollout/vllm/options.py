"""The settings that our vLLM worker gets through vLLM's `additional_config`. Needs no vLLM."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from redraft.rollout.config import LOGITS_BYTES, DecodeConfig
from redraft.rollout.trajectory import SpecialTokens
from redraft.words import problem_lines

FIXED_FIELDS: Final = ("block_length", "max_completion_length")
"""Fields of `DecodeConfig` that no request sets: the first is the engine's, the second is vLLM's `max_tokens`."""


class WorkerOptions(BaseModel):
    """The worker's part of vLLM's configuration.

    Attributes:
        load_model: Dotted name, `package.module:function`, of a `rollout.worker.LoadModel`; called with `path`, `dtype`
            and `device`.
        path: Folder of the policy.
        dtype: Of its weights, and so of the keys and values.
        device: Where it runs.
        tokens: Special ids; the stops end every request.
        decode: Defaults of all requests; the block length is that of all requests.
        logits_bytes: Most memory for logits at a time.
        weights_by_sync: Weights that sleep dropped come back empty, for the update that follows; otherwise they are
            loaded from `path` again, which takes longer and brings those of the start.
        max_traces: Completions that are kept until they are fetched; beyond that the oldest is dropped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    load_model: str
    path: str
    dtype: str
    device: str
    tokens: SpecialTokens
    decode: DecodeConfig = DecodeConfig()
    logits_bytes: int = Field(default=LOGITS_BYTES, ge=1)
    weights_by_sync: bool = False
    max_traces: int = Field(default=1024, ge=1)

    @classmethod
    def read(cls, additional_config: Any) -> "WorkerOptions":
        """Read the options from vLLM's `additional_config`.

        Raises:
            ValueError: They are missing or wrong.
        """
        try:
            return cls.model_validate(additional_config)
        except ValidationError as error:
            raise ValueError(
                "vLLM's additional_config does not describe a block diffusion policy; start vLLM with the arguments of"
                f" redraft.rollout.vllm.engine.engine_arguments: {'; '.join(problem_lines(error))}"
            ) from error


def check_window(config: DecodeConfig) -> None:
    """Refuse a decoding mode that vLLM cannot serve.

    Raises:
        ValueError: Earlier blocks may be edited, but vLLM's output only grows.
    """
    if config.editing_window > 1:
        raise ValueError(
            f"editing_window must be 1 with vLLM, whose output only grows, got {config.editing_window}; use the torch"
            " engine (rollout.engine: torch)"
        )
