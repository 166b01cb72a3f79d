"""One program that is not trusted: what it may use, how it is reached, how it ended."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from redraft.rewards.result import RewardError

if TYPE_CHECKING:
    from redraft.rewards.sandbox.packages import Packages


class SandboxError(RewardError):
    """A layer of isolation is missing, broken, or refused a program; the message says what to do."""


@dataclass(frozen=True)
class ProgramLimits:
    """What one program may use, together with all that it starts.

    Attributes:
        cpu_s: CPU seconds of any one process. It is the main limit, because it does not depend on what else runs here.
        wall_s: Seconds from start to end, for programs that sleep; the side that talks to the program keeps it.
        memory_mb: Address space of any one process; of all of them where the layer can count (cgroup).
        processes: Processes and threads alive at once.
        file_mb: Size of any one file.
        disk_mb: Size of all files, where the layer can count.
        open_files: Open descriptors of any one process.
    """

    cpu_s: int = 5
    wall_s: float = 20.0
    memory_mb: int = 512
    processes: int = 32
    file_mb: int = 16
    disk_mb: int = 32
    open_files: int = 64


@dataclass(frozen=True)
class ProgramExit:
    """How a program ended: its exit code, or the signal that killed it (ours is SIGKILL), and its wall seconds."""

    code: int | None
    signal: int | None
    wall_s: float


class Program:
    """A running program. Our end of its channel is a stream socket; with pipes, ``process`` has stdin, stdout, stderr.

    Args:
        process: The process that was started; leader of its own session and process group.
        channel: Our end of the socket whose other end the program has.
        kill: Kills every process of the program, in the way of the layer; may be called more than once.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", channel: socket.socket, kill: Callable[[], None]) -> None:
        """Take over a process that was just started."""
        self.process, self.channel, self._kill = process, channel, kill
        self.started = time.monotonic()

    def end(self) -> ProgramExit:
        """Kill what is left of the program, reap it and close what we hold of it.

        A program that has ended by itself keeps its own exit code.
        """
        self.process.poll()
        self._kill()
        code = self.process.wait()
        self.channel.close()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        seconds = time.monotonic() - self.started
        return ProgramExit(code, None, seconds) if code >= 0 else ProgramExit(None, -code, seconds)


@runtime_checkable
class Sandbox(Protocol):
    """A layer of isolation. One program at a time; not thread-safe: every worker has its own.

    Attributes:
        name: Of the layer.
        packages: What programs may import beside Python's library.
    """

    name: str
    packages: "Packages"

    def start(self, source: str, limits: ProgramLimits, pipes: bool = False) -> Program:
        """Start ``python -I -S -c source FD`` inside, where FD is the descriptor of the program's end of the channel.

        Args:
            source: Trusted Python text (our runner, not the candidate), which reads what to do from the channel.
            limits: In force before the first line of ``source`` runs.
            pipes: Give the program pipes as stdin, stdout and stderr; else all three are ``/dev/null``.
        """
        ...

    def close(self) -> None:
        """Kill what still runs, and give back what the layer holds (a control group, a folder, a user id)."""
        ...


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and its group, if they still exist."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
