"""Weights arrive as they were sent, or not at all."""

import dataclasses

import pytest
import torch

from oracles.tiny_policy import tiny_model
from redraft.rollout.weights import WeightSyncError, fingerprint, install, snapshot

DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def weights(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return {name: torch.randn(5, 7, generator=source).to(dtype) for name in ("a", "b")}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_fingerprint_sees_two_values_swapped(dtype):
    tensors, before = weights(dtype), fingerprint(weights(dtype))
    tensors["a"][0, [2, 3]] = tensors["a"][0, [3, 2]]
    assert fingerprint(tensors) != before
    rows = weights(dtype)
    rows["b"] = rows["b"][[1, 0, 2, 3, 4]]
    assert fingerprint(rows) != before


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_fingerprint_sees_every_single_bit(dtype):
    before = fingerprint(weights(dtype))
    size = dtype.itemsize
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    for bit in range(8 * size):
        tensors = weights(dtype)
        flat = tensors["b"].view(-1).view(integer)
        flat[11] ^= torch.tensor(1, dtype=torch.int64).bitwise_left_shift(bit).to(integer)
        assert fingerprint(tensors) != before, bit


def test_the_fingerprint_sees_the_sign_of_zero_names_types_and_shapes():
    zero = fingerprint({"a": torch.zeros(4)})
    assert fingerprint({"a": -torch.zeros(4)}) != zero
    assert fingerprint({"b": torch.zeros(4)}) != zero
    assert fingerprint({"a": torch.zeros(2, 2)}) != zero
    assert fingerprint({"a": torch.zeros(4, dtype=torch.float64)}) != zero
    assert fingerprint({"a": torch.zeros(4), "b": torch.zeros(0)}) != zero


def test_the_fingerprint_sees_tensors_exchanged_under_their_names():
    tensors = weights()
    assert fingerprint({"a": tensors["b"], "b": tensors["a"]}) != fingerprint(tensors)


def test_the_fingerprint_does_not_depend_on_order_or_memory_layout():
    tensors = weights()
    turned = {name: tensor.t().contiguous().t() for name, tensor in reversed(tensors.items())}
    assert not turned["a"].is_contiguous()
    assert fingerprint(turned) == fingerprint(tensors)


def test_installed_weights_are_those_of_the_snapshot_bit_for_bit():
    sender, receiver = tiny_model(seed=1), tiny_model(seed=2)
    update = snapshot(sender, version=7)
    install(receiver, update)
    assert update.version == 7
    assert fingerprint(receiver.state_dict()) == update.fingerprint
    for name, tensor in sender.state_dict().items():
        assert torch.equal(receiver.state_dict()[name], tensor)


def test_a_snapshot_is_a_copy_of_weights_and_buffers():
    model = tiny_model()
    update = snapshot(model, 0)
    assert any("expert_bias" in name for name in update.tensors)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor += 1
    assert fingerprint(update.tensors) == update.fingerprint
    assert fingerprint(model.state_dict()) != update.fingerprint


def test_weights_that_changed_on_the_way_are_refused():
    update = snapshot(tiny_model(), 3)
    update.tensors["norm.weight"][4] += 1e-15
    with pytest.raises(WeightSyncError, match=f"version 3: sent {update.fingerprint}, installed"):
        install(tiny_model(seed=2), update)


def test_rounded_weights_are_refused():
    update = snapshot(tiny_model(), 3)
    rounded = {name: tensor.float() for name, tensor in update.tensors.items()}
    with pytest.raises(WeightSyncError, match="installed"):
        install(tiny_model(), dataclasses.replace(update, tensors=rounded))


@pytest.mark.parametrize("problem", ["missing", "unknown", "misshapen"])
def test_weights_that_do_not_fit_are_refused_by_name_before_anything_changes(problem):
    update, model = snapshot(tiny_model(seed=1), 3), tiny_model(seed=2)
    before = fingerprint(model.state_dict())
    if problem == "missing":
        name = "norm.weight"
        del update.tensors[name]
    elif problem == "unknown":
        name = "extra.weight"
        update.tensors[name] = torch.zeros(1)
    else:
        name = "lm_head.weight"
        update.tensors[name] = update.tensors[name][:-1]
    with pytest.raises(WeightSyncError, match=f"version 3 do not fit the policy: {name}"):
        install(model, update)
    assert fingerprint(model.state_dict()) == before


def test_the_fingerprint_sees_exchanged_opposites_and_changes_that_cancel_in_a_sum():
    forward = torch.tensor([0.3, 1.0, -0.3], dtype=torch.float64)
    assert fingerprint({"w": forward}) != fingerprint({"w": forward.flip(0)})
    bits = torch.tensor([0.5, 0.25]).view(torch.int32)
    shifted = (bits + torch.tensor([3, -1], dtype=torch.int32)).view(torch.float32)
    assert fingerprint({"w": bits.view(torch.float32)}) != fingerprint({"w": shifted})
