"""generation_config.json of a policy folder: how its publisher means it to be decoded, and where completions end."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import ValidationError

from redraft.rollout.chat import Tokenizer
from redraft.rollout.config import DecodeConfig
from redraft.rollout.special_ids import special_tokens
from redraft.words import problem_lines

GENERATION_FILE = "generation_config.json"
DECODER_KEYS = ("block_length", "threshold", "editing_threshold", "max_post_steps")
"""What the file may say of the decoder, under the names that LLaDA2's own `generate` gives its arguments."""


def read_generation(folder: Path) -> dict[str, Any]:
    """Read generation_config.json; empty where there is none.

    Raises:
        ValueError: It holds no JSON object.
    """
    file = folder / GENERATION_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{GENERATION_FILE}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{GENERATION_FILE} must hold a JSON object, got {type(content).__name__}")
    return content


def decode_defaults(folder: Path) -> dict[str, Any]:
    """Return the settings of the decoder that generation_config.json names.

    Temperature, top_k and top_p are left to the caller: decoding is greedy unless sampling is asked for.

    Raises:
        ValueError: A value does not fit; names file and key.
    """
    content = read_generation(folder)
    named = {key: content[key] for key in DECODER_KEYS if content.get(key) is not None}
    try:
        DecodeConfig.model_validate(named)
    except ValidationError as error:
        raise ValueError(f"{folder / GENERATION_FILE}: {'; '.join(problem_lines(error))}") from None
    return named


def write_generation(folder: Path, tokenizer: Tokenizer | None, decode: DecodeConfig | None) -> None:
    """Write into generation_config.json where completions end, and how they are decoded; its other keys stay.

    Args:
        folder: A policy folder with its config.json.
        tokenizer: Of the policy; None for one without.
        decode: Settings that the policy was measured with; None leaves those that the file has.
    """
    content = read_generation(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokens = special_tokens(tokenizer, SimpleNamespace(**config), content)
    ends = tokens.stops[0] if len(tokens.stops) == 1 else list(tokens.stops)
    ids = {"eos_token_id": ends, "pad_token_id": tokens.pad, "mask_token_id": tokens.mask}
    settings = {key: getattr(decode, key) for key in DECODER_KEYS} if decode else {}
    text = json.dumps({**content, **ids, **settings}, indent=2)
    (folder / GENERATION_FILE).write_text(f"{text}\n", encoding="utf-8")
