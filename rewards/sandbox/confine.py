"""Runs inside layer 2 before the runner, as text. It imports little, because each import slows every program's start.

The order matters: what needs a call that the filter refuses comes before the filter.
"""

import ctypes
import os

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_NO_NEW_PRIVILEGES, _SECCOMP, _DEATH_SIGNAL = 38, 22, 1
_KILL = 9
_READ, _WRITE = 1 << 2 | 1 << 3, 1 << 1  # read a file, read a folder; write a file
# All file rights that each version of Landlock can govern, by version; version 5 added device control.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_FILE_RIGHTS_NOW = (1 << 16) - 1
_libc = ctypes.CDLL(None, use_errno=True)


def confine(parent: int, reads: list[str], writes: list[str], instructions: str) -> None:
    """Give up everything but reading some files.

    Args:
        parent: Process whose end ends us.
        reads: Folders and files to read.
        writes: Files (devices) to write as well.
        instructions: The system-call filter, in hexadecimal.
    """
    _check("death signal", _libc.prctl(_DEATH_SIGNAL, _KILL, 0, 0, 0))
    if os.getppid() != parent:
        os._exit(1)  # it ended before it could be watched
    _check("no new privileges", _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _restrict_files(reads, writes)
    _filter_calls(bytes.fromhex(instructions))


def _restrict_files(reads: list[str], writes: list[str]) -> None:
    version = _check("Landlock", _libc.syscall(_CREATE, None, ctypes.c_size_t(0), 1))
    files = _FILE_RIGHTS.get(version, _FILE_RIGHTS_NOW)
    network = 3 if version >= 4 else 0  # bind and connect of TCP
    scopes = 3 if version >= 6 else 0  # abstract sockets and signals: only within
    rights = (ctypes.c_uint64 * 3)(files, network, scopes)
    size = 8 * (3 if version >= 6 else 2 if version >= 4 else 1)
    rules = _check("Landlock", _libc.syscall(_CREATE, rights, ctypes.c_size_t(size), 0))
    for paths, allowed in ((reads, _READ), (writes, _READ | _WRITE)):
        for path in paths:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            kept = allowed if os.path.isdir(path) else allowed & ~(1 << 3)
            rule = kept.to_bytes(8, "little") + place.to_bytes(4, "little")  # the kernel's struct is packed
            _check(path, _libc.syscall(_ADD, rules, 1, rule, 0))
            os.close(place)
    _check("Landlock", _libc.syscall(_RESTRICT, rules, 0))
    os.close(rules)


def _filter_calls(instructions: bytes) -> None:
    class _Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]

    program = _Program(len(instructions) // 8, instructions)
    _check("seccomp", _libc.prctl(_SECCOMP, 2, ctypes.byref(program), 0, 0))


def _check(what: str, result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result
