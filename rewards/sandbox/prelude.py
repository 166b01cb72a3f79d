"""Python text that runs inside, before the runner's: it sets the limits that the kernel keeps per process."""

from redraft.rewards.sandbox.program import ProgramLimits

_TEXT = """\
import resource
for kind, most in {limits!r}.items():
    kind = getattr(resource, kind)
    hard = resource.getrlimit(kind)[1]  # a limit that is lower already stays, as it cannot be raised
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))
del resource, kind, most, hard
"""


def rlimits(limits: ProgramLimits) -> dict[str, int]:
    """Return the limits that the kernel keeps per process, by their name in `resource`.

    The number of processes is not among them: the kernel counts it per user, so it depends on the user id of a layer.
    """
    return {
        "RLIMIT_CPU": limits.cpu_s,
        "RLIMIT_AS": limits.memory_mb << 20,
        "RLIMIT_FSIZE": limits.file_mb << 20,
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_CORE": 1,  # no core file; with 0, a program that collects them would still get one
    }


def limits_text(limits: ProgramLimits, tasks: int | None = None) -> str:
    """Return Python text that puts the limits in force.

    Args:
        limits: What the program may use.
        tasks: Processes and threads that its user may have, itself included; None for no such limit.
    """
    kept = rlimits(limits)
    if tasks is not None:
        kept["RLIMIT_NPROC"] = tasks
    return _TEXT.format(limits=kept)
