"""Completions as servers and data sets write them: text, or a chat with empty contents, parts and tool calls."""

from collections.abc import Mapping, Sequence
from typing import Any

_TEXT_PARTS = {None, "text", "output_text", "input_text"}


def as_completion(completion: object) -> str | list[dict[str, Any]]:
    """Return a completion that rewards can read: text, or messages whose contents are text.

    An empty answer comes of null, an empty chat, a message without content, and a tool call. It also comes of a chat
    that ends with what the model did not write, such as the result of a tool: the text before it is no final answer.

    Raises:
        ValueError: It is something else, such as a number.
    """
    if completion is None:
        return ""
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Mapping) and ("content" in completion or "role" in completion):
        completion = [completion]  # one message, not in a list
    if not isinstance(completion, Sequence) or not all(isinstance(message, Mapping) for message in completion):
        shown = f"{type(completion).__name__} {completion!r:.80}"
        raise ValueError(f"a completion is text or a list of messages, got {shown}")
    messages = [{**message, "content": _content(message)} for message in completion]
    if not messages or messages[-1].get("role", "assistant") != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, Sequence):
        raise ValueError(f"the content of a message is text or a list of parts, got {content!r:.80}")
    return "".join(_part(part) for part in content)


def _part(part: object) -> str:
    """Return the text of one part; "" for pictures, tool calls and reasoning."""
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise ValueError(f"a part of a message is text or an object, got {part!r:.80}")
    text = part.get("text") if part.get("type") in _TEXT_PARTS else None
    return text if isinstance(text, str) else ""
