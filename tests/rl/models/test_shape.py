"""Counts from config.json are those of the real network, and shapes are found without weights and without torch."""

import json
import subprocess
import sys

import pytest

from redraft.rl.models.llada2 import LLADA2_FLASH, LLADA2_MINI, LLaDA2Config, LLaDA2Model
from redraft.rl.models.shape import PUBLISHED, find_shape, new_config, shape_of
from shapes import small_shape

TINY = LLaDA2Config.from_dict(small_shape(vocab_size=40))
ALL_DENSE = LLaDA2Config.from_dict(small_shape(vocab_size=40, first_k_dense_replace=2))
NO_SHARED = LLaDA2Config.from_dict(small_shape(vocab_size=40, num_shared_experts=0))
THREE = LLaDA2Config.from_dict(small_shape(vocab_size=40, num_hidden_layers=3, num_shared_experts=2))


@pytest.mark.parametrize("config", [TINY, ALL_DENSE, NO_SHARED, THREE, LLADA2_MINI, LLADA2_FLASH])
def test_counts_are_those_of_the_network(config):
    model, shape = LLaDA2Model(config, device="meta"), shape_of(config)
    counted = {name: tensor.numel() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    experts = sum(number for name, number in counted.items() if ".experts." in name)
    assert shape.parameters == sum(counted.values())
    assert shape.expert_parameters == experts
    assert shape.dense_parameters == sum(counted.values()) - experts
    assert shape.head_parameters == counted["lm_head.weight"]
    cache = model.cache_shape
    assert shape.cached == 2 * cache.layers * cache.heads * cache.head_dim


def test_adapters_are_counted_by_the_matrices_they_stand_beside():
    shape, rank = shape_of(THREE), 8
    model = LLaDA2Model(THREE, device="meta")
    attention = [m for name, m in model.named_modules() if name.endswith(("query_key_value", "attention.dense"))]
    assert shape.adapter_parameters(rank, "all") == (
        sum(rank * sum(m.weight.shape) for m in attention),
        sum(
            matrix.shape[0] * rank * sum(matrix.shape[1:])
            for name, matrix in model.named_parameters()
            if ".experts." in name
        ),
    )
    assert shape.adapter_parameters(rank, "attention")[1] == 0


def test_the_published_sizes():
    mini, flash = shape_of(LLADA2_MINI), shape_of(LLADA2_FLASH)
    assert (mini.parameters, flash.parameters) == (16_255_643_392, 102_889_705_216)
    assert (round(mini.active_parameters / 1e9, 2), round(flash.active_parameters / 1e9, 2)) == (1.43, 6.15)
    assert sum(mini.adapter_parameters(16, "all")) == 441_253_888
    assert shape_of(PUBLISHED["inclusionAI/LLaDA2.0-flash"]) == flash


def test_a_folder_with_its_config_alone_is_enough(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    assert find_shape(str(tmp_path), None) == shape_of(TINY)


def test_a_name_that_is_published_is_known_and_a_folder_of_that_name_goes_first(tmp_path, monkeypatch):
    assert find_shape("inclusionAI/LLaDA2.1-mini", None) == shape_of(LLADA2_MINI)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "inclusionAI" / "LLaDA2.1-mini"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(TINY.to_dict()))
    assert find_shape("inclusionAI/LLaDA2.1-mini", None) == shape_of(TINY)


def test_a_path_that_is_not_there_is_refused_with_what_is_known():
    with pytest.raises(FileNotFoundError, match=r"^model.path: no folder \./policy; .*: inclusionAI/LLaDA2.0-mini, .*"):
        find_shape("./policy", None)


def test_a_policy_from_scratch_has_the_vocabulary_of_its_tokenizer():
    from redraft.rl.models.registry import build_policy

    model, tokenizer, _ = build_policy(small_shape(), "float32", "cpu", 0)
    shape = find_shape(None, small_shape())
    assert shape.vocabulary == len(tokenizer)
    assert shape.parameters == sum(t.numel() for t in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 40}, "model.init.vocab_size: leave it out; the tokenizer and rollout.decode decide it"),
        ({"block_length": 8}, "model.init.block_length: leave it out"),
        ({"hidden_sise": 8}, "model.init.hidden_sise: unknown key; did you mean 'hidden_size'"),
        ({"hidden_size": "wide"}, "model.init.hidden_size: .*got 'wide'"),
    ],
)
def test_a_shape_that_cannot_be_made_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        new_config(small_shape(**change), {"vocab_size": 99})


def test_no_torch_is_loaded():
    code = (
        "import sys\nfrom redraft.rl.models.shape import find_shape\nimport redraft.rl.plan.report\n"
        "find_shape('inclusionAI/LLaDA2.1-mini', None)\n"
        "assert not {'torch', 'transformers', 'ray', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
