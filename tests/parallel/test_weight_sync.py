"""Sharded weights arrive whole: several owners send to as many receivers, by broadcast and through files."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from oracles.tiny_policy import tiny_model
from parallel.together import together
from redraft.rl.parallel.shard import make_meshes, shard
from redraft.rl.weight_sync.outbox import Outbox
from redraft.rollout.weights.carry import Meeting
from redraft.rollout.weights.checksum import fingerprint
from redraft.rollout.weights.manifest import Header
from redraft.rollout.worker import RolloutPolicy

BUCKET = 3000
VERSIONS = [(1, None), (1, "perturbed"), (1, "restored"), (1, "checked"), (2, None)]


def grown(model, version):
    """Change the weights as an update would: the same on shards and on the whole."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + version / 8)


def by_broadcast(outbox: Outbox, policy: RolloutPolicy, header: Header) -> None:
    """A thread receives what this rank and the others send."""

    def receive() -> None:
        policy.start_update(header)
        for number in header.numbers:
            policy.take(number)
        policy.finish_update()

    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(receive)
        for number in header.numbers:
            outbox.send(number)
        received.result()


def by_files(outbox: Outbox, policy: RolloutPolicy, header: Header) -> None:
    policy.start_update(header)
    for number in header.numbers:
        payloads = [None] * dist.get_world_size()
        dist.all_gather_object(payloads, outbox.send(number))
        policy.take(number, *payloads)
        dist.barrier()  # the owner may write its next bucket
    policy.finish_update()


def join(outbox: Outbox, policy: RolloutPolicy) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    place = [outbox.meet("127.0.0.1", 60.0) if rank == 0 else None]
    dist.broadcast_object_list(place, src=0)
    meeting = Meeting(*place[0], 2 * world, "weights-0", 60.0)
    with ThreadPoolExecutor(1) as pool:
        joined = pool.submit(policy.join, meeting, world + rank)
        outbox.join(meeting)
        joined.result()


def all_settings(settings: list[tuple[int, torch.dtype]]) -> list[list[tuple[int, int, int, int]]]:
    return [some_versions(*one) for one in settings]


def some_versions(expert_parallel: int, dtype: torch.dtype) -> list[tuple[int, int, int, int]]:
    """Send versions in each way; return (version in place, buckets, their owners, fingerprint in place)."""
    found = []
    for carrier, way in [("collective", by_broadcast), ("shared_memory", by_files)]:
        model, policy = tiny_model(seed=1), RolloutPolicy(tiny_model(seed=2, dtype=dtype))
        shard(model, make_meshes("cpu", expert_parallel))
        outbox = Outbox(model, BUCKET)
        if carrier == "collective":
            join(outbox, policy)
        for version, canary in VERSIONS:
            if canary is None:
                grown(model, version)
            header = outbox.of_version(version, canary).open(policy.wanted(), carrier)
            way(outbox, policy, header)
            outbox.close()
            owners = {header.manifest.buckets[number].owner for number in header.numbers}
            state = fingerprint(policy.model.state_dict())
            found.append((policy.version, len(header.numbers), len(owners), state))
    return found


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("world", "settings"), [(2, [(2, torch.float64), (1, torch.bfloat16)]), (4, [(2, torch.float64)])]
)
def test_every_receiver_holds_the_weights_of_all_owners_bit_for_bit(world, settings):
    every = together(world, all_settings, settings)
    assert all(one == every[0] for one in every)
    for (_, dtype), found in zip(settings, every[0], strict=True):
        whole, expected = tiny_model(seed=1), {}
        for version in (1, 2):
            grown(whole, version)
            expected[version] = fingerprint(tiny_like(whole, dtype).state_dict())
        for first in (0, len(VERSIONS)):
            steps = found[first : first + len(VERSIONS)]
            assert [step[1] for step in steps] == [steps[0][1], 1, 1, 0, steps[0][1]]
            assert (steps[0][0], steps[3][0], steps[4][0]) == (1, 1, 2)
            assert steps[0][2] == world
            assert steps[0][3] == steps[2][3] == steps[3][3] == expected[1] != steps[1][3]
            assert steps[4][3] == expected[2]


def tiny_like(model, dtype):
    """The same weights, rounded as an engine of that type gets them."""
    other = tiny_model(dtype=dtype)
    with torch.no_grad():
        for name, tensor in other.state_dict().items():
            tensor.copy_(model.state_dict()[name])
    return other
