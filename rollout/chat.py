"""Text to token ids and back: chat template, special ids, decoding. Works on any Hugging Face tokenizer object."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from rollout.trajectory import SpecialTokens

TURN_END = "<|role_end|>"
"""Ends a turn in LLaDA2's chat format."""


Tokenizer: TypeAlias = Any
"""A transformers tokenizer; naming its class would import transformers, which takes seconds."""


def load_tokenizer(path: str) -> Tokenizer:
    """Loads the tokenizer of a model folder; no code from the folder is run."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def special_tokens(tokenizer: Tokenizer | None, model_config: object) -> SpecialTokens:
    """Finds the ids that steer decoding.

    Args:
        tokenizer: Source of the turn end, and of what the config does not hold; None for a folder without one.
        model_config: Its `mask_token_id`, `eos_token_id` and `pad_token_id` come first, where present.

    Raises:
        ValueError: If there is no mask or no end-of-text token.
    """
    mask = _first_id("mask_token_id", model_config, tokenizer)
    eos = _first_id("eos_token_id", model_config, tokenizer)
    if mask is None or eos is None:
        name = "mask_token_id" if mask is None else "eos_token_id"
        raise ValueError(f"neither the model config nor the tokenizer has {name}; set it in config.json")
    pad = _first_id("pad_token_id", model_config, tokenizer)
    turn_end = eos if tokenizer is None else tokenizer.get_vocab().get(TURN_END, eos)
    return SpecialTokens(mask=mask, pad=eos if pad is None else pad, stops=tuple(sorted({eos, turn_end})))


def _first_id(name: str, *holders: object) -> int | None:
    return next((value for holder in holders if (value := getattr(holder, name, None)) is not None), None)


def encode_prompt(tokenizer: Tokenizer, prompt: str | Sequence[Mapping[str, Any]]) -> list[int]:
    """Token ids of a plain text, taken as it is, or of chat messages up to where the assistant's answer begins.

    Raises:
        ValueError: If the prompt is chat messages and the tokenizer has no chat template.
    """
    if not isinstance(prompt, str):
        if not tokenizer.chat_template:
            raise ValueError("the prompt is chat messages, but the tokenizer has no chat template; give a text prompt")
        prompt = str(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
    return tokenizer.encode(prompt, add_special_tokens=False)


def decode_text(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """Text of a completion, without special tokens."""
    return tokenizer.decode(token_ids, skip_special_tokens=True)
