"""Attack texts run in a sandbox: what they reached, how they ended, and that nothing of them is left."""

import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from redraft.rewards.sandbox.choose import open_sandbox
from redraft.rewards.sandbox.program import Program, ProgramExit, ProgramLimits, Sandbox, SandboxError

LAYERS = ["bubblewrap", "landlock"]
LIMITS = ProgramLimits(cpu_s=5, memory_mb=128, processes=12, file_mb=2, disk_mb=8, open_files=32)

TELL = """
import json, os, sys
CHANNEL = int(sys.argv[1])
def tell(value):
    os.write(CHANNEL, json.dumps(value, default=repr).encode() + b"\\n")
"""


@dataclass(frozen=True)
class Reached:
    """What a program told, line by line, its end, and whether that came before its time was over."""

    told: list[Any]
    ended: ProgramExit
    silent: bool


def usable(layer: str) -> Sandbox:
    """A tested slot of a layer. Where it does not work, that is a failure in CI and a skip elsewhere."""
    try:
        return open_sandbox(layer, allow_unsafe=layer == "unsafe")
    except SandboxError as error:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(str(error))
        raise


def run(sandbox: Sandbox, source: str, wall_s: float = 5.0, limits: ProgramLimits = LIMITS) -> Reached:
    """Run an attack until it is silent (all its processes have ended) or its time is over, then end it."""
    program = sandbox.start(TELL + source, limits)
    with program.channel.dup() as watch:
        text = read(program.channel, time.monotonic() + wall_s)
        silent = text.endswith(b"\0")
        if silent:
            program.process.wait(5)
        ended = program.end()
        assert gone(watch, 3.0), "a process of the program still holds the channel"
    assert left(sandbox) == []
    return Reached([json.loads(line) for line in text.rstrip(b"\0").splitlines()], ended, silent)


def read(channel: socket.socket, until: float) -> bytes:
    """What arrives before a moment, with a closing zero byte if the other end was closed."""
    text = b""
    while (seconds := until - time.monotonic()) > 0:
        channel.settimeout(seconds)
        try:
            piece = channel.recv(1 << 16)
        except TimeoutError:
            return text
        if not piece:
            return text + b"\0"
        text += piece
    return text


def gone(watch: socket.socket, wait_s: float) -> bool:
    """Whether nobody holds the other end of a channel any more."""
    return read(watch, time.monotonic() + wait_s).endswith(b"\0")


def left(sandbox: Sandbox) -> list[str]:
    """Processes of the sandbox's slot, after a moment for the kernel to bury them; where it has none, nothing."""
    uid = getattr(getattr(sandbox, "identity", None), "uid", None)
    found: list[str] = []
    for _ in range(100):
        found = [] if uid is None else [f"{pid} {command(pid)}" for pid in processes() if owner(pid) == uid]
        if not found:
            break
        time.sleep(0.01)
    return found


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def owner(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def started(sandbox: Sandbox, source: str, limits: ProgramLimits = LIMITS) -> Program:
    """A program that has told its first line, which is dropped."""
    program = sandbox.start(TELL + source, limits)
    program.channel.settimeout(10)
    assert program.channel.recv(1 << 10)
    return program
