"""Whose rights a program runs with: under root, a user id that nothing else on this machine uses; else our own.

The kernel counts processes per user id, and not at all for root. Processes of one user id may signal each other. So as
root every sandbox takes a lease: a user id of its own, held by a lock that ends with the process that took it. Two
training runs on one machine thus never share one. The range is free: distributions hand out smaller ids, and the
dynamic users of systemd begin at 61184.
"""

import contextlib
import fcntl
import itertools
import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

from redraft.rewards.sandbox.program import SandboxError

USER_IDS = range(60600, 61180)
LOCKS = Path("/run/redraft-slots")  # earlier versions lock here too, so their runs and ours never share a user id
_own = itertools.count()


class Identity:
    """A user id to run programs with; without a lease it is our own.

    Args:
        uid: The user and group id to change to; None keeps ours.
        lock: Descriptor whose lock is the lease.
    """

    def __init__(self, uid: int | None = None, lock: int | None = None) -> None:
        """Name the identity, for messages and for what is kept under its name."""
        self.uid, self._lock = uid, lock
        self.name = f"own-{os.getpid()}-{next(_own)}" if uid is None else f"lease-{uid}"

    def __str__(self) -> str:
        return f"user id {os.geteuid() if self.uid is None else self.uid}"

    @property
    def groups(self) -> list[int] | None:
        """Supplementary groups, as `subprocess.Popen` wants them: none under a lease, else ours."""
        return None if self.uid is None else []

    def others(self) -> int:
        """Count the processes and threads that are not a program's but count against its limit, which is per user."""
        return sum(map(_threads, _processes(os.geteuid()))) if self.uid is None else 0

    def kill_all(self) -> None:
        """Kill every process of the leased user, with that user's rights, so that no other can be hit."""
        if self.uid is None or not _processes(self.uid):
            return
        # It kills itself too, so how it ended is not checked.
        kill = f"import os; os.setgroups([]); os.setresgid({self.uid}, {self.uid}, {self.uid}); "
        kill += f"os.setresuid({self.uid}, {self.uid}, {self.uid}); os.kill(-1, {int(signal.SIGKILL)})"
        subprocess.run([sys.executable, "-I", "-S", "-c", kill], check=False, stderr=subprocess.DEVNULL, timeout=10)

    def release(self) -> None:
        """Give the lease back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def claim(user_ids: range = USER_IDS, locks: Path = LOCKS) -> Identity:
    """Lease the first free user id if we are root, and end what a killed run left under it; else stay who we are.

    Args:
        user_ids: User ids to choose from.
        locks: Folder of the lock files; every run on this machine must name the same.

    Raises:
        SandboxError: No user id is free, or root may not change its user here.
    """
    if os.geteuid() != 0:
        return Identity()
    try:
        locks.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SandboxError(f"{locks} keeps two runs from sharing a user id and cannot be made: {error}") from error
    for uid in user_ids:
        if _has_name(uid):
            continue
        lock = os.open(locks / str(uid), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return _emptied(Identity(uid, lock))
    raise SandboxError(
        f"no free user id between {user_ids.start} and {user_ids.stop - 1}: each sandbox holds one by a lock in {locks}"
        "; end other runs, or use fewer workers"
    )


def _emptied(identity: Identity) -> Identity:
    try:
        subprocess.run(["/bin/true"], check=True, user=identity.uid, group=identity.uid, extra_groups=identity.groups)
    except (OSError, subprocess.SubprocessError) as error:
        identity.release()
        raise SandboxError(
            f"we are root but may not become {identity} ({error}): start the container with "
            "`--cap-add SETUID --cap-add SETGID --cap-add KILL` and user ids up to 65535, or run as an ordinary user"
        ) from error
    identity.kill_all()
    return identity


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _processes(uid: int) -> list[Path]:
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it may have ended meanwhile
                if entry.stat().st_uid == uid:
                    found.append(Path(entry.path))
    return found


def _threads(process: Path) -> int:
    try:
        return len(os.listdir(process / "task"))
    except OSError:  # it has ended
        return 0
