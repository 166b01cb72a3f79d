"""Attacks on the files, processes and sockets around a program, one test each, in both layers.

Each attack is first run without a sandbox, where it must succeed: a broken attack proves nothing. So these are attacks
that hurt nothing: signal 0, a file opened but not written, a mount in a namespace of its own.
"""

import errno
import os
import platform
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sandboxes import LIMITS, run, started, usable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sandboxes need Linux")
NEEDS_ROOT = {"change user", "change groups", "mount", "chroot", "sysrq", "raw disk", "make device", "raise limits"}
NEEDS_ROOT |= {"chown", "interpreter", "priority"}
# Some machines refuse these to root too (fewer capabilities, other devices), so that they cannot be tried outside.
MACHINES_DIFFER = {"environment of process 1", "raise limits", "sysrq", "raw disk"}

HELP = """
import ctypes, fcntl, resource, signal, socket, stat, struct
libc = ctypes.CDLL(None, use_errno=True)
def must(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def forked(action):
    # In a child, so that nothing of it stays with us; what it returns is told by its exit code.
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise OSError("the child failed")
def mount():
    must(libc.unshare(0x20000))
    must(libc.mount(b"none", b"/", None, 0x44000, None))
    must(libc.mount(b"none", work.encode(), b"tmpfs", 0, None))
def trace():
    must(libc.ptrace(16, bystander, 0, 0))
    os.waitpid(bystander, 0x40000000)
    libc.ptrace(17, bystander, 0, 0)
def chroot():
    os.chroot(work)
def clone_user():
    if must(libc.syscall(220 if arm else 56, 0x10000000 | 17, 0, 0, 0, 0)) == 0:
        os._exit(0)
"""

# name: an attack; it is stopped if it raises or leaves a false value in `reached`.
ATTACKS = {
    "tcp": "socket.create_connection(('127.0.0.1', tcp), 2)",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', udp))",
    "listen": "socket.create_server(('127.0.0.1', 0))",
    "unix socket": "socket.socket(socket.AF_UNIX).connect(unix)",
    "abstract socket": "socket.socket(socket.AF_UNIX).connect(abstract)",
    "datagram from a pair": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', datagram)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "environment of the parent": "reached = open(f'/proc/{parent}/environ').read(1)",
    "environment of process 1": "reached = open('/proc/1/environ').read(1)",
    "own environment by proc": "reached = open('/proc/self/environ').read(1)",
    "command line of the parent": "reached = open(f'/proc/{parent}/cmdline').read(1)",
    "list processes": "reached = [name for name in os.listdir('/proc') if name.isdigit()]",
    "read file": "reached = open(canary).read()",
    "read file by dots": "reached = open('../' * 20 + canary[1:]).read()",
    "read file by symlink": "os.symlink(canary, mine)\nreached = open(mine).read()",
    "read file by hard link": "os.link(canary, mine)\nreached = open(mine).read()",
    "list folder": "reached = os.listdir(os.path.dirname(canary))",
    "list home": "reached = os.listdir(home) or ['empty']",
    "read users": "reached = open('/etc/passwd').read()",
    "write file": "open(canary, 'r+')",
    "truncate file": "os.truncate(canary, 4)",
    "chmod": "os.chmod(canary, 0o644)",
    "chown": "os.chown(canary, 0, 0)",
    "touch": "os.utime(canary)",
    "rename": "os.rename(canary, canary)",
    "make file outside": "open(mine, 'w').close()",
    "make folder outside": "os.mkdir(mine)",
    "make pipe outside": "os.mkfifo(mine)",
    "interpreter": "open(os.__file__, 'r+b')",
    "signal the parent": "reached = parent != os.getpid()\nos.kill(parent, 0)",
    "signal the parent's group": "os.killpg(group, 0)",
    "signal by file owner": "fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, parent)",
    "trace": "trace()",
    "limits of the parent": "resource.prlimit(parent, resource.RLIMIT_CORE)",
    "raise limits": "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    "priority": "os.nice(-1)",
    "processors of the parent": "os.sched_setaffinity(parent, os.sched_getaffinity(parent))",
    "change user": "forked(lambda: os.setresuid(0, 0, 0))",
    "change groups": "forked(lambda: os.setgroups([0]))",
    "mount": "forked(mount)",
    "chroot": "forked(chroot)",
    "namespace by unshare": "forked(lambda: must(libc.unshare(0x10000000)))",
    "namespace by clone": "clone_user()",
    "survive the parent": "must(libc.prctl(1, 0, 0, 0, 0))",
    "sysrq": "open('/proc/sysrq-trigger', 'wb', buffering=0)",
    "raw disk": "os.open(disk, os.O_RDONLY)",
    "make device": "os.mknod(mine, stat.S_IFBLK | 0o600, os.makedev(8, 0))",
    "nameless memory": "os.memfd_create('x')",
}


@pytest.fixture(scope="module")
def unsafe():
    return usable("unsafe")


@pytest.fixture
def around(tmp_path):
    """What is there to attack; everything is open to everybody, so only the layer stands before it."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith("pytest-") or folder == tmp_path:
            os.chmod(folder, 0o755)
    canary = tmp_path / "canary"
    canary.write_text("truth")
    os.chmod(canary, 0o666)
    (work := tmp_path / "work").mkdir()
    os.chmod(work, 0o777)
    abstract = f"\0redraft-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as hidden,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram,
        subprocess.Popen(["sleep", "60"]) as bystander,
    ):
        udp.bind(("127.0.0.1", 0))
        unix.bind(str(work / "socket"))
        os.chmod(work / "socket", 0o777)
        unix.listen()
        hidden.bind(abstract)
        hidden.listen()
        datagram.bind(f"{abstract}-datagram")
        disks = [entry.path for entry in os.scandir("/dev") if entry.name.startswith(("vd", "sd", "nvme", "xvd"))]
        yield {
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "unix": str(work / "socket"),
            "abstract": abstract,
            "datagram": f"{abstract}-datagram",
            "canary": str(canary),
            "work": str(work),
            "mine": str(work / "mine"),
            "home": os.path.expanduser("~"),
            "parent": os.getpid(),
            "group": os.getpgrp(),
            "bystander": bystander.pid,
            "disk": disks[0] if disks else "/dev/sda",
            "arm": platform.machine() == "aarch64",
        }
        assert bystander.poll() is None
        bystander.kill()


def attempt(sandbox, facts, attack):
    """How far an attack came: what it reached, or the error that stopped it."""
    body = "\n".join(f"    {line}" for line in attack.splitlines())
    source = f"globals().update({facts!r})\n{HELP}\nreached = True\ntry:\n{body}\n    tell([True, reached])\n"
    source += "except (Exception, SystemExit) as error:\n    tell([False, repr(error)])\n"
    told = run(sandbox, source, 10.0).told
    for file in (Path(facts["mine"]),):
        if file.is_dir():
            file.rmdir()
        else:
            file.unlink(missing_ok=True)
    assert len(told) == 1, f"the attack broke: {told}"
    return told[0]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_stopped(sandbox, unsafe, around, name):
    if name not in MACHINES_DIFFER and (name not in NEEDS_ROOT or os.geteuid() == 0):
        succeeded, reached = attempt(unsafe, around, ATTACKS[name])
        assert succeeded, f"the attack is broken, it fails without a sandbox too: {reached}"
        assert reached
    succeeded, reached = attempt(sandbox, around, ATTACKS[name])
    assert not succeeded or not reached, f"the attack reached {reached}"


def test_the_environment_is_empty(sandbox, monkeypatch):
    monkeypatch.setenv("REDRAFT_SECRET", "token")
    (names,) = run(sandbox, "tell(sorted(os.environ))").told
    assert set(names) <= {"LC_ALL", "PWD"}


def test_only_the_channel_is_inherited(sandbox, tmp_path):
    secret = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(secret, True)
    source = """
def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
tell([[fd for fd in range(LIMIT) if is_open(fd)], CHANNEL])
""".replace("LIMIT", str(LIMITS.open_files * 4))
    ((found, channel),) = run(sandbox, source).told
    os.close(secret)
    assert found == [0, 1, 2, channel]


def test_standard_streams_lead_nowhere(sandbox):
    (numbers,) = run(sandbox, "tell([os.fstat(fd).st_rdev == os.stat('/dev/null').st_rdev for fd in range(3)])").told
    assert numbers == [True, True, True]


def test_killing_everybody_hits_nobody_outside(sandbox):
    source = "tell('begun')\nfor target in (-1, 0, -PARENT, PARENT):\n try: os.kill(target, 9)\n except OSError: 0"
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as bystander:
        reached = run(sandbox, source.replace("PARENT", str(bystander.pid)))
        assert reached.told == ["begun"]
        assert bystander.poll() is None
        bystander.kill()


def test_two_sandboxes_cannot_signal_each_other(sandbox):
    other = usable(sandbox.name)
    victim = started(other, "import time\ntell('up')\ntime.sleep(60)")
    run(
        sandbox,
        "for target in (-1, VICTIM):\n try: os.kill(target, 9)\n except OSError: 0".replace(
            "VICTIM", str(victim.process.pid)
        ),
    )
    assert victim.process.poll() is None
    victim.end()
    other.close()


def test_only_harmless_devices_open(sandbox):
    names = sorted(
        {*os.listdir("/dev"), "nvidia0", "nvidiactl", "kfd", "kvm", "mem", "tty"} - {"watchdog", "watchdog0"}
    )
    names = [
        name for name in names if not name.startswith(("std", "watchdog", "shm"))
    ]  # links to /dev/null; not to be touched; a folder
    source = f"""
opened = []
for name in {names!r}:
    try:
        os.close(os.open("/dev/" + name, os.O_RDONLY | os.O_NONBLOCK))
        opened.append(name)
    except OSError:
        pass
tell(opened)
"""
    assert run(sandbox, source).told == [["null", "urandom", "zero"]]


def test_only_what_python_needs_exists(sandbox):
    if sandbox.name == "landlock":
        # The documented weakness: names are visible (and no more than that).
        assert run(sandbox, "tell(os.path.exists('/etc/passwd'))").told == [True]
        return
    (top, tools) = run(sandbox, "tell(os.listdir('/'))\ntell(os.listdir('/usr/bin'))").told
    assert set(top) <= {"dev", "etc", "lib", "lib64", "tmp", "usr", sandbox._interpreter.prefix.split("/")[1]}
    assert [name for name in tools if not name.startswith("python3")] == []


def test_files_of_one_program_are_not_there_for_the_next(sandbox):
    plant = "for name in ('x.pth', 'sitecustomize.py'):\n try: open(name, 'w').write('import os')\n except OSError: 0\n"
    found = "tell([name for name in os.listdir('.') if name.endswith(('.pth', '.py'))])"
    if sandbox.name == "landlock":
        assert run(sandbox, plant + "tell('no file can be listed or written')").told
        for folder in {os.getcwd(), "/", "/tmp"}:
            assert not Path(folder, "x.pth").exists()
        return
    first, second = run(sandbox, plant + found).told[0], run(sandbox, found).told[0]
    assert sorted(first) == ["sitecustomize.py", "x.pth"]
    assert second == []


# Calls of the kernel that reach far: numbers of x86-64. Outside they exist, whatever they answer to nonsense.
CALLS = {
    "bpf": 321,
    "io_uring_setup": 425,
    "keyctl": 250,
    "add_key": 248,
    "userfaultfd": 323,
    "perf_event_open": 298,
    "process_vm_readv": 310,
    "shmget": 29,
    "msgget": 68,
    "mq_open": 240,
    "pidfd_open": 434,
    "open_by_handle_at": 304,
    "init_module": 175,
    "kexec_load": 246,
    "setns": 308,
    "pivot_root": 155,
    "clone3": 435,
    "personality": 135,
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")
@pytest.mark.parametrize("name", CALLS)
def test_a_far_reaching_call_does_not_exist(sandbox, unsafe, name):
    # -1 everywhere is nonsense to each of them.
    source = f"{HELP}\nlibc.syscall({CALLS[name]}, *[ctypes.c_long(-1)] * 6)\ntell(ctypes.get_errno())"
    assert run(sandbox, source).told == [errno.ENOSYS]
    if run(unsafe, source).told == [errno.ENOSYS]:
        pytest.skip("this kernel is built without it")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")
def test_a_call_of_a_foreign_architecture_kills(sandbox, unsafe):
    source = f"{HELP}\ntell('begun')\nlibc.syscall(0x40000000 + 39)\ntell('survived')"
    assert run(unsafe, source).told == ["begun", "survived"]
    reached = run(sandbox, source)
    assert reached.told == ["begun"]
    assert reached.ended.signal == signal.SIGSYS


def test_what_programs_need_works(sandbox):
    source = """
import asyncio, collections, ctypes, datetime, decimal, fractions, hashlib, heapq, itertools, json, math, os, random
import re, statistics, string, threading, time, typing, unicodedata, zlib
async def twice():
    await asyncio.sleep(0.001)
    return 2
worker = threading.Thread(target=time.sleep, args=(0.001,), name="w")
worker.start()
worker.join()
tell([asyncio.run(twice()), os.urandom(1) != b"", hashlib.sha256(b"x").hexdigest()[:4], "\\u00e9".encode().hex()])
"""
    assert run(sandbox, source, 20.0).told == [[2, True, "2d71", "c3a9"]]


def test_a_program_of_layer_one_has_a_disk_and_children():
    layer = usable("bubblewrap")
    source = """
import subprocess, tempfile
with tempfile.NamedTemporaryFile("w+") as file:
    file.write("kept")
    file.flush()
    text = open(file.name).read()
tell([text, subprocess.run([sys.executable, "-I", "-S", "-c", "print(1)"], capture_output=True, text=True).stdout])
"""
    assert run(layer, source, 10.0).told == [["kept", "1\n"]]
    layer.close()
