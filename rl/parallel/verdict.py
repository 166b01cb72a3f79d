"""Let ranks succeed or fail together: an error of one rank is raised on all of them, and none is left waiting."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from redraft.rl.parallel.lockstep import Lockstep


@contextlib.contextmanager
def fail_together(lockstep: Lockstep) -> Iterator[None]:
    """Raise an error of the block on every rank, after all ranks have left their blocks.

    A rank that fails leaves its block early. So after a line of the block that can fail on one rank alone, no line may
    wait for the other ranks.

    Raises:
        BaseException: The rank's own error if its block raised one, else that of the first rank whose block did.
    """
    try:
        yield
    except BaseException as error:
        lockstep.gather(_without_frames(error))
        raise
    failed = [error for error in lockstep.gather(None) if error is not None]
    if failed:
        raise failed[0]


def _without_frames(error: BaseException) -> BaseException:
    """Copy an error so that it can be sent to other ranks; its causes and tracebacks stay here."""
    try:
        return type(error)(*error.args)
    except TypeError:  # its constructor takes something else than it keeps
        return RuntimeError(f"{type(error).__name__}: {error}")


def check_shared_folder(folder: Path, lockstep: Lockstep) -> None:
    """Refuse a folder that is another one on another node: each rank writes a file there, and looks for those of all.

    Args:
        folder: Made if it is missing.
        lockstep: The ranks.

    Raises:
        OSError: A rank does not see the file of another, or cannot write there.
    """
    mine = folder / f".rank-{uuid4().hex}"
    try:
        with fail_together(lockstep):
            folder.mkdir(parents=True, exist_ok=True)
            mine.touch()
        names = lockstep.gather(mine.name)
        unseen = lockstep.gather([rank for rank, name in enumerate(names) if not (folder / name).exists()])
    finally:
        mine.unlink(missing_ok=True)
    for rank, others in enumerate(unseen):
        if others:
            raise OSError(
                f"output_dir is not shared between the nodes: in {folder}, rank {rank} of the learner does not see what"
                f" rank {others[0]} wrote; use a folder on a file system that all nodes mount"
            )
