"""The machine that a plan is made for: what is here, or what the options of the command describe."""

import os
import shutil
import subprocess
from dataclasses import dataclass

GIB = 2**30
CARD_GIB = 79.6
"""What a card sold as 80 GB reports, in GiB."""
RESERVED_BYTES = 2 * GIB
"""For the CUDA context, NCCL's buffers and cuBLAS's workspace."""
FRAGMENTATION = 1.07
"""Allocated over used memory of torch's caching allocator."""
_QUERY = ["nvidia-smi", "--query-gpu=memory.total,name", "--format=csv,noheader,nounits"]
_QUERY_S = 1.5


@dataclass(frozen=True)
class Machine:
    """GPUs in nodes of equal size; rates are those that are reached, not those of a data sheet.

    Without GPUs everything runs on one host, whose memory takes the place of the card's. The default rates are an
    H100's: 40 % of 989 Tflop/s, NVLink in one direction, one 400 Gb/s port per GPU, PCIe 5.

    Attributes:
        gpus: All of them, on all nodes; 0 for a host without any.
        card_bytes: Memory of one GPU, or of the host without GPUs.
        gpus_per_node: GPUs that NVLink joins.
        flops: Floating-point operations per second of one GPU, in bfloat16.
        memory_rate: Bytes per second between a GPU and its memory.
        node_rate: Bytes per second that a GPU sends inside its node.
        network_rate: Bytes per second that a GPU sends to other nodes.
        host_rate: Bytes per second between a GPU and the host's memory.
    """

    gpus: int
    card_bytes: float
    gpus_per_node: int = 8
    flops: float = 400e12
    memory_rate: float = 3.35e12
    node_rate: float = 450e9
    network_rate: float = 50e9
    host_rate: float = 50e9

    @property
    def usable_bytes(self) -> float:
        """Bytes of one card that tensors can fill: 72.5 GiB of a card sold as 80 GB."""
        return (self.card_bytes - RESERVED_BYTES) / FRAGMENTATION


def size_text(size: float) -> str:
    """Write a number of bytes in the largest unit of which it has at least one: `30.28 GiB`."""
    for unit, scale in (("TiB", 2**40), ("GiB", GIB), ("MiB", 2**20)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size / 1024:.0f} KiB" if size else "0"


def gpus_here() -> tuple[int, float]:
    """Count the GPUs of this machine, and return the bytes of the smallest one; 0 and 0 without any.

    The driver's own program is asked, because importing torch would take longer than the plan.
    """
    if shutil.which(_QUERY[0]) is None:
        return 0, 0.0
    try:
        answer = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_QUERY_S, check=True).stdout
        sizes = [float(line.split(",")[0]) * 2**20 for line in answer.splitlines() if line.strip()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0, 0.0
    return len(sizes), min(sizes, default=0.0)


def host_bytes() -> float:
    """Return the bytes of this host's memory."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def choose_machine(gpus: int | None, card_gib: float | None, gpus_per_node: int | None) -> Machine:
    """Take what the options describe, and what is here where they say nothing.

    Args:
        gpus: All GPUs; None counts those of this machine.
        card_gib: Memory of one; None is this machine's, or that of a card sold as 80 GB.
        gpus_per_node: None is 8, or all GPUs of this machine.
    """
    found, smallest = gpus_here()
    count = found if gpus is None else gpus
    if not count:
        return Machine(0, card_gib * GIB if card_gib else host_bytes())
    card = card_gib * GIB if card_gib else smallest or CARD_GIB * GIB
    return Machine(count, card, gpus_per_node or (found if gpus is None else 8))
