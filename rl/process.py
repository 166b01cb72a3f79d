"""What the command and the Python API set up in their process before any work, and put back afterwards."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator

from redraft.rl.preflight.launcher import forget_launcher

_VERBOSITY = "TRANSFORMERS_VERBOSITY"
_DEFAULTS = {
    "TOKENIZERS_PARALLELISM": "false",  # it warns where a process forks after its threads have run
    _VERBOSITY: "error",  # AutoTokenizer warns that it does not know our model
}


@contextlib.contextmanager
def prepared_process(say: Callable[[str], None]) -> Iterator[None]:
    """Make this process a single one whose working directory is on the import path, and keep transformers quiet.

    A launcher's variables (`RANK`, `WORLD_SIZE`) would let accelerate wait for ranks that are not there. What the user
    has set of `TOKENIZERS_PARALLELISM` and `TRANSFORMERS_VERBOSITY` stays. At the end of the block the environment, the
    import path and the level of transformers' logger are as they were.

    Args:
        say: Called with one line if variables of a launcher are ignored.
    """
    before = dict(os.environ)
    forgotten = forget_launcher(os.environ)
    if forgotten:
        say(f"ignoring {', '.join(forgotten)} of another launcher: redraft is one process")
    added = {name: value for name, value in _DEFAULTS.items() if name not in before}
    os.environ.update(added)
    with _quiet_transformers() if _VERBOSITY in added else contextlib.nullcontext(), _working_directory_on_path():
        try:
            yield
        finally:
            for name in added:
                os.environ.pop(name, None)
            os.environ.update({name: before[name] for name in forgotten})


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers below errors. An import inside the block sets the level anew, from the environment."""
    logger = logging.getLogger("transformers")
    level = logger.level if "transformers" in sys.modules else logging.WARNING  # the level that its import would set
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _working_directory_on_path() -> Iterator[None]:
    """Find `my_rewards:function` beside the user, after everything that is installed."""
    here = os.getcwd()
    if here in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # somebody removed it
            sys.path.remove(here)
