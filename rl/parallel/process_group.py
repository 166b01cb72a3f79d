"""Join the ranks of a learner into torch's default process group, and tell its errors from all others."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]


class CollectiveError(RuntimeError):
    """An exchange with the other ranks failed: one of them died, hangs or raised."""


@dataclass(frozen=True)
class GangPlace:
    """One rank's place among the ranks of a learner.

    Attributes:
        rank: From 0.
        world: Number of ranks.
        host: Address of rank 0.
        port: There, of the store through which the ranks find each other.
        expert_parallel: Ranks that share out the experts of each layer.
        timeout_s: Longest wait in one exchange, in seconds. It must be shorter than the wait for a whole call, so that
            the error names the exchange.
    """

    rank: int
    world: int
    host: str
    port: int
    expert_parallel: int
    timeout_s: float


def listen(host: str) -> TCPStore:
    """Open the store of a process group on a free port of this machine.

    It must be kept until the group is made: `join` on rank 0 finds it by its port and shares it, so no other process
    can take the port in between.
    """
    return TCPStore(host, 0, is_master=True, wait_for_workers=False, multi_tenant=True)


def join(place: GangPlace, device: torch.device) -> None:
    """Make the default process group; gloo carries what lies on the host, NCCL what lies on a GPU."""
    dist.init_process_group(
        "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl",
        init_method=f"tcp://{place.host}:{place.port}",
        rank=place.rank,
        world_size=place.world,
        timeout=timedelta(seconds=place.timeout_s),
        device_id=None if device.type == "cpu" else torch.device(device.type, device.index or 0),
    )


@contextlib.contextmanager
def collective_errors() -> Iterator[None]:
    """Turn the errors of exchanges into `CollectiveError`; a rank cannot tell by itself whose fault they are."""
    try:
        yield
    except RuntimeError as error:
        # gloo's errors have no class of their own. They name its source file: [.../gloo/transport/tcp/pair.cc:547]
        # A process whose GPU failed cannot use it again, and what it was doing need not fail on another one.
        if isinstance(error, (dist.DistError, torch.AcceleratorError)) or "gloo" in str(error):
            raise CollectiveError(str(error)) from error
        raise
