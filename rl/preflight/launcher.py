"""Handle what launchers and clusters left in the environment: ranks of other processes, and a Ray that may be gone."""

import os
import re
import subprocess
import sys
from collections.abc import MutableMapping

# What torch, accelerate and transformers take for a group of processes: torchrun's, MPI's and accelerate's own.
_RANKS = re.compile(
    r"(LOCAL_|GROUP_|ROLE_|NODE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|MPI_LOCAL(RANKID|NRANKS)"
    r"|(TORCHELASTIC|ACCELERATE|PMI|PMIX|OMPI_COMM_WORLD|MV2_COMM_WORLD)_.*"
)
_JOIN = "import sys, ray; ray.init(address=sys.argv[1], logging_level=50, log_to_driver=False); ray.shutdown()"
_DEADLINE_S = 25.0
_ERROR_LINE = re.compile(r"[\w.]*(Error|Exception): ")


class RayAddressError(ConnectionError):
    """RAY_ADDRESS names no cluster that answers."""


def forget_launcher(environment: MutableMapping[str, str]) -> list[str]:
    """Remove the variables by which a launcher gives a process its rank, because a command is a single process.

    With them, accelerate would wait for the other ranks, or wrap the policy for distribution if there are none.
    Processes started from here, Ray's among them, inherit the environment without them. SLURM's own variables stay: we
    do not read them, and a user's code may.

    Returns:
        The names of the removed variables.
    """
    found = sorted(name for name in environment if _RANKS.fullmatch(name))
    for name in found:
        del environment[name]
    return found


def check_ray_address() -> None:
    """Refuse a RAY_ADDRESS where no cluster answers, before any work; Ray itself would wait for minutes.

    A process of its own asks: Ray's client cannot be interrupted, and ends its process when it gives up.

    Raises:
        RayAddressError: Nothing is there, or no answer came in time.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address in {"", "local"}:
        return
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _JOIN, address], capture_output=True, text=True, timeout=_DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        reason = f"no answer in {_DEADLINE_S:g} s"
    else:
        if asked.returncode == 0:
            return
        lines = [line for line in asked.stderr.splitlines() if _ERROR_LINE.match(line)]
        reason = lines[-1] if lines else "the connection was given up"
    raise RayAddressError(
        f"RAY_ADDRESS={address}: no Ray cluster can be joined there ({reason}); start it, or unset RAY_ADDRESS to run"
        " on this machine alone, or use cluster.backend=inprocess"
    )
