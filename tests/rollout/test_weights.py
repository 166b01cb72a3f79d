"""Weights arrive as they were sent, or not at all."""

import dataclasses

import pytest
import torch
from torch import nn

from oracles.tiny_policy import tiny_model
from redraft.rl.weight_sync.outbox import STAGE, Outbox
from redraft.rollout.weights.bucket import pack, some_rows
from redraft.rollout.weights.checksum import fingerprint, part_sum
from redraft.rollout.weights.incoming import transfer
from redraft.rollout.weights.manifest import Header, Wanted, WeightSyncError, make_manifest
from redraft.rollout.worker import RolloutPolicy

DTYPES = [torch.float32, torch.bfloat16, torch.float64]
BUCKET = 1500  # bytes, so that the tiny network takes some dozens


def weights(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return {name: torch.randn(5, 7, generator=source).to(dtype) for name in ("a", "b")}


# --- the checksum ---------------------------------------------------------------------------------------------------


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


def test_the_fingerprint_sees_tensors_exchanged_under_their_names():
    tensors = weights()
    assert fingerprint({"a": tensors["b"], "b": tensors["a"]}) != fingerprint(tensors)


def test_the_fingerprint_does_not_depend_on_order_or_memory_layout():
    tensors = weights()
    turned = {name: tensor.t().contiguous().t() for name, tensor in reversed(tensors.items())}
    assert not turned["a"].is_contiguous()
    assert fingerprint(turned) == fingerprint(tensors)


def test_the_fingerprint_sees_exchanged_opposites_and_changes_that_cancel_in_a_sum():
    forward = torch.tensor([0.3, 1.0, -0.3], dtype=torch.float64)
    assert fingerprint({"w": forward}) != fingerprint({"w": forward.flip(0)})
    bits = torch.tensor([0.5, 0.25]).view(torch.int32)
    shifted = (bits + torch.tensor([3, -1], dtype=torch.int32)).view(torch.float32)
    assert fingerprint({"w": bits.view(torch.float32)}) != fingerprint({"w": shifted})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(9,), (6, 7), (5, 8), (6, 3, 4), ()])
def test_the_sums_of_shards_add_up_to_the_fingerprint(dtype, shape):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    wanted, rows = Wanted.of("w", tensor), tensor.shape[0] if shape else 1
    for cut in range(rows + 1):
        parts = [(0, cut), (cut, rows - cut)]
        total = sum(int(part_sum(some_rows(tensor, *part), wanted, part[0], chunk=3)) for part in parts if part[1])
        assert total % 2**64 == fingerprint({"w": tensor})


# --- the manifest ---------------------------------------------------------------------------------------------------


def test_rows_of_several_owners_are_cut_as_the_example_says():
    manifest = make_manifest([Wanted("w", (5, 4), "float32")], [{"w": (0, 3)}, {"w": (3, 2)}], 64)
    assert [(bucket.owner, bucket.nbytes) for bucket in manifest.buckets] == [(0, 48), (1, 32)]
    assert [(part.first, part.rows) for bucket in manifest.buckets for part in bucket.parts] == [(0, 3), (3, 2)]


def test_every_row_is_sent_once_in_buckets_of_bounded_size_and_the_owners_take_turns():
    tensors = [
        Wanted("bias", (3,), "float32"),
        Wanted("experts", (8, 2, 5), "bfloat16"),
        Wanted("head", (7, 4), "bfloat16"),
        Wanted("scale", (), "float32"),
    ]
    both = {"bias": (0, 3), "scale": (0, 1)}
    held = [{**both, "experts": (0, 4), "head": (0, 4)}, {**both, "experts": (4, 4), "head": (4, 3)}]
    manifest = make_manifest(tensors, held, bucket_bytes=48)
    sent: dict[str, list[int]] = {}
    for bucket in manifest.buckets:
        assert bucket.nbytes <= 48
        end = 0
        for part in bucket.parts:
            wanted = manifest.tensors[part.tensor]
            first, rows = held[bucket.owner][wanted.name]
            assert first <= part.first <= part.first + part.rows <= first + rows
            assert part.offset >= end
            assert part.offset % 8 == 0
            end = part.offset + part.rows * wanted.row_bytes
            sent.setdefault(wanted.name, []).extend(range(part.first, part.first + part.rows))
        assert end <= bucket.nbytes
    assert {name: sorted(rows) for name, rows in sent.items()} == {
        wanted.name: list(range(wanted.rows)) for wanted in tensors
    }
    assert [bucket.owner for bucket in manifest.buckets[:4]] == [0, 1, 0, 1]
    assert make_manifest(tensors[::-1], held, 48).digest == manifest.digest
    assert make_manifest(tensors, held, 64).digest != manifest.digest


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([{"w": (0, 2)}, {"w": (3, 2)}], r"the learner holds no row 2 of w \(5 rows\)"),
        ([{}], "the learner holds no w"),
        ([{"w": (0, 5), "x": (0, 1)}], "the rollout engine's policy has no x, which the learner sends"),
    ],
)
def test_rows_that_are_missing_or_unknown_are_refused_by_name(held, message):
    with pytest.raises(WeightSyncError, match=message):
        make_manifest([Wanted("w", (5, 2), "float32")], held, 64)


# --- an update ------------------------------------------------------------------------------------------------------


def sender_of(model: nn.Module, version: int = 7) -> Outbox:
    return Outbox(model, BUCKET).of_version(version)


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def started(seed: int = 1, version: int = 7) -> tuple[Outbox, RolloutPolicy, Header]:
    sender, policy = sender_of(tiny_model(seed=seed), version), RolloutPolicy(tiny_model(seed=2), version=6)
    header = sender.open(policy.wanted(), "direct")
    policy.start_update(header)
    return sender, policy, header


@pytest.mark.parametrize("carrier", ["direct", "object_store", "shared_memory"])
def test_installed_weights_are_those_of_the_sender_bit_for_bit(carrier):
    sender, policy = tiny_model(seed=1), RolloutPolicy(tiny_model(seed=2))
    assert transfer(sender_of(sender), policy, carrier) == policy.version == 7
    assert_same(sender, policy.model)


def test_weights_are_rounded_to_the_types_of_the_engine_and_the_expert_bias_is_not():
    sender, policy = tiny_model(seed=1), RolloutPolicy(tiny_model(seed=2, dtype=torch.bfloat16))
    with torch.no_grad():
        sender.layers[1].mlp.gate.expert_bias.fill_(1 / 3)
    transfer(sender_of(sender), policy)
    assert_same(sender.to(torch.bfloat16), policy.model)
    assert policy.model.layers[1].mlp.gate.expert_bias[0] == torch.tensor(1 / 3)


def test_the_version_moves_after_the_last_bucket_only():
    sender, policy, header = started()
    assert len(header.numbers) > 5
    for number in header.numbers:
        assert policy.version == -1
        policy.take(number, sender.send(number))
    assert policy.version == -1
    assert policy.finish_update() == policy.version == 7


def test_a_bucket_that_is_dropped_is_refused_and_the_next_complete_update_is_taken():
    sender, policy, header = started()
    for number in header.numbers[:-2] + header.numbers[-1:]:
        policy.take(number, sender.send(number))
    with pytest.raises(WeightSyncError, match=rf"version 7: 1 of {len(header.numbers)} buckets never came, the first"):
        policy.finish_update()
    assert policy.version == -1
    with pytest.raises(RuntimeError, match="finish_weight_update: no update has begun, or it failed"):
        policy.finish_update()
    assert transfer(sender, policy) == 7


def test_a_bucket_that_comes_twice_or_in_the_place_of_another_is_refused():
    sender, policy, header = started()
    twin = next(n for n in header.numbers[1:] if len(sender.send(n)) == len(sender.send(0)))
    with pytest.raises(WeightSyncError, match=f"bucket {twin} was expected, and bucket 0 of version 7 came$"):
        policy.take(twin, sender.send(0))
    sender, policy, header = started()
    policy.take(0, sender.send(0))
    with pytest.raises(WeightSyncError, match="bucket 0 is not expected now"):
        policy.take(0, sender.send(0))
    assert policy.version == -1


def test_a_bucket_of_another_version_or_network_is_refused():
    sender, policy, _ = started()
    old = sender_of(sender._model, version=6)
    old.open(policy.wanted(), "direct")
    with pytest.raises(WeightSyncError, match=r"bucket 0 was expected, and bucket 0 of version 6 came$"):
        policy.take(0, old.send(0))
    sender, policy, _ = started()
    other = Outbox(sender._model, 2 * BUCKET).of_version(7)
    other.open(policy.wanted(), "direct")
    bucket = other.send(0)
    sized = bucket.new_zeros(len(sender.send(0)))
    sized[-32:] = bucket[-32:]
    with pytest.raises(WeightSyncError, match="of another network or cut otherwise"):
        policy.take(0, sized)


def test_a_perturbed_or_swapped_tensor_is_refused_with_its_bucket():
    sender, policy, header = started()
    bucket = sender.send(0).clone()
    bucket[5] ^= 1
    with pytest.raises(WeightSyncError, match=r"version 7: bucket 0 \(.*\): sent [0-9a-f]{16}, installed"):
        policy.take(0, bucket)
    sender, policy, header = started()
    number = next(n for n in header.numbers if len(header.manifest.buckets[n].parts) > 1)
    (_, _, _, first), (_, _, _, second) = header.manifest.buckets[number].parts[:2]
    swapped = sender.send(number).clone()
    swapped[first : first + 32] = sender.send(number)[second : second + 32]
    swapped[second : second + 32] = sender.send(number)[first : first + 32]
    with pytest.raises(WeightSyncError, match="installed"):
        policy.take(number, swapped)
    assert policy.version == -1


@pytest.mark.parametrize("cut", ["short", "nothing"])
def test_bytes_that_are_no_bucket_are_refused(cut):
    sender, policy, _ = started()
    payload = sender.send(0)[:-8] if cut == "short" else None
    with pytest.raises(WeightSyncError, match=r"bytes was expected, and \d+ came|came without its bytes"):
        policy.take(0, payload)


def test_a_file_that_is_not_on_this_machine_is_refused_with_a_remedy():
    sender, policy = sender_of(tiny_model()), RolloutPolicy(tiny_model(seed=2))
    header = sender.open(policy.wanted(), "shared_memory")
    policy.start_update(header)
    payload = sender.send(0)
    sender.close()  # deletes its files
    with pytest.raises(WeightSyncError, match=r"is not on this machine; .*use object_store or collective"):
        policy.take(0, payload)


def test_a_tensor_of_another_shape_is_refused_before_anything_changes():
    sender, policy = sender_of(tiny_model(vocab_size=9)), RolloutPolicy(tiny_model(seed=2), version=3)
    with pytest.raises(WeightSyncError, match=r"word_embeddings.weight is \(9, 16\) in the learner and \(8, 16\)"):
        transfer(sender, policy)
    assert_same(tiny_model(seed=2), policy.model)
    assert policy.version == 3


# --- a part of an update --------------------------------------------------------------------------------------------


def test_a_perturbed_tensor_is_restored_bit_for_bit_and_costs_one_bucket_each_way():
    model, policy = tiny_model(seed=1), RolloutPolicy(tiny_model(seed=2))
    sender, plain = sender_of(model), tiny_model(seed=1)
    transfer(sender, policy)
    assert transfer(sender.of_version(7, "perturbed"), policy) == 7 + STAGE
    assert not torch.equal(policy.model.norm.weight, plain.norm.weight)
    assert_same(model, policy.model)
    assert transfer(sender.of_version(7, "restored"), policy) == 7 + 2 * STAGE
    assert len(sender._header.numbers) == 1
    assert transfer(sender.of_version(7, "checked"), policy) == policy.version == 7
    assert sender._header.numbers == ()
    assert_same(plain, model)
    assert_same(plain, policy.model)


def test_a_part_is_refused_where_other_weights_or_none_are_in_place():
    sender, policy = sender_of(tiny_model(seed=1)), RolloutPolicy(tiny_model(seed=2), version=6)
    for version in (6, -1):
        message = f"a part of the weights .* of version 7, but version {version} is in place; send a complete update"
        with pytest.raises(WeightSyncError, match=message):
            transfer(sender.of_version(7, "perturbed"), policy)
    assert transfer(sender.of_version(7, "perturbed", complete=True), policy) == 7 + STAGE
    transfer(sender.of_version(7, "restored", complete=True), policy)
    assert_same(tiny_model(seed=1), policy.model)


def test_buckets_are_packed_in_place_and_no_other_memory_is_written():
    model = tiny_model()
    policy = RolloutPolicy(tiny_model(seed=2))
    header = sender_of(model).open(policy.wanted(), "direct")
    tensors = model.state_dict()
    number = 0
    flat = torch.full((header.manifest.buckets[number].nbytes + 32 + 8,), 7, dtype=torch.uint8)
    pack(flat[:-8], header, number, lambda name, first, rows: some_rows(tensors[name], first, rows))
    assert flat[-8:].tolist() == [7] * 8
    assert dataclasses.is_dataclass(policy)
