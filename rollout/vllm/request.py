# pyright: reportMissingImports=false
"""A request as vLLM knows it, `SamplingParams`, and as the decoder knows it, `DecodeConfig`."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorOfV2

from redraft.rollout.config import DecodeConfig
from redraft.rollout.request import Request
from redraft.rollout.trajectory import Prompt
from redraft.rollout.vllm.options import FIXED_FIELDS, WorkerOptions, check_window

_OFF: Final[Mapping[str, Any]] = {
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "min_p": 0.0,
    "min_tokens": 0,
    "ignore_eos": False,
    "bad_words": [],
    "logit_bias": None,
    "allowed_token_ids": None,
    "structured_outputs": None,
    "prompt_logprobs": None,
    "logprob_token_ids": None,
    "repetition_detection": None,
}
"""Sampling parameters that mean nothing to the block decoder, and the values that leave them out."""


def to_params(request: Request, stops: Sequence[int]) -> SamplingParams:
    """Translate a request of the decoder for vLLM, such that `to_request` gives it back.

    All of its settings travel in `extra_args`: vLLM rounds low temperatures up, and refuses `n` > 1 at temperature 0.
    The seed is cut to the 64 bits that vLLM carries, which the decoder does too; vLLM takes -1 for no seed.
    """
    return SamplingParams(
        max_tokens=request.config.max_completion_length,
        stop_token_ids=list(stops),
        seed=request.prompt.seed % (1 << 64),
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args={"decode": request.config.model_dump(mode="json", exclude=set(FIXED_FIELDS))},
    )


def to_request(
    request_id: str, token_ids: Sequence[int], params: SamplingParams, options: WorkerOptions, max_length: int
) -> Request:
    """Translate a request of vLLM for the decoder.

    Temperature, top-k, top-p and the length limit are always those of `params`, whose own defaults vLLM sets; the
    rest is the engine's, and `extra_args["decode"]` overrides everything. The seed is that of the request's random
    numbers: with `n` > 1 vLLM adds 0 to `n` - 1 to it. Without one it follows from the id, which vLLM makes unique, so
    that the request cannot be repeated.

    Args:
        request_id: vLLM's internal id.
        token_ids: The prompt.
        params: The request's own settings.
        options: Those of the engine.
        max_length: Tokens that the engine has room for, prompt and completion together.

    Raises:
        ValueError: The request's settings are wrong.
    """
    check_params(params)
    room = max_length - len(token_ids)
    fields = {
        **options.decode.model_dump(),
        "temperature": params.temperature,
        "top_k": max(params.top_k, 0),
        "top_p": params.top_p,
        "max_completion_length": min(params.max_tokens or room, room),
        **_overrides(params),
    }
    seed = _seed_of(request_id) if params.seed is None else params.seed
    return Request(Prompt(request_id, tuple(token_ids), seed), DecodeConfig.model_validate(fields))


def stops_of(params: SamplingParams, options: WorkerOptions) -> tuple[int, ...]:
    """Collect the tokens that end a request: the model's, and its own."""
    eos = () if params.eos_token_id is None else (params.eos_token_id,)
    return tuple(sorted({*options.tokens.stops, *(params.stop_token_ids or ()), *eos}))


def check_params(params: SamplingParams) -> None:
    """Refuse what the block decoder cannot do.

    Raises:
        ValueError: Names the parameter and what is valid.
    """
    for name, off in _OFF.items():
        value = getattr(params, name)
        if value != off and value is not None and value != []:
            raise ValueError(f"SamplingParams.{name} means nothing to block diffusion, got {value!r}; leave it out")
    if params.logprobs is not None and not 0 <= params.logprobs <= 1:
        raise ValueError(f"SamplingParams.logprobs must be 0 or 1, the token's own, got {params.logprobs}")
    overrides = _overrides(params)
    for name in FIXED_FIELDS:
        if name in overrides:
            raise ValueError(
                f"extra_args['decode'] cannot set {name}: blocks are as long as the engine's, the limit is max_tokens"
            )
    check_window(DecodeConfig.model_validate(overrides))


def _overrides(params: SamplingParams) -> Mapping[str, Any]:
    return (params.extra_args or {}).get("decode", {})


def _seed_of(request_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest())


class RequestCheck(LogitsProcessor, LogitsProcessorOfV2):
    """Refuse wrong requests where they are made: vLLM asks every registered processor before it accepts one.

    An error in the worker would end the whole engine. No logits ever pass through this.
    """

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """See `check_params`."""
        check_params(sampling_params)
