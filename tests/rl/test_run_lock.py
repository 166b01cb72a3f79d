"""One run per folder: who holds it is named, and a dead owner is no obstacle."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from displays import Silent
from redraft.rl.run_folder.files import WriteError
from redraft.rl.run_folder.lock import LOCK, RunLockedError, run_lock

HOLDER = """
import sys, time
from pathlib import Path
from redraft.rl.run_folder.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(folder):
    """Another process that holds the folder."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


def kill(process):
    process.kill()
    process.communicate()


def owner(folder, **changes):
    """A lock file that names this process, but for the changes."""
    process = psutil.Process()
    names = {"host": os.uname().nodename, "pid": os.getpid(), "started": process.create_time(), "since": "2026-01-02"}
    folder.mkdir(exist_ok=True)
    (folder / LOCK).write_text(json.dumps({**names, **changes}))


def test_a_second_process_is_refused_with_host_pid_and_time_until_the_first_is_killed(tmp_path):
    holder = hold(tmp_path)
    before = (tmp_path / LOCK).read_bytes()
    message = rf"in use by process {holder.pid} on {os.uname().nodename}, since 20\d\d-.*; wait .* kill {holder.pid}"
    with pytest.raises(RunLockedError, match=message), run_lock(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert (tmp_path / LOCK).read_bytes() == before
    holder.send_signal(signal.SIGKILL)
    while psutil.Process(holder.pid).status() != psutil.STATUS_ZOMBIE:  # dead, though nobody has waited for it
        pass
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []
    kill(holder)


@pytest.mark.parametrize(
    "change",
    [{"pid": 2**22 - 1}, {"started": 1.0}],
    ids=["no such process", "another process has its number now"],
)
def test_a_dead_owner_is_no_obstacle(tmp_path, change):
    owner(tmp_path, **change)
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"pid": 3}', '{"host": "h", "pid": "3", "started": 0, "since": ""}']
)
def test_a_lock_that_its_writer_did_not_finish_is_no_obstacle(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_an_owner_on_another_host_is_believed_and_the_remedy_told(tmp_path):
    owner(tmp_path, host="elsewhere", pid=7)
    message = rf"process 7 on elsewhere, since 2026-01-02; if that process is gone, remove {tmp_path / LOCK}"
    with pytest.raises(RunLockedError, match=message), run_lock(tmp_path):
        pass
    assert (tmp_path / LOCK).is_file()


def test_one_process_cannot_hold_a_folder_twice(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "run")
    with run_lock(tmp_path / "run"):
        with pytest.raises(RunLockedError, match="by this very process"), run_lock(link):
            pass
        assert (tmp_path / "run" / LOCK).is_file()
    assert not (tmp_path / "run").exists()


def test_a_refused_run_leaves_no_folder_and_a_real_one_its_files(tmp_path):
    with run_lock(tmp_path / "a" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []
    with run_lock(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "metrics.jsonl").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["metrics.jsonl"]


def test_of_many_that_start_at_the_same_moment_one_gets_the_folder(tmp_path):
    owner(tmp_path, pid=2**22 - 1)  # and all of them see a dead owner first
    start = tmp_path.with_suffix(".start")
    script = "import os, time\nwhile not os.path.exists(sys.argv[2]):\n    time.sleep(0.001)\n"
    body = HOLDER.replace("with run_lock", f"{script}with run_lock").replace("time.sleep(600)", "input()")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", body, str(tmp_path), str(start)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(5)
    ]  # fmt: skip
    start.touch()
    lines = [racer.stdout.readline() for racer in racers]
    told = [racer.communicate("\n")[1] for racer in racers]
    assert sorted(lines) == ["", "", "", "", "held\n"]
    assert sum("RunLockedError" in text for text in told) == 4


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    message = rf"cannot write {tmp_path}/file/run: Not a directory"
    with pytest.raises(WriteError, match=message), run_lock(tmp_path / "file" / "run"):
        pass


def test_train_resume_and_sft_are_refused_before_they_read_or_write_anything(tmp_path):
    from redraft.rl.config.recipe import load_recipe
    from redraft.rl.run import run_sft, run_training
    from redraft.rl.run_folder.recorder import Recorder
    from tiny import write_recipe

    config = load_recipe([write_recipe(tmp_path, data={"path": str(tmp_path / "not there.jsonl")})], [])
    recorder = Recorder(config, Silent())
    with run_lock(recorder.run):
        for start in (
            lambda: run_training(config, recorder, False),
            lambda: run_training(config, recorder, True),
            lambda: run_sft(config, recorder),
        ):
            with pytest.raises(RunLockedError, match="in use by this very process"):
                start()
        assert [path.name for path in recorder.run.iterdir()] == [LOCK]
