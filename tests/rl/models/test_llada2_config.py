"""config.json in and out, and what is refused."""

import json

import pytest

from redraft.rl.models.llada2 import LLADA2_FLASH, LLADA2_MINI, LLaDA2Config

PUBLISHED = {**LLADA2_MINI.to_dict(), "rotary_dim": 64, "torch_dtype": "bfloat16", "rope_scaling": None, "auto_map": {}}


def test_unknown_keys_survive_the_round_trip():
    config = LLaDA2Config.from_dict({**PUBLISHED, "new_thing": {"a": [1]}, "mask_token_id": 156895})
    assert config.to_dict() == {**PUBLISHED, "new_thing": {"a": [1]}, "mask_token_id": 156895}
    assert LLaDA2Config.from_dict(config.to_dict()) == config
    assert config.unknown_keys["new_thing"] == {"a": [1]}
    assert config.rotary_dim == 64


def test_a_missing_qk_norm_key_means_that_there_is_one():
    values = {key: value for key, value in PUBLISHED.items() if key != "use_qk_norm"}
    assert LLaDA2Config.from_dict(values).use_qk_norm is True


def test_a_missing_head_dim_is_the_even_share_of_the_hidden_size():
    assert LLaDA2Config.from_dict({**PUBLISHED, "head_dim": None}).head_dim == 128


def test_the_published_presets_are_valid():
    for preset in (LLADA2_MINI, LLADA2_FLASH):
        assert LLaDA2Config.from_dict(preset.to_dict()) == preset


def test_a_typing_error_in_a_constructor_is_refused():
    with pytest.raises(ValueError, match="hiden_size"):
        LLaDA2Config(**LLADA2_MINI.to_dict(), hiden_size=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_bias": True}, "use_bias"),
        ({"score_function": "softmax"}, "score_function"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"model_type": "llama"}, "llada2_moe"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"rope_scaling": {"factor": 2}}, "rope_scaling"),
        ({"expert_capacity": 48}, "expert_capacity"),
        ({"rotary_dim": 32}, "rotary_dim 32 .* 64"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3 must divide num_attention_heads 16"),
        ({"n_group": 7}, "n_group 7 must divide num_experts 256"),
        ({"topk_group": 9}, r"topk_group must be in \[1, n_group = 8\], got 9"),
        ({"num_experts_per_tok": 200}, "at most the 128 experts"),
        ({"partial_rotary_factor": 0.18}, "must be even, got 23"),
    ],
)
def test_a_network_that_the_code_does_not_compute_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        LLaDA2Config.from_dict({**PUBLISHED, **change})


def test_errors_of_a_file_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        LLaDA2Config.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        LLaDA2Config.from_pretrained(tmp_path)
    file = tmp_path / "config.json"
    without_theta = {key: value for key, value in PUBLISHED.items() if key != "rope_theta"}
    for text, message in (
        ('{"vocab_size": ', "Expecting value"),
        ("[]", "expected a JSON object, found list"),
        (json.dumps(without_theta), "rope_theta: Field required"),
        (json.dumps({**PUBLISHED, "n_group": 7}), "n_group 7 must divide"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message) as raised:
            LLaDA2Config.from_pretrained(tmp_path)
        assert str(file) in str(raised.value)
