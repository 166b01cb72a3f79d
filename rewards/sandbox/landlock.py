"""Layer 2, where namespaces are refused (an ordinary container): Landlock, the system-call filter, limits, a user.

A program is one process, with threads, that reads the interpreter's files and computes. It can start no process, send
no signal, make no socket and write no file. So the limits per process bound all of it, and nothing is left when that
process is killed. Compared with layer 1:

* A program that needs a temporary file or a process of its own fails here and works in layer 1.
* It shares the machine's process numbers, host name and file names: whether a path exists, its size and its owner can
  be asked (Landlock governs no `stat`).
* Without root it runs under our own user id, so its threads are counted together with all our own, and the limit is
  what exists at the start plus its own.

A program is killed when the *thread* that started it ends. So start programs from a thread that lives as long as they
may.
"""

import ctypes
import inspect
import os
from functools import partial
from typing import Any

from redraft.rewards.sandbox import advice, confine, packages, seccomp
from redraft.rewards.sandbox.interpreter import claim_lease
from redraft.rewards.sandbox.launch import spawn
from redraft.rewards.sandbox.prelude import limits_text
from redraft.rewards.sandbox.program import Program, ProgramLimits, SandboxError, kill_group

_WRITES = ["/dev/null"]
_READS = ["/dev/zero", "/dev/urandom"]


class LandlockSandbox:
    """A sandbox of layer 2; see the module's docstring.

    Args:
        python: Interpreter for the programs; None finds one.

    Raises:
        SandboxError: A facility is missing; says which and how to get it.
    """

    name = "landlock"

    def __init__(self, python: str | None = None) -> None:
        """Take a lease. The self-test checks whether programs are confined."""
        if landlock_version() < 1:
            raise SandboxError(f"this kernel refuses Landlock, which {advice.LANDLOCK}")
        instructions = seccomp.compiled(processes=False).hex()
        self.identity, self._interpreter = claim_lease(python)
        reads = [*self._interpreter.libraries(), *filter(os.path.exists, ["/etc/ld.so.cache"]), *_READS]
        self._arguments: dict[str, Any] = {"reads": reads, "writes": _WRITES, "instructions": instructions}
        self._program: Program | None = None
        self.packages = packages.NONE

    def start(self, source: str, limits: ProgramLimits, pipes: bool = False) -> Program:
        """See `rewards.sandbox.program.Sandbox`."""
        self._end_last()
        links = [self.packages.linked()] if self.packages.names else []
        arguments = self._arguments | {"reads": [*self._arguments["reads"], *links, *self.packages.folders]}
        call = f"\nconfine({os.getpid()}, **{arguments!r})\n{self.packages.text(*links or [''])}"
        text = (
            limits_text(limits, tasks=limits.processes + self.identity.others())
            + inspect.getsource(confine)
            + call
            + source
        )
        process, channel = spawn([self._interpreter.file, "-I", "-S", "-c", text], self.identity, pipes)
        self._program = Program(process, channel, partial(kill_group, process))
        return self._program

    def close(self) -> None:
        """See `rewards.sandbox.program.Sandbox`."""
        self._end_last()
        self.packages.close()
        self.identity.release()

    def _end_last(self) -> None:
        if self._program is not None and self._program.process.returncode is None:
            self._program.end()


def landlock_version() -> int:
    """Return the kernel's version of Landlock; below 1 where there is none or it is switched off."""
    return int(ctypes.CDLL(None, use_errno=True).syscall(444, None, ctypes.c_size_t(0), 1))
