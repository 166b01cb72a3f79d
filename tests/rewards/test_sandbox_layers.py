"""Choosing a layer, what it refuses to do without, and the pieces: leases, groups, interpreters, the filter."""

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from redraft.rewards.result import RewardError
from redraft.rewards.sandbox import advice, bubblewrap, cgroup, choose, interpreter, landlock, seccomp
from redraft.rewards.sandbox.cgroup import open_group
from redraft.rewards.sandbox.choose import open_sandbox
from redraft.rewards.sandbox.identity import Identity, claim
from redraft.rewards.sandbox.program import ProgramLimits, SandboxError
from redraft.rewards.sandbox.selftest import self_test
from sandboxes import command, owner, processes, run, usable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sandboxes need Linux")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="leases belong to root")


@pytest.fixture
def nothing_works(monkeypatch):
    def absent(python):
        raise SandboxError("bubblewrap is not here; run `apt-get install bubblewrap`")

    monkeypatch.setitem(choose._LAYERS, "bubblewrap", absent)
    monkeypatch.setattr(landlock, "landlock_version", lambda: -1)


def test_auto_takes_bubblewrap_where_it_works(caplog):
    usable("bubblewrap").close()
    with caplog.at_level(logging.INFO):
        layer = open_sandbox()
    assert layer.name == "bubblewrap"
    assert [record.getMessage() for record in caplog.records] == ["sandbox: the bubblewrap layer"]
    layer.close()


def test_auto_says_aloud_that_it_takes_the_weaker_layer_and_why(caplog, monkeypatch):
    usable("landlock").close()
    monkeypatch.setenv("PATH", "/nowhere")
    with caplog.at_level(logging.INFO):
        layer = open_sandbox()
    assert layer.name == "landlock"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "apt-get install bubblewrap" in record.getMessage()
    layer.close()


def test_a_layer_asked_for_by_name_is_never_replaced(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxError, match="apt-get install bubblewrap"):
        open_sandbox("bubblewrap")


def test_auto_is_never_unsafe(nothing_works):
    with pytest.raises(SandboxError) as error:
        open_sandbox("auto", allow_unsafe=True)
    assert "apt-get install bubblewrap" in str(error.value)
    assert "lsm=" in str(error.value)
    assert isinstance(error.value, RewardError)


def test_unsafe_needs_its_own_permission(caplog):
    with pytest.raises(SandboxError, match="allow_unsafe: true"):
        open_sandbox("unsafe")
    assert open_sandbox("unsafe", allow_unsafe=True).name == "unsafe"
    assert "with this user's rights" in caplog.text


def test_an_unknown_kind_names_the_valid_ones():
    with pytest.raises(SandboxError, match="auto, bubblewrap, landlock and unsafe"):
        choose._layers("docker")


def test_the_self_test_costs_one_program(sandbox, monkeypatch):
    started = []
    start = type(sandbox).start

    def counted(layer, source, limits, pipes=False):
        started.append(limits)
        return start(layer, source, limits, pipes)

    monkeypatch.setattr(type(sandbox), "start", counted)
    self_test(sandbox)
    assert [limits.cpu_s for limits in started] == [5]


@pytest.mark.parametrize(
    ("hole", "probe"),
    [
        ("reads", "file: read"),
        ("instructions", "straggler: a process outlives the program"),
        ("limits", "limits: {'RLIMIT_CPU'"),
    ],
)
def test_the_self_test_refuses_a_layer_with_a_hole(monkeypatch, hole, probe):
    layer = usable("landlock")
    if hole == "reads":
        layer._arguments["reads"] = ["/"]
    elif hole == "instructions":
        # One instruction that allows every call.
        layer._arguments["instructions"] = (0x7FFF0000 << 32 | 0x06).to_bytes(8, "little").hex()
    else:
        monkeypatch.setattr(landlock, "limits_text", lambda limits, tasks: "")
    with pytest.raises(SandboxError, match="self-test of the landlock layer failed") as error:
        self_test(layer)
    assert probe in str(error.value)
    layer.identity.kill_all()
    layer.close()


@pytest.mark.parametrize(
    ("before", "after", "probe"),
    [
        (["--remount-ro", "/"], ["--ro-bind", "/tmp", "/tmp"], "file: read"),
        (["--size", str(4 << 20)], [], "disk: 4194304"),
        (["--hostname", "sandbox"], [], ""),
    ],
)
def test_the_self_test_refuses_bubblewrap_with_a_hole(monkeypatch, before, after, probe):
    layer = usable("bubblewrap")
    whole = bubblewrap.BubblewrapSandbox._command

    def command(self, limits):
        words = whole(self, limits)
        at = [index for index in range(len(words)) if words[index : index + len(before)] == before]
        return words if not at else words[: at[0]] + after + words[at[0] + len(before) :]

    monkeypatch.setattr(bubblewrap.BubblewrapSandbox, "_command", command)
    if not probe:
        self_test(layer)  # the changed command as such works
    else:
        with pytest.raises(SandboxError, match=probe):
            self_test(layer)
    layer.close()


def test_bubblewrap_that_fails_is_told_with_its_message_and_an_advice(monkeypatch):
    usable("bubblewrap").close()
    monkeypatch.setattr(bubblewrap, "_DEVICES", ("/dev/no-such-device",))
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(SandboxError, match=r"no-such-device.*choose the landlock layer"):
        open_sandbox("bubblewrap")
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_start_that_fails_is_an_error_and_leaves_nothing(monkeypatch):
    layer = usable("bubblewrap")
    monkeypatch.setattr(bubblewrap, "_NOBODY", "--no-such-option")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(SandboxError, match="Unknown option --no-such-option"):
        layer.start("", ProgramLimits())
    assert len(os.listdir("/proc/self/fd")) == len(before)
    monkeypatch.undo()
    assert run(layer, "tell(1)").told == [1]
    layer.close()


def test_a_start_that_fails_once_says_so(monkeypatch):
    layer = usable("bubblewrap")
    monkeypatch.setattr(bubblewrap, "_child", lambda told: 2**22 + 1)  # no process has this number
    with pytest.raises(SandboxError, match="could not start a program"):
        layer.start("", ProgramLimits())
    layer.close()


def test_a_started_and_closed_layer_leaves_nothing(sandbox):
    before = os.listdir("/proc/self/fd")
    layer = usable(sandbox.name)
    run(layer, "tell(1)")
    group = getattr(layer, "group", None)
    folders = list(group._folders.values()) if group else []
    assert all(folder.is_dir() for folder in folders)
    layer.close()
    assert not any(folder.exists() for folder in folders)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_program_forgotten_is_ended_by_the_next_start(sandbox):
    forgotten = sandbox.start("import time; time.sleep(60)", ProgramLimits())
    run(sandbox, "tell(1)")
    assert forgotten.process.returncode is not None
    forgotten.channel.close()


def test_ending_twice_is_allowed(sandbox):
    program = sandbox.start("import time; time.sleep(60)", ProgramLimits())
    assert program.end().signal == program.end().signal == 9


def test_pipes_carry_the_standard_streams(sandbox):
    program = sandbox.start("import sys; print(sys.stdin.read()[::-1]); sys.exit(4)", ProgramLimits(), pipes=True)
    out, err = program.process.communicate(b"abc\xc3\xa9", timeout=20)
    assert (out, err) == ("écba\n".encode(), b"")
    assert program.end().code == 4


def test_without_a_group_programs_still_run(monkeypatch):
    usable("bubblewrap").close()
    monkeypatch.setattr(bubblewrap, "open_group", lambda name: None)
    layer = open_sandbox("bubblewrap")
    assert run(layer, "tell(1)").told == [1]
    layer.close()


def test_an_own_interpreter_can_be_named(sandbox):
    file = sandbox._interpreter.file
    layer = open_sandbox(sandbox.name, python=file)
    assert run(layer, "tell(sys.executable)").told == [file]
    layer.close()


def test_an_interpreter_that_cannot_be_run_is_named_with_the_reason():
    with pytest.raises(SandboxError, match=r"/nowhere/python \(.*No such file.*apt-get install python3"):
        open_sandbox("landlock", python="/nowhere/python")


def test_an_old_interpreter_is_refused(monkeypatch):
    monkeypatch.setattr(interpreter, "OLDEST", (4, 0))
    interpreter._find.cache_clear()
    with pytest.raises(SandboxError, match=r"no Python >= 4\.0 .*\(is 3\.\d+\)"):
        interpreter.find_interpreter(Identity())
    interpreter._find.cache_clear()


@AS_ROOT
def test_each_slot_has_a_user_of_its_own_also_across_runs(tmp_path):
    user_ids = range(60600, 60603)
    first, second = claim(user_ids, tmp_path), claim(user_ids, tmp_path)
    other_run = "import sys; from pathlib import Path; from redraft.rewards.sandbox.identity import claim\n"
    other_run += f"print(claim(range(60600, 60603), Path({str(tmp_path)!r})).uid)"
    third = subprocess.run([sys.executable, "-c", other_run], capture_output=True, text=True, check=True).stdout
    assert [first.uid, second.uid, int(third)] == [60600, 60601, 60602]
    first.release()
    again = claim(user_ids, tmp_path)  # the other run has ended, so 60602 is free too
    assert again.uid == 60600
    claim(user_ids, tmp_path)
    with pytest.raises(SandboxError, match="no free user id between 60600 and 60602"):
        claim(user_ids, tmp_path)


def test_a_root_that_is_not_allowed_other_users_says_so(tmp_path):
    text = "import sys; from pathlib import Path; from redraft.rewards.sandbox.identity import claim\n"
    text += f"claim(locks=Path({str(tmp_path)!r}))"
    # A namespace whose only user is root, as in some containers.
    answer = subprocess.run(["unshare", "--map-root-user", sys.executable, "-c", text], capture_output=True, text=True)
    if "unshare" in answer.stderr:
        pytest.skip("no user namespaces here")
    assert "we are root but may not become user id 60600" in answer.stderr


def test_a_folder_for_locks_that_cannot_be_made_is_named(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(SandboxError, match="/dev/null/locks keeps two runs from sharing a user id"):
        claim(locks=Path("/dev/null/locks"))


@AS_ROOT
def test_a_slot_is_emptied_before_it_is_used(tmp_path):
    uid = 61150
    with subprocess.Popen(["sleep", "60"], user=uid, group=uid, extra_groups=[]) as leftover:
        identity = claim(range(uid, uid + 1), tmp_path)
        assert leftover.wait(5) == -9
    identity.release()


@AS_ROOT
def test_programs_run_as_their_slot(sandbox):
    program = sandbox.start("import os, sys, time; os.write(int(sys.argv[1]), b'x'); time.sleep(60)", ProgramLimits())
    program.channel.settimeout(10)
    program.channel.recv(1)
    mine = [pid for pid in processes() if owner(pid) == sandbox.identity.uid]
    assert sandbox.identity.uid in range(60600, 61180)
    assert all("sleep(60)" in command(pid) for pid in mine)
    assert len(mine) == (2 if sandbox.name == "bubblewrap" else 1)
    program.end()


def unified(folder, own="", parent=""):
    """A tree as the second version of control groups shows it, with what two of its groups hand down."""
    run = folder / "system" / "run"
    for place in (run / "slot", run.parent / "slot"):
        place.mkdir(parents=True)
        for name in ("memory.max", "memory.swap.max", "pids.max", "cgroup.procs"):
            (place / name).write_text("")
    (folder / "cgroup.controllers").write_text("cpu memory pids")
    (run / "cgroup.subtree_control").write_text(own)
    (run.parent / "cgroup.subtree_control").write_text(parent)
    (folder / "own").write_text("0::/system/run\n")
    return run


def texts(folder):
    return {file.name: file.read_text() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize(("own", "parent", "place"), [("memory pids", "", "system/run"), ("", "memory pids", "system")])
def test_a_group_of_version_two_limits_memory_swap_and_tasks(tmp_path, monkeypatch, own, parent, place):
    unified(tmp_path, own, parent)
    if not own:
        busy(monkeypatch)
    group = open_group("slot", tmp_path, tmp_path / "own")
    group.limit(1 << 20, 5)
    group.add(42)
    written = texts(tmp_path / place / "slot")
    assert written == {"memory.max": str(1 << 20), "memory.swap.max": "0", "pids.max": "5", "cgroup.procs": "42"}


def busy(monkeypatch):
    """A group with processes in it cannot hand controllers down: the kernel's answer, which no plain file gives."""
    write = cgroup._write

    def refuse(file, value):
        if file.name == "cgroup.subtree_control":
            raise OSError(errno.EBUSY, "busy")
        write(file, value)

    monkeypatch.setattr(cgroup, "_write", refuse)


def test_our_own_group_of_version_two_hands_down_when_asked(tmp_path):
    run = unified(tmp_path)
    assert open_group("slot", tmp_path, tmp_path / "own")
    assert (run / "cgroup.subtree_control").read_text() == "+memory +pids"


def test_where_nothing_is_handed_down_there_is_no_group(tmp_path, monkeypatch):
    unified(tmp_path)
    busy(monkeypatch)
    assert open_group("slot", tmp_path, tmp_path / "own") is None


def test_where_no_hierarchy_is_mounted_there_is_no_group(tmp_path):
    (tmp_path / "own").write_text("4:memory:/a\n8:pids:/\n0::/\n")
    assert open_group("slot", tmp_path, tmp_path / "own") is None


@AS_ROOT
def test_a_real_group_holds_a_process_and_goes_away():
    group = open_group(f"redraft-test-{os.getpid()}")
    if group is None:
        pytest.skip("no control group is writable here")
    group.limit(64 << 20, 3)
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        group.add(sleeper.pid)
        assert f"redraft-test-{os.getpid()}" in Path(f"/proc/{sleeper.pid}/cgroup").read_text()
        sleeper.kill()
    group.remove()
    assert not any(folder.exists() for folder in group._folders.values())


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces="),
    ],
)
def test_the_advice_names_the_setting_that_forbids_namespaces(tmp_path, setting, value, words):
    file = tmp_path / "proc/sys" / setting
    file.parent.mkdir(parents=True)
    file.write_text(value + "\n")
    assert words in advice.user_namespaces(tmp_path)
    file.write_text("7\n")
    assert "choose the landlock layer" in advice.user_namespaces(tmp_path)


def test_the_advice_in_a_container_names_its_profile(tmp_path):
    (tmp_path / ".dockerenv").touch()
    assert "--security-opt seccomp=unconfined" in advice.user_namespaces(tmp_path)


def test_without_libseccomp_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    seccomp.compiled.cache_clear()
    with pytest.raises(SandboxError, match="apt-get install libseccomp2"):
        seccomp.compiled(True)


def test_a_call_that_the_library_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(seccomp, "_COMPUTE", seccomp._COMPUTE + " no_such_call")
    seccomp.compiled.cache_clear()
    assert len(seccomp.compiled(False)) % 8 == 0
    seccomp.compiled.cache_clear()
