"""No isolation at all: the program runs with our rights, files and network. Used only where a recipe names it."""

import sys
import tempfile
from functools import partial

from redraft.rewards.sandbox import packages
from redraft.rewards.sandbox.identity import Identity
from redraft.rewards.sandbox.launch import spawn
from redraft.rewards.sandbox.prelude import limits_text
from redraft.rewards.sandbox.program import Program, ProgramLimits, kill_group


class UnsafeSandbox:
    """A fresh process with limits and nothing else; see the module's docstring."""

    name = "unsafe"

    def __init__(self) -> None:
        """Start without packages."""
        self.packages = packages.NONE

    def start(self, source: str, limits: ProgramLimits, pipes: bool = False) -> Program:
        """See `rewards.sandbox.program.Sandbox`."""
        path = self.packages.text(self.packages.linked()) if self.packages.names else ""
        command = [sys.executable, "-I", "-S", "-c", limits_text(limits) + path + source]
        process, channel = spawn(command, Identity(), pipes, folder=tempfile.gettempdir())
        return Program(process, channel, partial(kill_group, process))

    def close(self) -> None:
        """See `rewards.sandbox.program.Sandbox`."""
        self.packages.close()
