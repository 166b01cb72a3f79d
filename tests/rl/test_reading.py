"""Texts as a policy reads them: what it cannot read is named, what is odd is counted."""

import dataclasses
import logging

import pytest

from redraft.rl.data.load import DataError
from redraft.rl.data.reading import Reader, Survey, check_prompts
from redraft.rl.data.rows import PlacedRow
from redraft.rl.models.registry import plan_policy
from redraft.rollout.config import DecodeConfig
from tiny import SHAPE

DECODE = DecodeConfig(block_length=8, max_completion_length=8)
CHAT = "{% for m in messages %}{{ m['content'] }}<|role_end|>{% endfor %}"


@pytest.fixture
def reader():
    return Reader(*plan_policy(SHAPE, 8))


def test_a_prompt_without_room_for_a_completion_is_named_by_row(reader):
    rows = [{"prompt": "1" * 56}, {"prompt": "2" * 60}]
    check_prompts(rows[:1], reader, DECODE, "rows")
    with pytest.raises(DataError) as error:
        check_prompts(rows, reader, DECODE, "mine (train)")
    assert str(error.value) == (
        f"mine (train): row 2 ({'2' * 40!r}): the prompt has 60 tokens; with max_completion_length 8 in whole blocks"
        " of 8 it needs 72 positions, but the policy has 64"
    )


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([{"role": "user", "content": "b"}], "no chat template"),
        ("a<|mask|>b", "the prompt contains the mask token '<|mask|>', id 2"),
        ("", "`prompt` is empty"),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_named_by_its_place(reader, prompt, message):
    rows = [PlacedRow({"prompt": text}, f"rows.jsonl:{line}") for line, text in ((1, "a"), (3, prompt))]
    with pytest.raises(DataError, match=rf"^rows.jsonl:3: .*{message}"):
        check_prompts(rows, reader, DECODE, "mine (test)")


def test_a_message_with_the_mask_token_is_refused_too(reader):
    reader.tokenizer.chat_template = CHAT
    for role in ("user", "assistant"):
        rows = [{"prompt": [{"role": "user", "content": "a"}, {"role": role, "content": "b<|mask|>"}]}]
        with pytest.raises(DataError, match=r"mine: row 1 .*contains the mask token"):
            check_prompts(rows, reader, DECODE, "mine")


def test_a_message_that_the_chat_template_refuses_is_named_by_row(reader):
    reader.tokenizer.chat_template = "{{ raise_exception('no system message') }}"
    with pytest.raises(DataError, match=r"mine: row 1 .*: no system message"):
        check_prompts([{"prompt": [{"role": "system", "content": "b"}]}], reader, DECODE, "mine")


def test_a_token_that_the_policy_lacks_is_named(reader):
    reader.tokenizer.add_tokens(["<tool>"])
    with pytest.raises(
        DataError, match=r"mine: row 2 .*token id 100 '<tool>' is not in 0 to 99: .*resize its embedding"
    ):
        check_prompts([{"prompt": "a"}, {"prompt": "a<tool>"}], reader, DECODE, "mine")
    with pytest.raises(ValueError, match=r"token id -1 is not in 0 to 99: prompt_ids"):
        reader.check_ids([3, -1], "prompt_ids")
    grown = dataclasses.replace(reader, limits=dataclasses.replace(reader.limits, vocab_size=101))
    assert grown.read_prompt("a<tool>")[-1] == grown.read_answer("<tool>")[0] == 100


def test_each_distinct_prompt_is_encoded_once(reader, monkeypatch):
    encoded = []
    monkeypatch.setattr("redraft.rl.data.reading.encode_prompt", lambda _, prompt: encoded.append(prompt) or [1])
    check_prompts([{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}], reader, DECODE, "rows")
    assert encoded == ["a", "b"]


# --- what is odd --------------------------------------------------------------------------------------------------


def told(caplog, reader, *prompts):
    with caplog.at_level(logging.WARNING):
        rows = [PlacedRow({"prompt": prompt}, f"f:{line}") for line, prompt in enumerate(prompts, start=1)]
        check_prompts(rows, reader, DECODE, "mine")
    return [record.getMessage() for record in caplog.records]


def test_nothing_is_said_of_ordinary_texts(reader, caplog):
    reader.tokenizer.chat_template = CHAT
    assert told(caplog, reader, "a\n\nb", [{"role": "user", "content": "<|x|> <role_end>"}]) == []


def test_control_tokens_in_texts_are_counted_and_told_once(reader, caplog):
    [message] = told(caplog, reader, "a", "b<|role_end|>", "<|endoftext|><|role_end|>c")
    assert message.startswith("mine: 3 control tokens are read as control tokens")
    assert message.endswith("(first: <|role_end|> in f:2)")


def test_control_tokens_in_messages_are_told_to_stay_text(reader, caplog):
    reader.tokenizer.chat_template = CHAT
    forged = [{"role": "user", "content": "hi<|role_end|><|unk|>"}]
    [message] = told(caplog, reader, [{"role": "user", "content": "hi"}], forged)
    assert message == "mine: 2 control tokens are spelled in messages, and stay text there (first: <|role_end|> in f:2)"


def test_the_share_of_unknown_tokens_is_told_once(reader, caplog):
    [message] = told(caplog, reader, "abcd", "一加一", "二加二=x")
    assert (
        message
        == "mine: 50.0% of the tokens (6 of 12) are unknown to the tokenizer, all alike to the policy (first: f:2)"
    )


def test_a_policy_without_a_tokenizer_has_nothing_to_survey(caplog):
    survey = Survey(None, "mine")
    survey.see("f:1", "<|mask|>", [1])
    survey.tell()
    assert not caplog.records
