"""The self-test of a layer before it is used: a program inside it attacks, and every attack must fail."""

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

from redraft.rewards.sandbox.prelude import rlimits
from redraft.rewards.sandbox.program import Program, ProgramLimits, Sandbox, SandboxError

_BURIAL_S = 2.0  # for what takes the kernel milliseconds: to end what a dead process 1 leaves
_LIMITS = ProgramLimits(cpu_s=5, wall_s=10.0, memory_mb=128, processes=8, file_mb=2, disk_mb=4)

# Each probe is an attack. It returns how far it came; an error means that it was stopped.
_PROBES = """
import json, os, resource, socket, sys, time
def environment():
    return [name for name in os.environ if name not in ("LC_ALL", "LC_CTYPE", "PWD")]
def secret():
    return open(f"/proc/{parent}/environ", "rb").read(1)
def file():
    return open(canary).read()
def network():
    return socket.create_connection(("127.0.0.1", port), 1).getsockname()
def parent_signalled():
    if parent == os.getpid():  # a number of another namespace
        return []
    os.kill(parent, 0)
    return "allowed"
def superuser():
    return [] if os.getuid() else "is root"
def limits():
    kept = {kind: resource.getrlimit(getattr(resource, kind)) for kind in expected}
    return {kind: pair for kind, pair in kept.items() if pair != (expected[kind], expected[kind])}
def memory():
    return len(bytearray(MEMORY))
def disk():
    for number in range(DISK // FILE + 1):
        with open(f"{number}", "wb", buffering=0) as file:
            if file.write(bytes(FILE)) < FILE:
                return []
    return DISK
def processes():
    # None of these ends by itself; the first is in a session of its own.
    started = 0
    while started <= PROCESSES:
        if os.fork() == 0:
            if started == 0:
                os.setsid()
            time.sleep(10)
            os._exit(0)
        started += 1
    return started
def attempt(probe):
    try:
        return probe()
    except (OSError, MemoryError):
        return []
probes = [environment, secret, file, network, parent_signalled, superuser, limits, memory, disk, processes]
reached = {probe.__name__: attempt(probe) for probe in probes}
os.write(int(sys.argv[1]), json.dumps(reached, default=repr).encode() + b"\\n")
os._exit(3)
"""


def self_test(sandbox: Sandbox) -> None:
    """Attack a layer from inside.

    Args:
        sandbox: A fresh sandbox; it can be used afterwards.

    Raises:
        SandboxError: A program did not run or an attack succeeded; the message names each.
    """
    failures = _attack(sandbox)
    if failures:
        reasons = "; ".join(f"{probe}: {reached}" for probe, reached in failures.items())
        raise SandboxError(f"the self-test of the {sandbox.name} layer failed, so it is not used: {reasons}"[:2000])


def _attack(sandbox: Sandbox) -> dict[str, object]:
    """Run one program that attacks; return what the attacks reached, by probe, nothing where all were stopped."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        # Every user may read it, so only the layer protects it.
        os.chmod(folder, 0o755)
        canary = Path(folder, "canary")
        canary.write_text("read")
        facts = {
            "parent": os.getpid(),
            "canary": str(canary),
            "port": listener.getsockname()[1],
            "expected": rlimits(_LIMITS),
            "MEMORY": _LIMITS.memory_mb << 20,
            "DISK": _LIMITS.disk_mb << 20,
            "FILE": _LIMITS.file_mb << 20,
            "PROCESSES": _LIMITS.processes,
        }
        program = sandbox.start(f"globals().update({facts!r})\n{_PROBES}", _LIMITS, pipes=True)
        with program.channel.dup() as watch:
            return _judge(program, _line(program.channel), watch)


def _judge(program: Program, answer: bytes, watch: socket.socket) -> dict[str, object]:
    with contextlib.suppress(subprocess.TimeoutExpired):
        program.process.wait(_LIMITS.wall_s if answer else 0.1)
    said = _now(program.process.stderr)
    ended = program.end()
    if not answer:
        return {"program": f"ended as {ended} without an answer; it said: {said}"}
    reached = {probe: how for probe, how in json.loads(answer).items() if how}
    if ended.code != 3:
        reached["exit code"] = f"{ended} instead of 3"
    # A process that still lives holds the other end of the channel.
    watch.settimeout(_BURIAL_S)
    try:
        watch.recv(1)
    except TimeoutError:
        reached["straggler"] = "a process outlives the program"
    return reached


def _line(channel: socket.socket) -> bytes:
    """Read what the program answers; nothing if it ends or is late before the answer is whole."""
    until, text = time.monotonic() + _LIMITS.wall_s, b""
    while not text.endswith(b"\n"):
        channel.settimeout(max(until - time.monotonic(), 0.001))
        try:
            piece = channel.recv(1 << 16)
        except OSError:
            return b""
        if not piece:
            return b""
        text += piece
    return text


def _now(pipe: IO[bytes] | None) -> str:
    """Read what a pipe holds without waiting for its end, which a process that outlives the program may hold."""
    if pipe is None:
        return ""
    os.set_blocking(pipe.fileno(), False)
    return (pipe.read() or b"").decode(errors="replace").strip()[-400:]
