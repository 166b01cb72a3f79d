"""Run a function on several gloo ranks, each a process; every rank's traceback is in the failure."""

import os
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def together(world: int, function: Callable[..., Any], *arguments: Any, deadline_s: float = 300.0) -> list[Any]:
    """Call `function(*arguments)` on every rank of a new process group; return the results by rank.

    Args:
        world: Number of ranks.
        function: Of a module that a new process can import; its result is anything that `torch.save` takes.
        arguments: For every rank.
        deadline_s: For all ranks together; a rank that is late is named.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        place = (world, port, folder, function, arguments)
        ranks = [get_context("spawn").Process(target=_rank, args=(rank, *place)) for rank in range(world)]
        for process in ranks:
            process.start()
        deadline = time.monotonic() + deadline_s
        try:
            for process in ranks:
                process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for process in ranks:
                process.kill()
        failed = [file.read_text() for file in sorted(folder.glob("*.failed"))]
        silent = [rank for rank in range(world) if not list(folder.glob(f"{rank}.*"))]
        if failed or silent:
            raise AssertionError("\n".join([*failed, f"ranks without an answer within {deadline_s} s: {silent}"]))
        return [torch.load(folder / f"{rank}.done", weights_only=False) for rank in range(world)]


def _rank(rank: int, world: int, port: int, folder: Path, function: Callable[..., Any], arguments: Any) -> None:
    """Write the result into `folder`, which outlives this process."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=120))
        torch.save(function(*arguments), folder / f"{rank}.saving")
        (folder / f"{rank}.saving").rename(folder / f"{rank}.done")
        dist.destroy_process_group()
    except Exception:
        (folder / f"{rank}.failed").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        raise
