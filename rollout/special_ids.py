"""Which token ids steer decoding: agreed between tokenizer, config.json and generation_config.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from redraft.rollout.trajectory import SpecialTokens

TURN_END = "<|role_end|>"
"""The token that ends a turn in LLaDA2's chat format."""


def special_tokens(
    tokenizer: Any, model_config: object, generation_config: Mapping[str, Any] | None = None
) -> SpecialTokens:
    """Find the ids that steer decoding.

    A completion ends with any of the ends that the tokenizer, the two configs and the chat format name. The first,
    which demonstrations are taught to end with, is the tokenizer's; without one the first of config.json, then of
    generation_config.json.

    Args:
        tokenizer: The folder's tokenizer; None for a folder without one.
        model_config: Has `mask_token_id`, `eos_token_id` and `pad_token_id`, or some of them.
        generation_config: Content of generation_config.json; of it `eos_token_id` is read, and `pad_token_id` where
            neither of the others has one.

    Raises:
        ValueError: There is no mask or no end of text, or the sources contradict each other.
    """
    mask = _mask(tokenizer, model_config)
    named = {
        "the tokenizer": _ids(getattr(tokenizer, "eos_token_id", None), "the tokenizer"),
        "config.json": _ids(getattr(model_config, "eos_token_id", None), "config.json"),
        "generation_config.json": _ids((generation_config or {}).get("eos_token_id"), "generation_config.json"),
    }
    for source, ids in named.items():
        _check_agreement(tokenizer, source, ids)
    turn_end = None if tokenizer is None else tokenizer.get_vocab().get(TURN_END)
    ends = [*(token for ids in named.values() for token in ids)]
    if not ends:
        raise ValueError("neither the model config nor the tokenizer has eos_token_id; set it in config.json")
    if ends[0] == mask:
        raise ValueError(f"the end of text and the mask are the same token, id {mask}; give them ids of their own")
    # The mask is never written, so as a stop it would mean nothing.
    stops = tuple(dict.fromkeys(token for token in (*ends, turn_end) if token not in (mask, None)))
    pads = (_id(model_config, "pad_token_id"), _id(tokenizer, "pad_token_id"), _pad(generation_config))
    pad = next((number for number in pads if number is not None), None)
    return SpecialTokens(mask=mask, pad=ends[0] if pad is None else pad, stops=stops)


def _mask(tokenizer: Any, model_config: object) -> int:
    ours, theirs = _id(model_config, "mask_token_id"), _id(tokenizer, "mask_token_id")
    if ours is None and theirs is None:
        raise ValueError("neither the model config nor the tokenizer has mask_token_id; set it in config.json")
    if ours is not None and theirs is not None and ours != theirs:
        raise ValueError(
            f"mask_token_id is {ours} ({_name(tokenizer, ours)}) in config.json, but the tokenizer's mask token is"
            f" {theirs} ({_name(tokenizer, theirs)}); correct the one that the policy was not trained with"
        )
    return ours if ours is not None else theirs  # pyright: ignore[reportReturnType]


def _check_agreement(tokenizer: Any, source: str, ids: Sequence[int]) -> None:
    """Refuse ends without the tokenizer's that are ordinary tokens of it: one of the files is of another model."""
    end = getattr(tokenizer, "eos_token_id", None)
    if end is None or end in ids:
        return
    ordinary = [token for token in ids if token not in control_tokens(tokenizer).values()]
    if ordinary:
        raise ValueError(
            f"eos_token_id in {source} is {ordinary[0]}, which is {_name(tokenizer, ordinary[0])} to the tokenizer,"
            f" whose own end of text is {end} ({_name(tokenizer, end)}); make them agree: a list in {source} names"
            " several ends"
        )


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """Collect the tokens that steer a model and are no text, by their spelling."""
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def _ids(value: Any, source: str) -> tuple[int, ...]:
    """Return the ends of a config, which names one or a list."""
    listed = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    if not all(type(token) is int and token >= 0 for token in listed):
        raise ValueError(f"eos_token_id in {source} must be a token id or a list of them, got {value!r}")
    return tuple(listed)


def _pad(generation_config: Mapping[str, Any] | None) -> int | None:
    pad = (generation_config or {}).get("pad_token_id")
    if pad is not None and (type(pad) is not int or pad < 0):
        raise ValueError(f"pad_token_id in generation_config.json must be a token id, got {pad!r}")
    return pad


def _id(holder: object, name: str) -> int | None:
    return getattr(holder, name, None)


def _name(tokenizer: Any, token: int) -> str:
    return repr(tokenizer.convert_ids_to_tokens(token)) if token < len(tokenizer) else "no token at all"
