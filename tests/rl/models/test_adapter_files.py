"""Adapter folders have PEFT's names and numbers, are read back merged, and say what is wrong with them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from oracles.adapted_policy import adapted_model, merged_model
from oracles.tiny_policy import tiny_model
from redraft.rl.models.llada2 import load_pretrained, save_pretrained
from redraft.rl.models.llada2.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from redraft.rl.models.llada2.checkpoint import CheckpointError
from redraft.rl.models.llada2.names import published_tensors
from redraft.rl.models.shape import shape_of


@pytest.fixture
def place(tmp_path):
    """A policy folder, a network with adapters beside its weights, and the folder of these adapters."""
    base, folder = tmp_path / "base", tmp_path / "adapters"
    save_pretrained(tiny_model(), base)
    model = adapted_model(base=str(base))
    save_pretrained(model, folder)
    return base, model, folder


def test_a_folder_of_adapters_is_read_as_the_merged_network(place):
    _, model, folder = place
    assert sorted(file.name for file in folder.iterdir()) == [ADAPTER_CONFIG, ADAPTER_WEIGHTS, "config.json"]
    ids = torch.tensor([[5, 2, 7, 7, 3, 1, 7, 7]])
    torch.testing.assert_close(load_pretrained(folder)(ids, 4), model(ids, 4), rtol=0, atol=1e-12)


def test_the_file_holds_as_many_numbers_as_the_plan_counts(place):
    _, model, folder = place
    stored = sum(tensor.numel() for tensor in load_file(folder / ADAPTER_WEIGHTS).values())
    assert stored == shape_of(model.config).adapter_file_parameters(8, "all")


def test_the_published_linears_plus_scale_b_a_are_the_merged_tensors(place):
    """All that PEFT computes: W + lora_alpha / r * lora_B @ lora_A for each linear that its pattern names."""
    base, model, folder = place
    config, pairs = json.loads((folder / ADAPTER_CONFIG).read_text()), load_file(folder / ADAPTER_WEIGHTS)
    weights = load_file(base / "model.safetensors")
    for name in {name.removesuffix(".lora_A.weight") for name in pairs if name.endswith(".lora_A.weight")}:
        a, b = (pairs.pop(f"{name}.lora_{kind}.weight") for kind in "AB")
        weights[f"{name.removeprefix('base_model.model.')}.weight"] += config["lora_alpha"] / config["r"] * b @ a
    assert not pairs
    for name, tensor in published_tensors(merged_model(model)):
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-12)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")  # its own imports
def test_peft_itself_loads_the_folder(place):
    """Into bare linears under the published names, which is all that PEFT looks at."""
    peft = pytest.importorskip("peft")
    base, model, folder = place

    class Published(nn.Module):
        prepare_inputs_for_generation = None  # PEFT asks causal language models for it

        def __init__(self):
            super().__init__()
            for name, weight in load_file(base / "model.safetensors").items():
                *path, last = name.split(".")[:-1]
                at = self
                for part in path:
                    if part not in at._modules:
                        at.add_module(part, nn.Module())
                    at = at._modules[part]
                if weight.dim() == 2:
                    linear = nn.Linear(*reversed(weight.shape), bias=False, dtype=weight.dtype)
                    linear.weight.data = weight
                    at.add_module(last, linear)

    merged = peft.PeftModel.from_pretrained(Published(), folder).merge_and_unload().state_dict()
    for name, tensor in published_tensors(merged_model(model)):
        if name in merged:
            torch.testing.assert_close(merged[name], tensor, rtol=0, atol=1e-12)
    assert len(merged) > 20


def test_weights_and_adapters_replace_each_other_in_a_folder(place):
    _, model, folder = place
    save_pretrained(load_pretrained(folder), folder)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    save_pretrained(model, folder)
    assert sorted(file.name for file in folder.iterdir()) == [ADAPTER_CONFIG, ADAPTER_WEIGHTS, "config.json"]


def test_a_base_that_is_gone_is_named_with_the_remedy(place):
    base, _, folder = place
    base.rename(base.with_name("elsewhere"))
    with pytest.raises(
        FileNotFoundError, match=r"base_model_name_or_path .*/base is not here; write the folder of the"
    ):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 0}, "expected base_model_name_or_path, r and lora_alpha"),
        ({"use_dora": True}, "use_dora=True is not computed"),
    ],
)
def test_a_configuration_that_asks_for_something_else_is_refused(place, change, message):
    file = place[2] / ADAPTER_CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        load_pretrained(place[2])


def test_adapters_of_another_network_are_refused_by_name(place):
    file = place[2] / ADAPTER_WEIGHTS
    pairs = load_file(file)
    name = "base_model.model.model.layers.0.attention.dense.lora_B.weight"
    save_file({**pairs, name: pairs[name][:-1].contiguous()}, file)
    with pytest.raises(
        CheckpointError, match=r"layers.0.attention.dense.lora_A.weight' fits no weights of the policy \(2 such\)"
    ):
        load_pretrained(place[2])
