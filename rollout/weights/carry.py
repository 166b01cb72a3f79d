"""How the bytes of a bucket come to a receiver: as an object, in a file of this machine, on this GPU, or by broadcast.

The sender's end is `rl.weight_sync.senders`. Importing this loads nothing of torch.distributed.
"""

import datetime
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from redraft.rollout.weights.bucket import Flat
from redraft.rollout.weights.manifest import WeightSyncError

Carrier = Literal["direct", "object_store", "shared_memory", "collective"]
"""direct: a tensor inside one process; the others are values of the recipe's `cluster.weight_sync`."""


class Meeting(NamedTuple):
    """Where the members of a broadcast find each other.

    Attributes:
        host: Machine of the learner's rank 0.
        port: Of the store there.
        world: Ranks of the learner and receivers together.
        name: Of this group; a later group of the same members has another one.
        timeout_s: Longest wait of a broadcast, in seconds.
    """

    host: str
    port: int
    world: int
    name: str
    timeout_s: float


class BroadcastGroup:
    """One member of a group of the learner's ranks, which come first, and receivers.

    It is no part of torch's default process group, which a receiver does not have and the learner uses otherwise.
    """

    def __init__(self, meeting: Meeting, place: int, device: torch.device, store: Any = None) -> None:
        """Join; returns when all members have.

        Args:
            meeting: Where.
            place: Of this member.
            device: Of the buckets: on a GPU NCCL carries them, else gloo.
            store: The meeting's store, on the rank that holds it.
        """
        import torch.distributed as dist

        timeout = datetime.timedelta(seconds=meeting.timeout_s)
        store = store or dist.TCPStore(meeting.host, meeting.port, is_master=False, timeout=timeout)
        store = dist.PrefixStore(meeting.name, store)
        if device.type == "cuda":
            from torch.distributed import ProcessGroupNCCL

            options = ProcessGroupNCCL.Options()
            options._timeout = timeout
            self._group: Any = ProcessGroupNCCL(store, place, meeting.world, options)
        else:
            self._group = dist.ProcessGroupGloo(store, place, meeting.world, timeout)
        self.device = device

    def broadcast(self, flat: Flat, sender: int) -> None:
        """Send or receive a bucket; returns when its bytes are there."""
        from torch.distributed import BroadcastOptions

        options = BroadcastOptions()
        options.rootRank, options.rootTensor = sender, 0
        self._group.broadcast([flat], options).wait()
        if self.device.type == "cuda":  # NCCL's wait orders streams only
            torch.cuda.synchronize(self.device)


def gpu_name(device: torch.device) -> str:
    """Return what identifies a GPU in every process, whatever number it has there."""
    return str(torch.cuda.get_device_properties(device).uuid)


def joined(payloads: Sequence[Any]) -> Any:
    """Make one payload of those of several ranks, of which only handles of GPUs are more than one."""
    given = [payload for payload in payloads if payload is not None]
    if len(given) < 2:
        return given[0] if given else None
    return {"gpus": {name: handle for one in given for name, handle in one["gpus"].items()}}


def open_payload(payload: Any, size: int, device: torch.device) -> Flat:
    """Return the bytes that the sender handed over, without a copy where that is possible.

    Args:
        payload: A tensor or array, `{"path": file}`, or `{"gpus": {name: handle}}`.
        size: Bytes of the bucket with its trailer.
        device: Of the receiver.

    Raises:
        WeightSyncError: There is no payload, it is not on this machine or GPU, or it has another size.
    """
    if payload is None:
        raise WeightSyncError("a bucket of weights came without its bytes")
    if isinstance(payload, Mapping):
        given = payload
        flat = _from_gpu(given["gpus"], device) if "gpus" in given else _from_file(Path(given["path"]), size)
    else:
        flat = _from_object(payload)
    if len(flat) != size:
        raise WeightSyncError(f"a bucket of {size} bytes was expected, and {len(flat)} came")
    return flat.to(device)


def _from_object(payload: Tensor | np.ndarray) -> Flat:
    if isinstance(payload, Tensor):
        return payload
    with warnings.catch_warnings():
        # An array out of an object store cannot be written to, which torch warns of; it is only read here.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(payload)


def _from_file(path: Path, size: int) -> Flat:
    if not path.is_file() or path.stat().st_size != size:
        raise WeightSyncError(
            f"{path} with {size} bytes is not on this machine; cluster.weight_sync: shared_memory needs the learner and"
            " all rollout actors on one machine, use object_store or collective"
        )
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)


def _from_gpu(handles: Mapping[str, Any], device: torch.device) -> Flat:
    """Open the handle of the rank that shares this process's GPU."""
    name = gpu_name(device)
    if name not in handles:
        raise WeightSyncError(
            f"no rank of the learner is on GPU {name}; cluster.weight_sync: shared_memory needs one beside every"
            " rollout actor, use collective"
        )
    rebuild, arguments = handles[name]
    arguments = list(arguments)
    arguments[6] = device.index or 0  # the GPU's number in this process
    return rebuild(*arguments)
