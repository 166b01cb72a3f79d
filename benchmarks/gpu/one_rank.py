"""A process group of one rank, with NCCL on a GPU: the calls are those of many ranks."""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from redraft.rl.parallel.shard import Meshes, make_meshes


@contextlib.contextmanager
def one_rank(device: str) -> Iterator[Meshes]:
    """Open the group and its meshes, and close it at the end."""
    on_gpu = device == "cuda"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=dist.HashStore(),
        rank=0,
        world_size=1,
        device_id=torch.device("cuda", 0) if on_gpu else None,
    )
    try:
        yield make_meshes(device, 1)
    finally:
        dist.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all parts of one that is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
