"""Check what every policy needs of a row of data. Rows remember where they were read, for errors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = dict[str, Any]


class PlacedRow(dict[str, Any]):
    """A row that knows its place, as errors name it: file and line, or data set, split and number."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        super().__init__(values)
        self.place = place


def place_of(row: Row, source: str, number: int) -> str:
    """Return what errors call a row: its place, or its number in `source` and the start of its prompt."""
    # The number counts what `max_rows` and the transform left, so the text helps to find the row.
    return getattr(row, "place", None) or f"{source}: row {number} ({str(row.get('prompt'))[:40]!r})"


def check_row(row: Row) -> None:
    """Refuse a row that no policy can be trained or tried on.

    Raises:
        ValueError: It has no usable `prompt`, or a text that is none.
    """
    check_prompt(row)
    check_texts(row)


def check_texts(row: Row) -> None:
    """Refuse halves of surrogate pairs, such as half an emoji of a text that was cut: they cannot be encoded.

    Raises:
        ValueError: Some column holds one; names it.
    """
    for column, value in row.items():
        for text in _texts((column, value)):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"`{ascii(column)[1:-1]}`: character {error.start + 1} is {text[error.start]!a}, half of a"
                    " surrogate pair and no character; write the whole character, or U+FFFD"
                ) from None


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a value, keys included, but for those of ASCII, in which nothing can be wrong."""
    if isinstance(value, str):
        if not value.isascii():
            yield value
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from _texts(pair)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def check_prompt(row: Row) -> None:
    """Refuse a row without a usable `prompt`.

    Raises:
        ValueError: There is none, or it is neither text nor chat messages.
    """
    if "prompt" not in row:
        raise ValueError(
            f"rows need a `prompt`, got the columns {', '.join(row) or '(none)'};"
            " write a transform (pkg.module:function, row -> list of rows) and name it in data.transform"
        )
    prompt = row["prompt"]
    is_chat = isinstance(prompt, list) and prompt and all(isinstance(turn, dict) and "role" in turn for turn in prompt)
    if not isinstance(prompt, str) and not is_chat:
        raise ValueError(
            f"`prompt` must be text or a list of messages {{role: ..., content: ...}}, got {str(prompt)[:60]!r}"
            f" ({type(prompt).__name__})"
        )
    if isinstance(prompt, list):
        check_messages(prompt)


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuse messages that a chat template would print as something else, or that ask for nothing.

    Raises:
        ValueError: Names the message.
    """
    for number, message in enumerate(messages, start=1):
        role, content = message["role"], message.get("content")
        if not isinstance(role, str) or not role:
            raise ValueError(f"`prompt`: the role of message {number} must be text, such as user, got {role!r:.60}")
        if content is None and message.get("tool_calls"):
            continue
        if not isinstance(content, str):
            found = f"got {content!r:.60} ({type(content).__name__})" if "content" in message else "there is none"
            parts = "; join the texts of its parts" if isinstance(content, list) else ""
            raise ValueError(f"`prompt`: the content of message {number} must be text, {found}{parts}")
    if all(message["role"] in ("system", "developer") for message in messages):
        raise ValueError("`prompt` has system messages only: there is nothing to answer; add a user message")
