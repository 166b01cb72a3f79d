"""What servers and data sets call a completion, and what rewards read of it."""

import pytest

from redraft.rewards.chats import as_completion


def said(content):
    return [{"role": "assistant", "content": content}]


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        (None, ""),
        ("7", "7"),
        ([], ""),
        (said(None), ""),
        ([{"role": "assistant"}], ""),
        ([{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}], ""),
        (said([]), ""),
        (said([None]), None),
        (said([{"type": "text", "text": "a"}, {"type": "output_text", "text": "b"}, "c"]), "abc"),
        (said([{"type": "text", "text": None}, {"type": "image_url", "image_url": {}}, {"text": "7"}]), "7"),
        (said([{"type": "reasoning", "text": "it is 8"}, {"type": "text", "text": "7"}]), "7"),
        (said({"type": "text", "text": "7"}), "7"),
        ({"role": "assistant", "content": "7"}, "7"),
        ([{"content": "7"}], "7"),
        ([{"role": "user", "content": "8"}, *said("7")], "7"),
        ([*said("let me see"), {"role": "tool", "content": "7"}], ""),
        (7, None),
        (True, None),
        ([1, 2], None),
        (said(7), None),
        ({"text": "7"}, None),
    ],
)
def test_what_counts_is_the_text_that_the_model_wrote_last(completion, text):
    if text is None:
        with pytest.raises(ValueError, match=r"text or (a list of messages|a list of parts|an object), got"):
            as_completion(completion)
        return
    found = as_completion(completion)
    assert (found if isinstance(found, str) else found[-1]["content"]) == text
