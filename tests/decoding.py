"""Decodes of a whole list of prompts, each with a decoder of its own."""

from collections.abc import Iterator, Sequence

from benchmarks.common.policies import in_order
from redraft.rollout.config import DecodeConfig
from redraft.rollout.decoding.decoder import Decoder
from redraft.rollout.engine.protocol import Engine
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens


def decode(
    engine: Engine,
    prompts: Sequence[Prompt],
    config: DecodeConfig | Sequence[DecodeConfig],
    tokens: SpecialTokens,
    slots: int | None = None,
) -> list[Completion]:
    """Complete every prompt; return the completions in the order of the prompts."""
    return in_order(stream(engine, prompts, config, tokens, slots))


def stream(
    engine: Engine,
    prompts: Sequence[Prompt],
    config: DecodeConfig | Sequence[DecodeConfig],
    tokens: SpecialTokens,
    slots: int | None = None,
) -> Iterator[tuple[int, Completion]]:
    """Complete every prompt; by default all of them at a time."""
    return Decoder(engine, tokens, len(prompts) or 1 if slots is None else slots).stream(prompts, config)
