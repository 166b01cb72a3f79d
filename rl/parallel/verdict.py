"""Let ranks succeed or fail together: an error of one rank is raised on all of them, and none is left waiting."""

import contextlib
from collections.abc import Iterator

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
