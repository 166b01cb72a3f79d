"""Attacks on the machine's time, memory, disk and process table, one test each, in both layers.

None of these runs without a sandbox: that an attack is real is seen from how far it came.
"""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from redraft.rewards.sandbox.program import ProgramLimits
from sandboxes import LAYERS, LIMITS, command, processes, run, started, usable

PATIENCE_S = 120.0  # for one CPU second on a busy machine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sandboxes need Linux")


def deadline(sandbox, source, wall_s=0.6):
    """Run an attack that tells that it has begun and never ends by itself."""
    reached = run(sandbox, source, wall_s)
    assert reached.told[:1] == ["begun"]
    assert reached.ended.signal == signal.SIGKILL
    assert reached.ended.wall_s < wall_s + 2.0
    return reached


def peak_mb(sandbox):
    """The most memory that the slot's control group ever held."""
    if sandbox.group is None:
        pytest.skip("no control group is writable here: then memory is bounded per process only, as documented")
    folder = sandbox.group._folders["memory"]
    files = [folder / name for name in ("memory.peak", "memory.max_usage_in_bytes") if (folder / name).exists()]
    return int(files[0].read_text()) / (1 << 20)


def test_an_infinite_loop_ends_with_its_cpu_time(sandbox):
    reached = run(sandbox, "while True: pass", PATIENCE_S, ProgramLimits(cpu_s=1))
    assert reached.ended.signal == signal.SIGKILL
    assert reached.silent
    assert reached.ended.wall_s > 0.9


def test_catching_the_cpu_limit_gains_nothing(sandbox):
    source = "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: tell('caught'))\nwhile True: pass"
    reached = run(sandbox, source, PATIENCE_S, ProgramLimits(cpu_s=1))
    assert reached.ended.signal == signal.SIGKILL
    assert reached.silent
    assert reached.ended.wall_s > 0.9


def test_a_sleeper_is_killed_at_the_deadline(sandbox):
    deadline(sandbox, "import time\ntell('begun')\ntime.sleep(60)")


def test_a_computation_that_never_leaves_c_is_killed_at_the_deadline(sandbox):
    deadline(sandbox, "tell('begun')\n9 ** 9 ** 9")


def test_ignoring_and_blocking_every_signal_changes_nothing(sandbox):
    ignore = (
        "for number in range(1, 65):\n try: signal.signal(number, signal.SIG_IGN)\n except (OSError, ValueError): 0\n"
    )
    block = "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\ntell('begun')\ntime.sleep(60)"
    deadline(sandbox, "import signal, time\n" + ignore + block)


def test_a_fork_bomb_stops_at_the_limit(sandbox):
    source = """
import time
tell(1)
while True:
    try:
        if os.fork() == 0:
            tell(1)
    except OSError:
        time.sleep(0.01)
"""
    reached = run(sandbox, source, 0.8)
    # Layer 2 has no second process at all.
    assert sum(reached.told) == (LIMITS.processes if sandbox.name == "bubblewrap" else 1)
    assert reached.ended.signal == signal.SIGKILL


def test_a_thread_bomb_stops_at_the_limit(sandbox):
    source = """
import threading, time
count = 1
threading.stack_size(1 << 16)
try:
    while count < 1000:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        count += 1
except RuntimeError:
    tell(count)
os._exit(0)
"""
    assert run(sandbox, source).told == [LIMITS.processes]


def test_zombies_count_as_processes(sandbox):
    source = """
import time
count = 1
try:
    while count < 1000:
        if os.fork() == 0:
            os._exit(0)
        count += 1
except OSError:
    tell(count)
"""
    assert run(sandbox, source).told == [LIMITS.processes if sandbox.name == "bubblewrap" else 1]


def test_memory_of_one_process_stops_at_the_limit(sandbox):
    source = """
held = []
try:
    while len(held) < 4096:
        held.append(bytearray(1 << 20))
except MemoryError:
    count = len(held)
    held.clear()
    tell(count)
"""
    (megabytes,) = run(sandbox, source).told
    assert LIMITS.memory_mb / 2 < megabytes < LIMITS.memory_mb


def test_shared_mappings_stop_at_the_limit(sandbox):
    source = """
import mmap
held = []
try:
    while len(held) < 4096:
        held.append(mmap.mmap(-1, 1 << 20))
        held[-1].write(bytes(1 << 20))
except OSError:
    tell(len(held))
"""
    (megabytes,) = run(sandbox, source).told
    assert LIMITS.memory_mb / 2 < megabytes < LIMITS.memory_mb


def test_memory_of_many_processes_together_stops_at_the_limit(sandbox):
    source = """
import time
PIECE = 8
for _ in range(11):
    try:
        if os.fork() == 0:
            break
    except OSError:
        break
held = []
try:
    while len(held) < 12:
        held.append(bytearray(b"x") * (PIECE << 20))
        tell(PIECE)
except MemoryError:
    pass
time.sleep(60)
"""
    layer = usable(sandbox.name)  # one of its own, because a group remembers its peak
    try:
        asked = sum(run(layer, source, 1.5).told)
        if layer.name == "landlock":
            assert LIMITS.memory_mb / 2 < asked < LIMITS.memory_mb  # by the only process there is
        else:
            # More than the 96 MB that one of them asks for: the kernel killed for it, which may be the whole program.
            assert 0.9 * (LIMITS.memory_mb + LIMITS.disk_mb) < peak_mb(layer) <= LIMITS.memory_mb + LIMITS.disk_mb
    finally:
        layer.close()


@pytest.mark.parametrize("call", ["os.memfd_create('x')", "os.open('/tmp', os.O_TMPFILE | os.O_RDWR)"])
def test_files_without_a_name_are_refused_or_counted(sandbox, call):
    source = f"""
total = 0
try:
    for _ in range(20):
        file = {call}
        while total < 100 << 20:
            total += os.write(file, bytes(1 << 16))
            if os.fstat(file).st_size >= 2 << 20: break
except OSError as error:
    tell(total)
"""
    (written,) = run(sandbox, source).told
    on_disk = sandbox.name == "bubblewrap" and "TMPFILE" in call
    assert written == (LIMITS.disk_mb << 20 if on_disk else 0)


def test_one_file_stops_at_the_limit(sandbox):
    source = """
size = 0
try:
    with open("big", "wb", buffering=0) as file:
        while size < 1 << 30:
            size += file.write(bytes(1 << 16))
except OSError as error:
    tell(size)
"""
    expected = LIMITS.file_mb << 20 if sandbox.name == "bubblewrap" else 0
    assert run(sandbox, source).told == [expected]


def test_many_files_together_stop_at_the_limit(sandbox):
    source = """
size = 0
try:
    for number in range(1000):
        with open(str(number), "wb", buffering=0) as file:
            size += file.write(bytes(1 << 20))
except OSError:
    tell(size >> 20)
"""
    (megabytes,) = run(sandbox, source).told
    # Layer 2 has no file to write: the size of a folder cannot be bounded there.
    if sandbox.name == "bubblewrap":
        assert LIMITS.disk_mb - 1 <= megabytes <= LIMITS.disk_mb
    else:
        assert megabytes == 0


def test_the_memory_of_empty_files_is_bounded(sandbox):
    source = """
count = 0
try:
    while True:
        os.close(os.open(f"{count}" + "n" * 200, os.O_CREAT | os.O_WRONLY))
        count += 1
        if count % 1000 == 0:
            tell(count)
except (OSError, MemoryError):
    tell(count)
"""
    limits = ProgramLimits(memory_mb=32, disk_mb=4)
    reached = run(sandbox, source, PATIENCE_S, limits)
    if sandbox.name == "landlock":
        assert reached.told == [0]
    else:
        # An entry costs the kernel about a kilobyte, which the group counts; nothing else bounds it.
        assert peak_mb(sandbox) > 0
        assert 1000 <= reached.told[-1] < (limits.memory_mb + limits.disk_mb) << 10
        assert reached.ended.signal == signal.SIGKILL
        assert reached.silent


@pytest.mark.parametrize("folder", ["/dev/shm", "/dev", "/", "/usr/lib", "/var/tmp", "/run", "/tmp/.."])
def test_no_other_folder_can_be_filled(sandbox, folder):
    source = f"""
try:
    open("{folder}/redraft-fill", "wb").write(b"x")
    tell("written")
except OSError:
    tell("refused")
"""
    shared = folder == "/dev/shm" and sandbox.name == "bubblewrap"  # there it is the disk that /tmp is
    assert run(sandbox, source).told == ["written" if shared else "refused"]


def test_shared_memory_of_layer_one_is_its_disk():
    layer = usable("bubblewrap")
    source = """
open("/dev/shm/x", "w").close()
tell(os.path.exists("/tmp/x") and os.stat("/dev/shm").st_dev == os.stat("/tmp").st_dev)
"""
    assert run(layer, source).told == [True]
    layer.close()


def test_open_files_stop_at_the_limit(sandbox):
    source = """
held = []
try:
    while len(held) < 1000:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    tell(max(held))
"""
    assert run(sandbox, source).told == [LIMITS.open_files - 1]


def test_a_flood_of_output_that_nobody_reads_is_killed_at_the_deadline(sandbox):
    source = "import os, sys\nos.write(int(sys.argv[1]), b'begun')\nwhile True: os.write(1, bytes(65536))"
    program = sandbox.start(source, LIMITS, pipes=True)
    program.channel.settimeout(10)
    assert program.channel.recv(16) == b"begun"
    time.sleep(0.2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert program.end().signal == signal.SIGKILL
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # kilobytes


def test_a_flood_of_output_to_nowhere_is_killed_at_the_deadline(sandbox):
    deadline(sandbox, "tell('begun')\nwhile True: os.write(1, bytes(65536))")


def test_runaway_recursion_ends_the_program_alone(sandbox):
    source = """
sys.setrecursionlimit(10 ** 9)
nested = []
for _ in range(10 ** 6):
    nested = [nested]
tell("begun")
repr(nested)
"""
    reached = run(sandbox, source, 10.0)
    assert reached.told == ["begun"]
    assert reached.ended.signal == signal.SIGSEGV or reached.ended.code == 1


def test_a_segmentation_fault_is_told_as_its_signal(sandbox):
    reached = run(sandbox, "tell('begun')\nimport ctypes\nctypes.string_at(0)")
    assert reached.told == ["begun"]
    assert reached.ended.signal == signal.SIGSEGV


def test_a_child_in_a_session_of_its_own_ends_with_the_program(sandbox):
    source = """
import time
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        tell("daemon")
        time.sleep(60)
except OSError:
    tell("refused")
time.sleep(60)
"""
    reached = run(sandbox, source, 0.6)  # which also checks that nobody holds the channel afterwards
    assert reached.told == ["daemon" if sandbox.name == "bubblewrap" else "refused"]


def test_without_a_sandbox_such_a_child_lives_on():
    unsafe = usable("unsafe")
    source = """
import time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    tell("daemon")
    time.sleep(1.5)
    tell("alive")
    os._exit(0)
time.sleep(60)
"""
    program = started(unsafe, source)
    with program.channel.dup() as watch:
        program.end()
        assert watch.recv(64) == b'"alive"\n'


PARENT = """
import sys, time
from redraft.rewards.sandbox.choose import open_sandbox
from redraft.rewards.sandbox.program import ProgramLimits as Limits
sandbox = open_sandbox(sys.argv[1], allow_unsafe=True)
program = sandbox.start("# {mark}\\nimport os, sys, time\\nos.write(int(sys.argv[1]), b'x')\\ntime.sleep(60)", Limits())
program.channel.recv(1)
print("up", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("layer", [*LAYERS, "unsafe"])
def test_a_program_ends_when_whoever_started_it_is_killed(layer):
    usable(layer).close()
    mark = f"program-of-{os.getpid()}-{layer}"
    text = PARENT.format(mark=mark)
    with subprocess.Popen(
        [sys.executable, "-c", text, layer], stdout=subprocess.PIPE, start_new_session=True
    ) as parent:
        assert parent.stdout.readline() == b"up\n"
        found = [pid for pid in processes() if f"# {mark}\n" in command(pid) and pid != parent.pid]
        assert found
        parent.kill()
    until = time.monotonic() + (3.0 if layer != "unsafe" else 0.3)
    while (alive := [pid for pid in found if mark in command(pid)]) and time.monotonic() < until:
        time.sleep(0.01)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    assert bool(alive) == (layer == "unsafe")


def test_a_slot_is_as_good_as_new_after_each_of_these(sandbox):
    program = started(sandbox, "tell('begun')\nsys.exit(7)")
    program.process.wait(10)
    assert program.end().code == 7
