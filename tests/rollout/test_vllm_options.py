"""What of the vLLM engine works without vLLM: its arguments, its errors, the policy that comes and goes."""

import importlib.util
import pickle
import weakref

import pytest
import torch

from redraft.rl.weight_sync.outbox import Outbox
from redraft.rollout.config import DecodeConfig, Limits
from redraft.rollout.decoding.slots import Slots
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.request import Request
from redraft.rollout.trajectory import Prompt
from redraft.rollout.vllm.engine import VLLMEngine, VLLMRolloutWorker, engine_arguments
from redraft.rollout.vllm.options import WorkerOptions
from redraft.rollout.vllm.policy import Asleep, ResidentPolicy
from redraft.rollout.weights.checksum import fingerprint
from redraft.rollout.weights.manifest import Header, Manifest, WeightSyncError
from tiny import build_bare_policy
from vllm_setup import LIMITS, SAMPLED, SHAPE, TOKENS, make_policy, options_for


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return make_policy(tmp_path_factory.mktemp("policy"))


def newer(version: int = 7) -> Outbox:
    return Outbox(build_bare_policy(SHAPE, "float64", "cpu", seed=5), 2**14).of_version(version)


def send(sender: Outbox, resident: ResidentPolicy) -> None:
    header = sender.open(resident.wanted(), "direct")
    resident.start_update()
    resident.add_weights({"header": header})
    for number in header.numbers:
        resident.add_weights({"number": number, "bucket": sender.send(number)})
    resident.finish_update()


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
    before = fingerprint(resident.policy.model.state_dict())
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
    assert fingerprint(resident.policy.model.state_dict()) == before


def test_weights_that_a_sync_will_bring_are_not_read_from_the_folder_again(path, monkeypatch):
    resident = ResidentPolicy(options_for(path).model_copy(update={"weights_by_sync": True}))
    monkeypatch.setattr("redraft.rollout.vllm.policy.load_rollout_policy", None)
    weights = [weakref.ref(parameter) for parameter in resident.policy.model.parameters()]
    resident.sleep(2)
    assert {weight() for weight in weights} == {None}
    resident.wake_weights()
    send(newer(), resident)
    assert resident.version == 7
    assert fingerprint(resident.policy.model.state_dict()) == fingerprint(newer()._model.state_dict())


def test_a_session_that_was_given_back_says_so():
    slots = Slots(Asleep(), torch.device("cpu"), TOKENS, block_length=4, num_slots=1, length=64)
    slots.admit(Request(Prompt("p", (3, 4, 5), seed=0), SAMPLED), [1], committed=0)
    with pytest.raises(RuntimeError, match="the engine is asleep; wake_up first"):
        slots.step()


# --- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", ["direct", "shared_memory"])
def test_weights_are_installed_bucket_by_bucket(path, carrier):
    resident, sender = ResidentPolicy(options_for(path)), newer()
    header = sender.open(resident.wanted(), carrier)
    assert len(header.numbers) > 3
    resident.join({})
    resident.start_update()
    resident.add_weights({"header": header if carrier == "direct" else pickle.dumps(header)})
    for number in header.numbers:
        resident.add_weights({"number": number, "bucket": sender.send(number)})
        assert resident.version == -1
    resident.finish_update()
    sender.close()
    assert resident.version == 7
    assert fingerprint(resident.policy.model.state_dict()) == fingerprint(sender._model.state_dict())


def test_wrong_bytes_end_an_update_and_another_one_can_begin(path):
    resident, sender = ResidentPolicy(options_for(path)), newer()
    header = sender.open(resident.wanted(), "direct")
    for _ in range(2):
        resident.start_update()
        resident.add_weights({"header": header})
        wrong = sender.send(0)
        wrong[0] ^= 1
        with pytest.raises(WeightSyncError, match="installed"):
            resident.add_weights({"number": 0, "bucket": wrong})
        assert resident.version == -1
        with pytest.raises(RuntimeError, match="finish_weight_update: call start_weight_update first"):
            resident.finish_update()


def test_the_verbs_of_an_update_come_in_order(path):
    resident, header = ResidentPolicy(options_for(path)), Header(7, Manifest((), ()), ())
    with pytest.raises(RuntimeError, match="update_weights: call start_weight_update first"):
        resident.add_weights({"header": header})
    with pytest.raises(RuntimeError, match="finish_weight_update: call start_weight_update first"):
        resident.finish_update()
    resident.start_update()
    with pytest.raises(RuntimeError, match="an update has begun already; call finish_weight_update first"):
        resident.start_update()
    with pytest.raises(RuntimeError, match="finish_weight_update: no update has begun, or it failed"):
        resident.finish_update()
    resident.start_update()  # a failed update is over


@pytest.mark.parametrize(
    ("verb", "info", "message"),
    [
        ("add_weights", {"weights": 1}, r"update_info must be .* got the keys \['weights'\]"),
        ("join", {"port": 1}, r"init_info must be empty or .* got the keys \['port'\]"),
    ],
)
def test_weights_that_come_in_no_known_way_are_refused(path, verb, info, message):
    resident = ResidentPolicy(options_for(path))
    resident.start_update()
    with pytest.raises(ValueError, match=message):
        getattr(resident, verb)(info)
