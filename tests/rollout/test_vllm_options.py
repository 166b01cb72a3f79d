"""What of the vLLM engine works without vLLM: its arguments, its errors, the policy that comes and goes."""

import dataclasses
import importlib.util
import os
import weakref

import pytest
import torch
from safetensors.torch import save_file

from redraft.rollout.config import DecodeConfig, Limits
from redraft.rollout.decoding.slots import Slots
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.request import Request
from redraft.rollout.trajectory import Prompt
from redraft.rollout.vllm.engine import VLLMEngine, VLLMRolloutWorker, engine_arguments
from redraft.rollout.vllm.options import WorkerOptions
from redraft.rollout.vllm.policy import Asleep, ResidentPolicy
from redraft.rollout.weights import PendingWeights, WeightSyncError, WeightUpdate, snapshot, weights_file
from tiny import build_bare_policy
from vllm_setup import LIMITS, SAMPLED, SHAPE, TOKENS, make_policy, options_for


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return make_policy(tmp_path_factory.mktemp("policy"))


def newer(version: int = 7) -> WeightUpdate:
    return snapshot(build_bare_policy(SHAPE, "float64", "cpu", seed=5), version)


# --- arguments and errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [VLLMEngine, lambda options, limits: VLLMRolloutWorker(lambda: options, limits)], ids=["engine", "worker"]
)
def test_without_vllm_there_is_one_error_that_says_how_to_install_it(path, monkeypatch, make):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("redraft.rollout.vllm.engine.find_spec", lambda name: None)
    with pytest.raises(ImportError) as caught:
        make(options_for(path), LIMITS)
    assert "pip install 'redraft[vllm]'" in str(caught.value)
    assert "VLLM_VERSION_OVERRIDE=0.31.0 VLLM_TARGET_DEVICE=empty pip install --no-binary vllm" in str(caught.value)


@pytest.mark.parametrize(("max_length", "expected"), [(None, 64), (64, 64), (63, 60), (7, 4)])
def test_the_engine_has_room_for_whole_blocks_and_its_pages_are_blocks(path, max_length, expected):
    arguments = engine_arguments(options_for(path), Limits(slots=5, cache_bytes=1000), max_length)
    assert arguments["max_model_len"] == expected
    assert (arguments["block_size"], arguments["max_num_seqs"], arguments["kv_cache_memory_bytes"]) == (4, 5, 1000)
    assert arguments["max_num_batched_tokens"] == max(5 * 5, 5 * expected)


def test_a_length_below_one_block_is_refused(path):
    with pytest.raises(ValueError, match="max_length 3 does not hold a single block of 4 tokens"):
        engine_arguments(options_for(path), LIMITS, 3)


def test_editing_of_earlier_blocks_is_refused_by_name(path):
    decode = DecodeConfig(block_length=4, editing_window=2)
    with pytest.raises(ValueError, match=r"editing_window must be 1 with vLLM.*got 2; use the torch engine"):
        engine_arguments(options_for(path, decode), LIMITS)


def test_options_survive_the_way_through_vllms_configuration(path):
    options = options_for(path)
    sent = engine_arguments(options, Limits(logits_bytes=12345))["additional_config"]
    assert WorkerOptions.read(sent) == options.model_copy(update={"logits_bytes": 12345})
    with pytest.raises(ValueError, match=r"(?s)engine_arguments.*load_model"):
        WorkerOptions.read({})


# --- the policy -----------------------------------------------------------------------------------------------------


def test_the_policy_is_made_by_name_and_opens_pages_of_its_size(path):
    resident = ResidentPolicy(options_for(path))
    assert (resident.dtype, resident.device.type, resident.version) == (torch.float64, "cpu", -1)
    assert resident.cache_shape == (3, 2, 8)
    cache = resident.open(10)._cache
    assert cache._pages.shape == (3, 11, 4, 2, 2, 8)  # keys and values side by side


def test_memory_for_pages_is_what_is_wanted_as_far_as_there_is_some(path, monkeypatch):
    resident = ResidentPolicy(options_for(path))
    assert resident.page_bytes == 2 * 3 * 2 * 8 * 8 * 4  # keys and values, 3 layers, 2 heads of 8, 8 bytes, 4 tokens
    assert resident.memory_for(10) == 10 * resident.page_bytes
    monkeypatch.setattr("redraft.rollout.vllm.policy.free_host_bytes", lambda: 12 * resident.page_bytes)
    assert resident.memory_for(10) == 6 * resident.page_bytes
    monkeypatch.setattr(TorchEngine, "max_pages", lambda self, block_length: 7)  # as on a GPU
    assert resident.memory_for(10) == 8 * resident.page_bytes


@pytest.mark.parametrize(("level", "gone"), [(1, False), (2, True)])
def test_asleep_the_weights_are_moved_or_dropped_and_come_back(path, level, gone):
    resident = ResidentPolicy(options_for(path))
    before = snapshot(resident.policy.model, 0)
    weights = [weakref.ref(parameter) for parameter in resident.policy.model.parameters()]
    resident.sleep(level)
    assert all((weight() is None) == gone for weight in weights)
    if not gone:
        assert all(weight().device.type == "cpu" for weight in weights)
    with pytest.raises(RuntimeError, match=r"the weights are asleep; wake_up\(tags=\['weights'\]\) first"):
        resident.open(3)
    with pytest.raises(RuntimeError, match="the weights are asleep"):
        resident.start_update()
    resident.wake_weights()
    resident.open(3)
    assert snapshot(resident.policy.model, 0).fingerprint == before.fingerprint


def test_weights_that_a_sync_will_bring_are_not_read_from_the_folder_again(path, monkeypatch):
    resident = ResidentPolicy(options_for(path).model_copy(update={"weights_by_sync": True}))
    monkeypatch.setattr("redraft.rollout.vllm.policy.load_rollout_policy", None)
    weights = [weakref.ref(parameter) for parameter in resident.policy.model.parameters()]
    resident.sleep(2)
    assert {weight() for weight in weights} == {None}
    resident.wake_weights()
    update = newer()
    resident.start_update()
    resident.add_weights({"update": update})
    resident.finish_update()
    assert (resident.version, snapshot(resident.policy.model, 7).fingerprint) == (7, update.fingerprint)


def test_a_session_that_was_given_back_says_so():
    slots = Slots(Asleep(), torch.device("cpu"), TOKENS, block_length=4, num_slots=1, length=64)
    slots.admit(Request(Prompt("p", (3, 4, 5), seed=0), SAMPLED), [1], committed=0)
    with pytest.raises(RuntimeError, match="the engine is asleep; wake_up first"):
        slots.step()


# --- weights --------------------------------------------------------------------------------------------------------


def test_weights_are_installed_from_an_object(path):
    resident, update = ResidentPolicy(options_for(path)), newer()
    resident.start_update()
    resident.add_weights({"update": update})
    resident.finish_update()
    assert resident.version == 7
    assert snapshot(resident.policy.model, 7).fingerprint == update.fingerprint


def test_weights_are_installed_from_files_in_parts(path, tmp_path):
    resident, update = ResidentPolicy(options_for(path)), newer()
    names = sorted(update.tensors)
    parts = [{name: update.tensors[name] for name in names[:9]}, {name: update.tensors[name] for name in names[9:]}]
    resident.start_update()
    for part in parts:
        with weights_file(dataclasses.replace(update, tensors=part)) as file:
            resident.add_weights({"path": file})
    resident.finish_update()
    assert (resident.version, snapshot(resident.policy.model, 7).fingerprint) == (7, update.fingerprint)


def test_a_file_of_weights_lasts_as_long_as_its_context():
    with weights_file(newer()) as file:
        assert os.path.getsize(file) > 8 * sum(tensor.numel() for tensor in newer().tensors.values())
    assert not os.path.exists(file)


def test_weights_with_another_fingerprint_are_refused(path):
    resident = ResidentPolicy(options_for(path))
    resident.start_update()
    resident.add_weights({"update": dataclasses.replace(newer(), fingerprint="0" * 32)})
    with pytest.raises(WeightSyncError, match="weights of version 7: sent 0000"):
        resident.finish_update()
    assert resident.version == -1


def test_the_verbs_of_an_update_come_in_order(path):
    resident = ResidentPolicy(options_for(path))
    with pytest.raises(RuntimeError, match="update_weights: call start_weight_update first"):
        resident.add_weights({"update": newer()})
    with pytest.raises(RuntimeError, match="finish_weight_update: call start_weight_update first"):
        resident.finish_update()
    resident.start_update()
    with pytest.raises(RuntimeError, match="an update has begun already; call finish_weight_update first"):
        resident.start_update()
    with pytest.raises(RuntimeError, match="no weights came; call update_weights first"):
        resident.finish_update()
    resident.start_update()  # a failed update is over


@pytest.mark.parametrize(
    ("infos", "message"),
    [
        ([{"weights": 1}], r"update_info must be .* got the keys \['weights'\]"),
        ([{"update": newer()}, {"update": newer()}], "once"),
        ([{"update": newer()}, {"path": "x"}], "once"),
    ],
)
def test_weights_that_come_in_no_known_way_are_refused(infos, message):
    pending = PendingWeights()
    for info in infos[:-1]:
        pending.add(info)
    with pytest.raises(ValueError, match=message):
        pending.add(infos[-1])


def test_parts_of_different_updates_are_not_mixed(tmp_path):
    pending = PendingWeights()
    for index, metadata in enumerate(
        [{"version": "1", "fingerprint": "a"}, {"version": "2", "fingerprint": "a"}, None]
    ):
        save_file({"w": torch.zeros(2)}, tmp_path / f"{index}.safetensors", metadata=metadata)
    pending.add({"path": str(tmp_path / "0.safetensors")})
    with pytest.raises(ValueError, match=r"is of \(2, 'a'\), but what came before is of \(1, 'a'\)"):
        pending.add({"path": str(tmp_path / "1.safetensors")})
    with pytest.raises(ValueError, match="metadata must hold version and fingerprint"):
        pending.add({"path": str(tmp_path / "2.safetensors")})
