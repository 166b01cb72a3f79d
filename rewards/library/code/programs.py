"""One program in a sandbox that reads stdin and prints to stdout."""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from redraft.rewards.library.code.session import RUNNER_SOURCE, children_cpu_s, exit_text, ran_out_of_cpu, slept
from redraft.rewards.library.code.wire import dumps
from redraft.rewards.processes.frames import send_frame
from redraft.rewards.sandbox.program import Program, ProgramLimits, Sandbox

PROGRAM_SOURCE = RUNNER_SOURCE + "\nrun_program(int(sys.argv[1]))\n"
MAX_OUTPUT_BYTES = 4 << 20
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Output:
    """What one run of a program came to.

    Attributes:
        stdout: What it printed.
        failure: Why its output does not count: an exit code, a signal, too much output; "" where it counts.
        timed_out: Whether it passed its limit of CPU or wall time.
        blameless: Whether the machine may be to blame; see `code.session.BreachError`.
    """

    stdout: str
    failure: str = ""
    timed_out: bool = False
    blameless: bool = False


@runtime_checkable
class ProgramRunner(Protocol):
    """Runs programs, and returns what they print; that is not trusted."""

    def run(self, sources: list[str], stdin: str, limits: ProgramLimits, wall_s: float) -> Output:
        """Run Python texts, one after the other, as one program."""
        ...


class SandboxedPrograms:
    """Runs every program in a fresh start of a sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def run(self, sources: list[str], stdin: str, limits: ProgramLimits, wall_s: float) -> Output:
        """See `ProgramRunner`."""
        before = children_cpu_s()
        program = self._sandbox.start(PROGRAM_SOURCE, limits, pipes=True)
        deadline = program.started + wall_s
        talk = _Talk(program, stdin.encode("utf-8", "surrogatepass"))
        try:
            with contextlib.suppress(OSError):  # a program that ends at once is judged by its end
                send_frame(program.channel, dumps(sources), deadline)
            in_time = talk.run(deadline)
        finally:
            ended = program.end()
        stdout = talk.stdout.decode("utf-8", "surrogateescape")  # bytes that are not UTF-8 then equal no expected text
        used_s = children_cpu_s() - before
        if not in_time:
            blameless = not slept(used_s, limits)
            return Output(stdout, "no end within the wall time", timed_out=True, blameless=blameless)
        if len(talk.stdout) > MAX_OUTPUT_BYTES:
            return Output("", f"printed more than {MAX_OUTPUT_BYTES} bytes")
        if ended.code == 0:
            return Output(stdout)
        if ran_out_of_cpu(ended, used_s, limits):
            return Output(stdout, f"out of CPU time ({limits.cpu_s} s)", timed_out=True)
        last = talk.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return Output(stdout, f"{exit_text(ended)}: {last}", blameless=ended.signal == signal.SIGKILL)


@dataclass
class _Talk:
    """Feeds stdin and drains stdout and stderr of a program until it ends."""

    program: Program
    stdin: bytes
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)

    def run(self, deadline: float) -> bool:
        """Tell whether the program ended, or printed too much, before the deadline."""
        process = self.program.process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for pipe in (process.stdin, process.stdout, process.stderr):
            os.set_blocking(pipe.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdin, selectors.EVENT_WRITE)
            selector.register(process.stdout, selectors.EVENT_READ, self.stdout)
            selector.register(process.stderr, selectors.EVENT_READ, self.stderr)
            while selector.get_map() and len(self.stdout) <= MAX_OUTPUT_BYTES:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                ended = process.poll() is not None  # then there is no more output than what is in the pipes
                events = selector.select(0 if ended else min(remaining, 0.05))
                for key, _ in events:
                    self._serve(selector, key)
                if ended and not any(key.data is not None for key, _ in events):
                    return True
        return len(self.stdout) > MAX_OUTPUT_BYTES or self._wait(process, deadline)

    def _serve(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        done = self._write(key.fd) if key.data is None else self._read(key.fd, key.data)
        if done:
            selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]

    def _write(self, descriptor: int) -> bool:
        try:
            self.stdin = self.stdin[os.write(descriptor, self.stdin[:_CHUNK]) if self.stdin else 0 :]
        except BrokenPipeError:  # the program does not read the rest
            return True
        return not self.stdin

    def _read(self, descriptor: int, into: bytearray) -> bool:
        chunk = os.read(descriptor, _CHUNK)
        into += chunk
        if into is self.stderr:
            del into[:-_CHUNK]
        return not chunk

    def _wait(self, process: "subprocess.Popen[bytes]", deadline: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
            return True
        return False
