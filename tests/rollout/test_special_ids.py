"""Ids that steer decoding, where three files may name them."""

from types import SimpleNamespace

import pytest

from oracles.word_tokenizer import make_tokenizer
from redraft.rollout.special_ids import special_tokens
from redraft.rollout.trajectory import SpecialTokens

PAD, MASK, END, HELLO, TURN = 0, 1, 2, 5, 7  # of the word tokenizer


def config(**ids):
    return SimpleNamespace(**ids)


def test_special_ids_come_from_the_tokenizer_where_the_configs_have_none():
    assert special_tokens(make_tokenizer(), config()) == SpecialTokens(mask=MASK, pad=PAD, stops=(END, TURN))
    nothing = config(mask_token_id=None, eos_token_id=None, pad_token_id=None)
    assert special_tokens(make_tokenizer(), nothing, {"eos_token_id": None}).stops == (END, TURN)


def test_without_a_tokenizer_they_come_from_the_configs():
    tokens = special_tokens(None, config(mask_token_id=9, eos_token_id=[4, 3]), {"eos_token_id": 6})
    assert tokens == SpecialTokens(mask=9, pad=4, stops=(4, 3, 6))


def test_the_configs_pad_comes_first():
    assert special_tokens(make_tokenizer(), config(pad_token_id=HELLO)).pad == HELLO


@pytest.mark.parametrize(
    ("in_config", "in_generation", "stops"),
    [
        (END, None, (END, TURN)),
        (TURN, None, (END, TURN)),
        (PAD, None, (END, PAD, TURN)),
        ([END, HELLO], None, (END, HELLO, TURN)),
        ((TURN, END), None, (END, TURN)),
        (None, [PAD, END], (END, PAD, TURN)),
        ([END], [HELLO, END], (END, HELLO, TURN)),
        ([END, MASK], None, (END, TURN)),
    ],
)
def test_any_end_that_a_file_names_stops_and_the_tokenizers_is_taught(in_config, in_generation, stops):
    tokens = special_tokens(make_tokenizer(), config(eos_token_id=in_config), {"eos_token_id": in_generation})
    assert tokens.stops == stops
    assert tokens.end == make_tokenizer().eos_token_id


def test_a_tokenizer_without_an_end_takes_that_of_the_config():
    tokenizer = make_tokenizer(eos=None)
    assert special_tokens(tokenizer, config(eos_token_id=[END, PAD])).stops == (END, PAD, TURN)
    assert special_tokens(tokenizer, config(), {"eos_token_id": END}).end == END
    with pytest.raises(ValueError, match="neither the model config nor the tokenizer has eos_token_id"):
        special_tokens(tokenizer, config())


@pytest.mark.parametrize(("in_config", "in_generation"), [(HELLO, None), ([HELLO, TURN], None), (END, HELLO)])
def test_an_end_that_is_a_word_of_the_tokenizer_is_refused_with_both_ids(in_config, in_generation):
    source = "config.json" if in_generation is None else "generation_config.json"
    message = rf"eos_token_id in {source} is 5, which is 'hello' to the tokenizer, whose own end of text is 2 "
    with pytest.raises(ValueError, match=message):
        special_tokens(make_tokenizer(), config(eos_token_id=in_config), {"eos_token_id": in_generation})


def test_an_end_beyond_the_tokenizer_is_refused():
    with pytest.raises(ValueError, match=r"eos_token_id in config.json is 99, which is no token at all"):
        special_tokens(make_tokenizer(), config(eos_token_id=99))


@pytest.mark.parametrize("value", ["2", 2.0, True, [2, "3"], -1])
def test_an_end_that_is_no_id_is_refused(value):
    with pytest.raises(ValueError, match=r"eos_token_id in generation_config.json must be a token id or a list"):
        special_tokens(make_tokenizer(), config(), {"eos_token_id": value})


def test_two_masks_are_refused_with_both_ids():
    with pytest.raises(ValueError, match=r"mask_token_id is 6 \('world'\) in config.json, but .* mask token is 1 \("):
        special_tokens(make_tokenizer(), config(mask_token_id=6))
    assert special_tokens(make_tokenizer(mask=None), config(mask_token_id=6)).mask == 6


def test_a_missing_mask_token_is_an_error():
    with pytest.raises(ValueError, match=r"neither the model config nor the tokenizer has mask_token_id"):
        special_tokens(make_tokenizer(mask=None), config())


def test_an_end_that_is_the_mask_is_refused():
    with pytest.raises(ValueError, match="the end of text and the mask are the same token, id 3"):
        special_tokens(None, config(mask_token_id=3, eos_token_id=3))


def test_the_end_of_a_turn_stops_only_where_the_vocabulary_has_it():
    tokenizer = SimpleNamespace(mask_token_id=1, eos_token_id=2, get_vocab=lambda: {"a": 0})
    assert special_tokens(tokenizer, config()) == SpecialTokens(mask=1, pad=2, stops=(2,))
