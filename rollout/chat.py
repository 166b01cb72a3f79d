"""Text to token ids and back: plain texts, chat messages, decoding. Works on any Hugging Face tokenizer object."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from jinja2 import TemplateError

from redraft.rollout.special_ids import control_tokens

Tokenizer: TypeAlias = Any
"""A transformers tokenizer; naming its class would import transformers, which takes seconds."""

Messages: TypeAlias = Sequence[Mapping[str, Any]]

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Roles that need not be named in a chat template to be meant."""

TOKENIZER_FILE = "tokenizer_config.json"

_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of a tokenizer that tokenizer.json describes whole, by transformers 4 and 5; LLaDA2's is one."""

_STAND_INS = (0xF0000, 0x100000)
"""First code points of the two planes of Unicode that are for private use."""


def load_tokenizer(path: str) -> Tokenizer:
    """Load the tokenizer of a model folder; no code from the folder is run."""
    from transformers import PreTrainedTokenizerFast

    folder = Path(path)
    if tokenizer_config(folder).get("tokenizer_class") in _GENERIC and (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(path)
    # The same object, 2 s later: AutoTokenizer imports transformers' models, to look for a class of this name.
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """Read tokenizer_config.json; empty where it is missing or damaged, which its own loader reports."""
    try:
        content = json.loads((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode a text as it is: control tokens spelled in it are control tokens."""
    return tokenizer.encode(text, add_special_tokens=False)


def encode_prompt(tokenizer: Tokenizer, prompt: str | Messages) -> list[int]:
    """Encode a plain text, taken as it is, or chat messages up to where the assistant's answer begins.

    Where the last message is the assistant's, the answer continues it. Control tokens in messages of other roles
    are text; those in the assistant's messages, and in plain texts, are control tokens.

    Raises:
        ValueError: The prompt is chat messages and the tokenizer has no chat template, or one that does not take them.
    """
    if isinstance(prompt, str):
        return encode_text(tokenizer, prompt)
    if not tokenizer.chat_template:
        raise ValueError("the prompt is chat messages, but the tokenizer has no chat template; give a text prompt")
    _check_roles(prompt, tokenizer.get_chat_template())
    # The mask is not guarded: no prompt may hold it, and the check of the ids finds it only if it stays the mask.
    controls = {token: number for token, number in known_controls(tokenizer).items() if token != tokenizer.mask_token}
    messages, spelled = _guard(prompt, controls)
    text = _render(tokenizer, messages)
    if not spelled:
        return encode_text(tokenizer, text)
    ids: list[int] = []
    for part in re.split(f"([{''.join(spelled)}])", text):
        # In two pieces, neither of which is the token.
        pieces = (spelled[part][:1], spelled[part][1:]) if part in spelled else (part,)
        ids += [token for piece in pieces if piece for token in encode_text(tokenizer, piece)]
    return ids


def known_controls(tokenizer: Tokenizer) -> Mapping[str, int]:
    """As `rollout.special_ids.control_tokens`, without those of a single character; remembered, as asking is slow."""
    return _known_controls(tokenizer, len(tokenizer))


@functools.lru_cache(maxsize=4)
def _known_controls(tokenizer: Tokenizer, size: int) -> Mapping[str, int]:
    return {token: number for token, number in control_tokens(tokenizer).items() if len(token) > 1}


def count_controls(text: str, controls: Mapping[str, int]) -> dict[str, int]:
    """Count how often a text spells each control token; those that it does not spell are left out."""
    return {token: text.count(token) for token in controls if token in text}


def decode_text(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """Decode a completion, without special tokens."""
    return tokenizer.decode(token_ids, skip_special_tokens=True)


def _check_roles(messages: Messages, template: str) -> None:
    for number, message in enumerate(messages, start=1):
        role = message["role"]
        if role not in ROLES and not re.search(rf"""(['"]){re.escape(role)}\1""", template):
            raise ValueError(
                f"message {number} has the role {role!r}, which the chat template does not name; valid:"
                f" {', '.join(ROLES)}, or one that it names"
            )


def _guard(messages: Messages, controls: Mapping[str, int]) -> tuple[Messages, dict[str, str]]:
    """Replace spelled control tokens in messages by stand-ins; return the messages, and what each stands for.

    A stand-in is a private character that no text holds. After rendering it shows which control tokens are the
    template's own.
    """
    foreign = [message for message in messages if message["role"] != "assistant"]
    texts = "".join(text for message in foreign for text in _texts(message))
    found = sorted((token for token in controls if token in texts), key=len, reverse=True)
    if not found:
        return messages, {}
    taken = {ord(char) for char in texts if ord(char) >= _STAND_INS[0]}
    start = next((first for first in _STAND_INS if not taken & {*range(first, first + len(found))}), None)
    if start is None:
        raise ValueError(f"the message spells the control token {found[0]!r} beside characters for private use")
    stand_ins = {token: chr(start + index) for index, token in enumerate(found)}
    guarded = [_replace(one, stand_ins) if one["role"] != "assistant" else one for one in messages]
    return guarded, {stand_in: token for token, stand_in in stand_ins.items()}


def _texts(value: Any) -> list[str]:
    """Yield all texts inside a message."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [text for one in inner for text in _texts(one)]


def _replace(value: Any, stand_ins: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return functools.reduce(lambda text, pair: text.replace(*pair), stand_ins.items(), value)
    if isinstance(value, Mapping):
        return {key: _replace(one, stand_ins) for key, one in value.items()}
    return [_replace(one, stand_ins) for one in value] if isinstance(value, list | tuple) else value


def _render(tokenizer: Tokenizer, messages: Messages) -> str:
    """Render the template, up to where the answer begins or goes on."""
    going_on = messages[-1]["role"] == "assistant"
    if going_on and not str(messages[-1].get("content") or "").strip():
        raise ValueError("the last message is the assistant's and is empty: there is nothing to continue; leave it out")
    how = {"continue_final_message": True} if going_on else {"add_generation_prompt": True}
    try:
        text = _apply(tokenizer, messages, how)
        _check_kept(messages, _apply(tokenizer, _marked(messages), how))
    except TemplateError as error:
        raise ValueError(f"the chat template refuses the messages: {error}") from error
    except TypeError as error:
        raise ValueError(f"the chat template cannot take the messages: {error}") from error
    return text


def _apply(tokenizer: Tokenizer, messages: Messages, how: Mapping[str, bool]) -> str:
    try:
        return str(tokenizer.apply_chat_template([dict(one) for one in messages], tokenize=False, **how))
    except ValueError as error:
        if "continue_final_message" not in how:
            raise
        reason = str(error).partition(". ")[0]
        raise ValueError(f"the chat template cannot continue the last message, the assistant's: {reason}") from error


def _mark(number: int) -> str:
    """Return the character that marks the end of a message; there are 4096, so two messages far apart may share one."""
    return chr(_STAND_INS[1] + 0xF000 + number % 0x0FFF)


def _marked(messages: Messages) -> Messages:
    """Mark the ends of message contents, except the assistant's, which templates may shorten."""
    return [
        {**one, "content": one["content"] + _mark(number)} if _is_kept(one) else one
        for number, one in enumerate(messages, start=1)
    ]


def _is_kept(message: Mapping[str, Any]) -> bool:
    return message["role"] != "assistant" and isinstance(message.get("content"), str)


def _check_kept(messages: Messages, marked: str) -> None:
    """Refuse a template that passes over a message."""
    for number, message in enumerate(messages, start=1):
        if _is_kept(message) and _mark(number) not in marked:
            raise ValueError(f"the chat template leaves out message {number}, of the role {message['role']!r}")
