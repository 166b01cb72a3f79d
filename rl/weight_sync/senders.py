"""What a rank of the learner does with a bucket that it packed, by the carrier of the recipe's `cluster.weight_sync`.

| carrier | bytes go | called on |
| direct | as the tensor itself, inside one process | the owner |
| object_store | as an array, which Ray puts into its store and every receiver maps | the owner |
| shared_memory | on a CPU in a file in /dev/shm; on a GPU as handles of its memory | the owner; on GPUs every rank |
| collective | by broadcast, gloo or NCCL, in a group of all ranks and receivers | every rank |

**Guarantees**
    * At most two buckets of a rank are in memory: bucket n may be read while n + 1 is packed, and n + 2 replaces n.

**Assumes**
    * The caller asks for bucket n + 2 only after every receiver has installed bucket n.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist

from redraft.rollout.weights.bucket import Flat
from redraft.rollout.weights.carry import BroadcastGroup, Carrier, gpu_name

SHARED_MEMORY = Path("/dev/shm")


@runtime_checkable
class Way(Protocol):
    """How one rank sends a bucket; `everyone` says whether all ranks are called, or its owner alone."""

    everyone: bool

    def send(self, size: int, owner: int, pack: Callable[[Flat], None] | None) -> Any:
        """Send a bucket of `size` bytes; the rank that owns it is given `pack`, which writes it.

        Returns:
            What brings the bytes to a receiver; None where they come otherwise, or from another rank.
        """
        ...

    def close(self) -> None:
        """Give the memory of the last buckets back."""
        ...


class Objects:
    """Hand over the bytes themselves: the tensor inside one process, an array to an object store."""

    everyone = False

    def __init__(self, device: torch.device, as_array: bool) -> None:
        self._device, self._as_array = device, as_array

    def send(self, size: int, owner: int, pack: Callable[[Flat], None] | None) -> Any:
        """Pack the bucket; see `Way.send`."""
        if pack is None:
            return None
        flat = torch.empty(size, dtype=torch.uint8, device=self._device)
        pack(flat)
        return flat.cpu().numpy() if self._as_array else flat

    def close(self) -> None:
        """Do nothing: no bucket is kept."""


class Files:
    """Pack into a file that receivers on this machine map, so that no bytes are copied on the way."""

    everyone = False

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory | None = None
        self._sent = 0

    def send(self, size: int, owner: int, pack: Callable[[Flat], None] | None) -> Any:
        """Write the bucket; see `Way.send`."""
        if pack is None:
            return None
        if self._folder is None:
            place = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
            self._folder = tempfile.TemporaryDirectory(prefix="redraft-weights-", dir=place)
        path = Path(self._folder.name) / f"{self._sent % 2}.bytes"
        path.unlink(missing_ok=True)  # receivers that still map it keep what they see
        self._sent += 1
        pack(torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8))
        return {"path": str(path)}

    def close(self) -> None:
        """Delete the files."""
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = None


class Handles:
    """Hand out a handle of GPU memory on every rank: each receiver opens that of the rank on its own GPU."""

    everyone = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: list[Flat] = []

    def send(self, size: int, owner: int, pack: Callable[[Flat], None] | None) -> Any:
        """Bring the bucket to every rank of the learner, and share it there; see `Way.send`."""
        from torch.multiprocessing.reductions import reduce_tensor

        flat = torch.empty(size, dtype=torch.uint8, device=self._device)
        if pack is not None:
            pack(flat)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.broadcast(flat, src=owner)
        torch.cuda.synchronize(self._device)
        self._kept = [*self._kept[-1:], flat]
        return {"gpus": {gpu_name(self._device): reduce_tensor(flat)}}

    def close(self) -> None:
        """Drop the last buckets."""
        self._kept = []


class Broadcasts:
    """Broadcast the bucket from its owner to the other ranks and to all receivers."""

    everyone = True

    def __init__(self, group: BroadcastGroup) -> None:
        self._group = group

    def send(self, size: int, owner: int, pack: Callable[[Flat], None] | None) -> None:
        """Send or receive the bucket; see `Way.send`."""
        flat = torch.empty(size, dtype=torch.uint8, device=self._group.device)
        if pack is not None:
            pack(flat)
        if self._group.device.type == "cuda":
            torch.cuda.synchronize(self._group.device)
        self._group.broadcast(flat, owner)

    def close(self) -> None:
        """Do nothing: no bucket is kept."""


def make_way(carrier: Carrier, device: torch.device, group: BroadcastGroup | None) -> Way:
    """Make what a carrier's name stands for on a device.

    Raises:
        RuntimeError: `collective` without a group.
    """
    if carrier == "shared_memory":
        return Handles(device) if device.type == "cuda" else Files()
    if carrier == "collective":
        if group is None:
            raise RuntimeError("weight sync: no group to broadcast in; the receivers must join one first")
        return Broadcasts(group)
    return Objects(device, as_array=carrier == "object_store")


def asks_every_rank(carrier: Carrier, on_gpu: bool) -> bool:
    """Whether all ranks take part in the sending of a bucket, or its owner alone."""
    return carrier == "collective" or (carrier == "shared_memory" and on_gpu)
