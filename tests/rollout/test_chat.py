"""Text and token ids, on a real tokenizer that is made here."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rollout.chat import TURN_END, decode_text, encode_prompt, load_tokenizer, special_tokens
from rollout.trajectory import SpecialTokens

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}bot{% endif %}"
)
WORDS = ["<pad>", "<|mask|>", "<|endoftext|>", "user", "bot", "hello", "world", TURN_END]
NO_IDS = SimpleNamespace()


def make_tokenizer(template: str | None = TEMPLATE, mask: str | None = "<|mask|>"):
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    specials = {"pad_token": "<pad>", "eos_token": "<|endoftext|>"} | ({"mask_token": mask} if mask else {})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, additional_special_tokens=[TURN_END], **specials)
    tokenizer.chat_template = template
    return tokenizer


def test_a_saved_tokenizer_is_loaded(tmp_path: Path):
    make_tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert encode_prompt(tokenizer, "hello world") == [5, 6]
    assert special_tokens(tokenizer, NO_IDS).mask == 1


def test_special_ids_come_from_the_tokenizer_where_the_config_has_none():
    assert special_tokens(make_tokenizer(), NO_IDS) == SpecialTokens(mask=1, pad=0, stops=(2, 7))


def test_special_ids_of_the_model_config_come_first():
    config = SimpleNamespace(mask_token_id=6, eos_token_id=4, pad_token_id=5)
    assert special_tokens(make_tokenizer(), config) == SpecialTokens(mask=6, pad=5, stops=(4, 7))
    config = SimpleNamespace(mask_token_id=None, eos_token_id=0)
    assert special_tokens(make_tokenizer(), config) == SpecialTokens(mask=1, pad=0, stops=(0, 7))


def test_the_end_of_a_turn_stops_only_where_the_vocabulary_has_it():
    tokenizer = SimpleNamespace(mask_token_id=1, eos_token_id=2, get_vocab=lambda: {"a": 0})
    assert special_tokens(tokenizer, NO_IDS) == SpecialTokens(mask=1, pad=2, stops=(2,))


def test_a_missing_mask_token_is_an_error():
    with pytest.raises(ValueError, match=r"neither the model config nor the tokenizer has mask_token_id"):
        special_tokens(make_tokenizer(mask=None), NO_IDS)


def test_chat_messages_go_through_the_template_up_to_the_answer():
    messages = [{"role": "user", "content": "hello world"}]
    assert encode_prompt(make_tokenizer(), messages) == [3, 5, 6, 4]


def test_chat_messages_without_a_template_are_an_error():
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        encode_prompt(make_tokenizer(template=None), [{"role": "user", "content": "hello"}])


def test_text_of_a_completion_has_no_special_tokens():
    assert decode_text(make_tokenizer(), [5, 6, 7, 2]).split() == ["hello", "world"]
