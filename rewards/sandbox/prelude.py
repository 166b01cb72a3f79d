"""Python text that runs inside, before the runner's: it sets the limits that the kernel keeps per process."""

from redraft.rewards.sandbox.program import ProgramLimits

_TEXT = """\
import resource
for kind, most in {limits!r}.items():
    kind = getattr(resource, kind)
    hard = resource.getrlimit(kind)[1]  # one that is lower already stays: nobody may raise it
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))
del resource, kind, most, hard
"""


def rlimits(limits: ProgramLimits) -> dict[str, int]:
    """The limits that the kernel keeps per process, by their name in `resource`.

    Not the number of processes: that one counts per user, so it depends on whose user id a layer uses.
    """
    return {
        "RLIMIT_CPU": limits.cpu_s,
        "RLIMIT_AS": limits.memory_mb << 20,
        "RLIMIT_FSIZE": limits.file_mb << 20,
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_CORE": 1,  # no core file, and unlike 0 none for a program that collects them either
    }


def limits_text(limits: ProgramLimits, tasks: int | None = None) -> str:
    """Text that puts the limits in force.

    Args:
        limits: What the program may use.
        tasks: Processes and threads that its user may have, itself included; None sets no such limit.
    """
    kept = rlimits(limits)
    if tasks is not None:
        kept["RLIMIT_NPROC"] = tasks
    return _TEXT.format(limits=kept)
