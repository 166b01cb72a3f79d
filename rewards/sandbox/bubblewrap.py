"""Layer 1: every program in namespaces of its own, made by bubblewrap for an unprivileged user.

The program sees the interpreter and the system's shared libraries (read-only), three devices, and one disk of a fixed
size that vanishes. It sees no /proc, no network, no other process and no home folder. Within that, it has the
system-call filter, the limits per process, and one control group where groups are writable. The order matters: the
limit on processes has no effect on root, and stops bubblewrap itself when it is set outside. So the user changes first,
and the limits are set inside.

The program is process 1 of its namespace, so the kernel ends all that it started when it ends. It is also killed when
bubblewrap ends, and bubblewrap is killed when the *thread* that started it ends. So start programs from a thread that
lives as long as they may.
"""

import contextlib
import functools
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile

from redraft.rewards.sandbox import packages, seccomp
from redraft.rewards.sandbox.advice import user_namespaces
from redraft.rewards.sandbox.cgroup import open_group
from redraft.rewards.sandbox.interpreter import claim_lease
from redraft.rewards.sandbox.launch import ENVIRONMENT, spawn
from redraft.rewards.sandbox.prelude import limits_text
from redraft.rewards.sandbox.program import Program, ProgramExit, ProgramLimits, SandboxError, kill_group

# A new session, because a process group reaches out of a namespace: the program could kill bubblewrap, which shares it.
_ISOLATION = "--unshare-all --unshare-user --new-session --die-with-parent --as-pid-1 --cap-drop ALL"
_NOBODY = "--uid 65534 --gid 65534 --hostname sandbox"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_PATIENCE_S = 10.0  # for what takes milliseconds unless the machine is in trouble


class BubblewrapSandbox:
    """A sandbox of layer 1; see the module's docstring.

    Args:
        python: Interpreter for the programs; None finds one.

    Raises:
        SandboxError: A facility is missing; says which and how to get it.
    """

    name = "bubblewrap"

    def __init__(self, python: str | None = None) -> None:
        """Take a lease and what belongs to it, and check that bubblewrap runs. The self-test checks the rest."""
        self._bwrap = _executable()
        instructions = seccomp.compiled(processes=True)
        self.identity, self._interpreter = claim_lease(python)
        self.group = open_group(f"redraft-{self.identity.name}")
        self._filter = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the sandbox
        self._filter.write(instructions)
        self._filter.flush()
        self._program: Program | None = None
        self.packages = packages.NONE
        if trouble := self._trouble():
            self.close()
            raise SandboxError(trouble)

    def start(self, source: str, limits: ProgramLimits, pipes: bool = False) -> Program:
        """See `rewards.sandbox.program.Sandbox`.

        Raises:
            SandboxError: bubblewrap could not make the sandbox.
        """
        self._end_last()
        inside = limits_text(limits, tasks=limits.processes) + self.packages.text(packages.INSIDE) + source
        self._filter.seek(0)  # bubblewrap reads from this description up to its end
        with contextlib.ExitStack() as ends:
            info, info_end = _pipe(ends)
            hold, go = _pipe(ends)
            fds = {"--seccomp": self._filter.fileno(), "--info-fd": info_end, "--block-fd": hold}
            options = [word for option, fd in fds.items() for word in (option, str(fd))]
            command = [*self._command(limits), *options, "--", self._interpreter.file, "-I", "-S", "-c", inside]
            process, channel = spawn(command, self.identity, pipes, list(fds.values()))
            program = Program(process, channel, functools.partial(kill_group, process))
            try:
                child = _child(info)
                if self.group:
                    # The program's disk is memory too.
                    self.group.limit((limits.memory_mb + limits.disk_mb) << 20, limits.processes)
                    self.group.add(child)
                program = BoxedProgram(process, channel, child)
                os.write(go, b"1")  # the program waited until here, so all that it starts is born in the group
            except (OSError, EOFError) as error:
                program.end()
                raise SandboxError(self._trouble() or f"bubblewrap could not start a program: {error}") from error
        self._program = program
        return program

    def close(self) -> None:
        """See `rewards.sandbox.program.Sandbox`."""
        self._end_last()
        if self.group:
            self.group.remove()
            self.group = None
        self._filter.close()
        self.packages.close()
        self.identity.release()

    def _end_last(self) -> None:
        if self._program is not None and self._program.process.returncode is None:
            self._program.end()

    def _command(self, limits: ProgramLimits) -> list[str]:
        command = [self._bwrap, *_ISOLATION.split(), *_NOBODY.split()]
        if _can_forbid_namespaces(self._bwrap):
            command.append("--disable-userns")
        for folder in self._interpreter.libraries():
            if os.path.islink(folder):
                command += ["--symlink", os.readlink(folder), folder]
            else:
                command += ["--ro-bind", folder, folder]
        command += ["--ro-bind", self._interpreter.file, self._interpreter.file]
        command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
        for name, place in self.packages.places.items():
            command += ["--ro-bind", str(place), f"{packages.INSIDE}/{name}"]
        for device in _DEVICES:
            command += ["--dev-bind", device, device]
        command += ["--size", str(limits.disk_mb << 20), "--tmpfs", "/tmp"]
        command += ["--symlink", "/tmp", "/dev/shm"]  # for semaphores, which multiprocessing needs
        # The root and /dev are memory without a size: nothing may be written there.
        return [*command, "--remount-ro", "/", "--chdir", "/tmp"]

    def _trouble(self) -> str | None:
        """Start nothing, to hear why that fails if it does."""
        command = [*self._command(ProgramLimits()), "--", self._interpreter.file, "-I", "-S", "-c", ""]
        answer = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            env=ENVIRONMENT,
            cwd="/",
            user=self.identity.uid,
            group=self.identity.uid,
            extra_groups=self.identity.groups,
        )
        if answer.returncode == 0:
            return None
        said = answer.stderr.strip()[-300:] or f"no message, exit code {answer.returncode}"
        return f"bubblewrap cannot make a sandbox for {self.identity}: {said}. {user_namespaces()}"


class BoxedProgram(Program):
    """A program inside bubblewrap.

    Args:
        process: bubblewrap's own process, which waits outside for the program.
        channel: Our end of the channel.
        child: Process 1 of the program's namespace, by its number here.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", channel: socket.socket, child: int) -> None:
        """Hold on to the child, whose number might be used again after its end."""
        super().__init__(process, channel, self._empty)
        self._child: int | None = os.pidfd_open(child)

    def end(self) -> ProgramExit:
        """See `Program.end`. A signal is in bubblewrap's exit code, as 128 more than its number."""
        ended = super().end()
        if self._child is not None:
            os.close(self._child)
            self._child = None
        if ended.code is not None and ended.code > 128:
            return ProgramExit(None, ended.code - 128, ended.wall_s)
        return ended

    def _empty(self) -> None:
        """Kill process 1, and with it everything in its namespace, and wait until bubblewrap has reaped it.

        To kill bubblewrap instead would leave a zombie to this machine's own process 1.
        """
        if self._child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._child, signal.SIGKILL)
        try:
            self.process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            kill_group(self.process)


def _executable() -> str:
    found = shutil.which("bwrap")
    if found is None:
        raise SandboxError(
            "bubblewrap (`bwrap`) is not on PATH; run `apt-get install bubblewrap` (or dnf, apk, pacman)"
        )
    return found


@functools.cache
def _can_forbid_namespaces(bwrap: str) -> bool:
    """Tell whether bubblewrap can forbid namespaces, as since 0.8; before, only the system-call filter does."""
    return "--disable-userns" in subprocess.run([bwrap, "--help"], capture_output=True, text=True, check=False).stdout


def _pipe(ends: contextlib.ExitStack) -> tuple[int, int]:
    pair = os.pipe()
    for fd in pair:
        ends.callback(os.close, fd)
    return pair


def _child(info: int) -> int:
    """Read the number of process 1 from bubblewrap's description of the sandbox."""
    text = b""
    while b"}" not in text:
        if not select.select([info], [], [], _PATIENCE_S)[0]:
            raise TimeoutError(f"bubblewrap has not started in {_PATIENCE_S:.0f} s")
        piece = os.read(info, 4096)
        if not piece:
            raise EOFError("bubblewrap ended before it had made a sandbox")
        text += piece
    return int(re.findall(rb'"child-pid": *(\d+)', text)[0])
