"""One rank as a process group of its own.

A sharded network casts its weights for products and keeps gradients in float32. So a learner on one GPU takes the
sharded path too: the same code as on many ranks, with collectives that reach nobody else.
"""

import atexit

import torch
import torch.distributed as dist

from redraft.rl.parallel.shard import Meshes, make_meshes


def join_alone(device: torch.device) -> Meshes:
    """Make the default process group of this process alone, unless there is one, and return its meshes.

    Raises:
        RuntimeError: The process is one rank of several.
    """
    if not dist.is_initialized():
        on_gpu = device.type == "cuda"
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=dist.HashStore(),  # pyright: ignore[reportPrivateImportUsage]
            rank=0,
            world_size=1,
            device_id=torch.device("cuda", device.index or 0) if on_gpu else None,
        )
        atexit.register(_leave)
    if dist.get_world_size() > 1:
        raise RuntimeError(f"this process is rank {dist.get_rank()} of {dist.get_world_size()} and cannot be alone")
    return make_meshes(device.type, 1)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
