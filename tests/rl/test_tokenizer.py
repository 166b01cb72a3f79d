"""The built-in character tokenizer."""

import random
import string

import pytest

from redraft.rl.models.character_tokenizer import CHARACTERS, build_character_tokenizer
from redraft.rollout.chat import decode_text, encode_text, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_character_tokenizer()


def test_text_to_ids_to_text_is_the_identity_with_one_token_per_character(tokenizer):
    draw = random.Random(0)
    for _ in range(2000):
        likely = draw.choice(["\n", "\n ", " ", "<|>", "\n\\{}", "ms k", string.ascii_letters])
        chars = [draw.choice(likely if draw.random() < 0.6 else CHARACTERS) for _ in range(draw.randrange(40))]
        text = "".join(chars)
        ids = encode_text(tokenizer, text)
        assert len(ids) == len(text), text
        assert tokenizer.unk_token_id not in ids
        assert decode_text(tokenizer, ids) == text


def test_every_printable_ascii_character_is_in_the_alphabet():
    assert {chr(code) for code in range(32, 127)} | {"\n"} == set(CHARACTERS)


@pytest.mark.parametrize("text", ["\n\n", "x\n\n\ny", "\n \n", " \n"])
def test_runs_of_newlines_are_single_newlines(tokenizer, text):
    assert encode_text(tokenizer, text) == [encode_text(tokenizer, char)[0] for char in text]


def test_characters_outside_it_are_unknown_one_by_one(tokenizer):
    assert encode_text(tokenizer, "a一二\t\r") == [encode_text(tokenizer, "a")[0], *[tokenizer.unk_token_id] * 4]


def test_a_saved_one_reads_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    text = "a\n\nb <|role_end|>\n"
    assert encode_text(again, text) == encode_text(tokenizer, text)
    assert decode_text(again, encode_text(again, "a\n\n b")) == "a\n\n b"
