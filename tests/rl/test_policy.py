"""Policies from scratch and from folders: what their settings may say, and what they can read."""

import json

import pytest
import torch

from redraft.rl.models.registry import (
    build_policy,
    load_policy,
    load_text_side,
    plan_policy,
    policy_limits,
    resolve_device,
    resolve_dtype,
    save_policy,
)
from tiny import SHAPE, make_policy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_expert_per_tok": 2}, "model.init.num_expert_per_tok: unknown key; did you mean 'num_experts_per_tok'?"),
        ({"zzz": 1}, "model.init.zzz: unknown key; valid keys: architectures, .*topk_group"),
        ({"unknown_keys": {}}, "model.init.unknown_keys: unknown key"),
        ({"vocab_size": 9}, "model.init.vocab_size: leave it out"),
        ({"block_length": 9}, "model.init.block_length: leave it out"),
        ({"hidden_size": "wide"}, r"^model.init.hidden_size: Input should be a valid integer, got 'wide'$"),
        ({"hidden_size": "16"}, r"^model.init.hidden_size: Input should be a valid integer, got '16'$"),
        ({"hidden_size": True}, r"^model.init.hidden_size: Input should be a valid integer, got True$"),
        ({"rope_theta": float("inf")}, r"^model.init.rope_theta: Input should be a finite number, got inf$"),
        ({"topk_group": 3}, r"^model.init: topk_group must be in \[1, n_group = 2\], got 3[^\n]*$"),
        ({"n_group": 0, "num_experts": -1}, r"^model.init.num_experts: [^\n]*\nmodel.init.n_group: [^\n]*$"),
    ],
)
def test_a_wrong_shape_is_refused_by_its_key(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        build_policy({**SHAPE, **changes}, "float32", "cpu", 0)
    assert type(error.value) is ValueError


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match=r"^model.init.rope_theta: Field required$"):
        build_policy({key: value for key, value in SHAPE.items() if key != "rope_theta"}, "float32", "cpu", 0)


def test_the_block_length_travels_with_the_policy(tmp_path):
    model, tokenizer, _ = build_policy(SHAPE, "float32", "cpu", 0, block_length=8)
    save_policy(model, tmp_path / "a", tokenizer)
    save_policy(load_policy(str(tmp_path / "a"), None, "cpu"), tmp_path / "b", tokenizer)
    for folder in ("a", "b"):
        limits = policy_limits(str(tmp_path / folder))
        assert (limits.block_length, limits.max_positions, limits.vocab_size) == (8, 64, len(tokenizer))


@pytest.mark.parametrize("present", [True, False])
def test_a_tokenizer_names_its_code_only_where_that_is(tmp_path, present):
    folder = make_policy(tmp_path / "policy")
    file = folder / "tokenizer_config.json"
    auto_map = {"AutoTokenizer": ["tokenization.Slow", None]}
    file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": auto_map}))
    if present:
        (folder / "tokenization.py").write_text("class Slow: pass\n")
    tokenizer, _ = load_text_side(str(folder))
    save_policy(load_policy(str(folder), None, "cpu"), tmp_path / "saved", tokenizer)
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert saved.get("auto_map") == (auto_map if present else None)
    assert (tmp_path / "saved" / "tokenization.py").exists() == present


def test_a_folder_that_does_not_say_its_block_length_has_the_published_one(tmp_path):
    file = make_policy(tmp_path) / "config.json"
    config = json.loads(file.read_text())
    del config["block_length"]
    file.write_text(json.dumps(config))
    assert policy_limits(str(tmp_path)).block_length == 32
    file.write_text(json.dumps({**config, "block_length": "eight"}))
    with pytest.raises(ValueError, match=r"block_length in config.json must be a positive integer, got 'eight'"):
        policy_limits(str(tmp_path))


def test_without_a_dtype_a_policy_is_loaded_as_it_is_stored(tmp_path):
    make_policy(tmp_path, dtype="float64")
    assert load_policy(str(tmp_path), None, "cpu").lm_head.weight.dtype == torch.float64
    assert load_policy(str(tmp_path), "bfloat16", "cpu").lm_head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:one", "meta", ""])
def test_a_device_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match=f"device '{name}': valid are auto, cpu, cuda and cuda:N"):
        resolve_device(name)


@pytest.mark.parametrize(("count", "has"), [(0, "none"), (2, "2 \\(cuda:0 to cuda:1\\)")])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch, count, has):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ValueError, match=f"device 'cuda:2': no such GPU, this machine has {has}"):
        resolve_device("cuda:2")
    if count:
        assert resolve_device("cuda:1") == torch.device("cuda:1")
    else:
        with pytest.raises(ValueError, match="device 'cuda': no such GPU"):
            resolve_device("cuda")


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="dtype 'int8': valid are float32, bfloat16, float64"):
        resolve_dtype("int8")


# --- special ids --------------------------------------------------------------------------------------------------


def rewrite(folder, name, **changes):
    file = folder / name
    file.write_text(json.dumps({**(json.loads(file.read_text()) if file.is_file() else {}), **changes}))


def test_several_ends_are_read_from_both_configs_and_written_back(tmp_path):
    folder = make_policy(tmp_path)
    rewrite(folder, "config.json", eos_token_id=[1, 0])
    rewrite(folder, "generation_config.json", eos_token_id=[0, 3])
    assert load_text_side(str(folder))[1].stops == (0, 1, 3)
    assert load_policy(str(folder), None, "cpu").config.to_dict()["eos_token_id"] == [1, 0]


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"eos_token_id": 40}, "eos_token_id in config.json is 40, which is 'C' to the tokenizer"),
        ("config.json", {"mask_token_id": 40}, "mask_token_id is 40"),
        ("config.json", {"pad_token_id": 4000}, "the pad token 4000 is not in the vocabulary of 100"),
        ("generation_config.json", {"eos_token_id": [0, 4000]}, "the end token 4000 is not in the vocabulary of 100"),
    ],
)
def test_special_ids_that_cannot_be_are_refused_with_the_folder(tmp_path, file, changes, message):
    folder = make_policy(tmp_path)
    rewrite(folder, file, **changes)
    with pytest.raises(ValueError, match=rf"{tmp_path}: {message}"):
        load_text_side(str(folder))


def test_a_generation_config_that_cannot_be_read_is_named(tmp_path):
    folder = make_policy(tmp_path)
    for content, message in [("[1]", "must hold a JSON object, got list"), ("{", "generation_config.json: not JSON")]:
        (folder / "generation_config.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            load_text_side(str(folder))


def test_what_a_shape_promises_is_what_is_built():
    tokenizer, tokens, limits = plan_policy(SHAPE, 16)
    _, built, built_tokens = build_policy(SHAPE, "float32", "cpu", 0, 16)
    assert (tokens, tokenizer.get_vocab()) == (built_tokens, built.get_vocab())
    assert (limits.vocab_size, limits.max_positions, limits.block_length) == (100, 64, 16)
