"""A process group of one rank, with NCCL on a GPU: the calls are those of many ranks."""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist

from redraft.rl.parallel.alone import join_alone
from redraft.rl.parallel.shard import Meshes


@contextlib.contextmanager
def one_rank(device: str) -> Iterator[Meshes]:
    """Open the group and its meshes, and close it at the end."""
    try:
        yield join_alone(torch.device(device))
    finally:
        dist.destroy_process_group()
