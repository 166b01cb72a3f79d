"""Networks of any vocabulary, and decodes of a whole list of prompts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from redraft.rl.models.llada2 import LLaDA2Config, LLaDA2Model, init_weights
from redraft.rl.models.registry import resolve_device, resolve_dtype
from redraft.rl.seeding import make_generator
from redraft.rollout.config import DecodeConfig
from redraft.rollout.decoding.decoder import Decoder
from redraft.rollout.engine.protocol import Engine
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens


def build_bare_policy(shape: Mapping[str, Any], dtype: str, device: str, seed: int) -> LLaDA2Model:
    """Make a policy from scratch without a tokenizer: `shape`, fields of config.json, says the vocabulary size too."""
    target = resolve_device(device)
    model = LLaDA2Model(LLaDA2Config.from_dict(shape), dtype=resolve_dtype(dtype), device=target)
    init_weights(model, make_generator(seed, "init", device=target))
    return model


def in_order(stream: Iterable[tuple[int, Completion]]) -> list[Completion]:
    """Sort the completions of a stream of (index of the prompt, completion) by prompt."""
    return [completion for _, completion in sorted(stream, key=itemgetter(0))]


def decode(
    engine: Engine,
    prompts: Sequence[Prompt],
    config: DecodeConfig | Sequence[DecodeConfig],
    tokens: SpecialTokens,
    slots: int | None = None,
) -> list[Completion]:
    """Complete every prompt, by default all of them at a time; return the completions in the order of the prompts."""
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
