"""Output files: known to be writable before the work, whole or not there, never in the place of a link or a pipe."""

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest
import typer
from typer.main import get_command

from benchmarks.__main__ import app as benchmarks
from redraft.rl.atomic import atomic_write
from redraft.rl.cli.main import app
from redraft.rl.files import check_output_file, check_output_folder, expand, output_file


def write(path, text="new\n"):
    with output_file(path) as file:
        file.write(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    out = tmp_path / "deep" / "er" / "out.jsonl"
    with output_file(out) as file:
        file.write("new\n")
        assert not out.exists()
    assert out.read_text() == "new\n"
    assert names(out.parent) == ["out.jsonl"]


@pytest.mark.parametrize(
    "error", [ValueError("a bad row"), KeyboardInterrupt(), FileNotFoundError(2, "gone", "weights")]
)
def test_a_failure_leaves_the_earlier_file_and_no_other(tmp_path, error):
    out = tmp_path / "out.jsonl"
    out.write_text("old\n")

    def fail():
        with output_file(out) as file:
            file.write("half")
            raise error

    with pytest.raises(type(error)) as raised:
        fail()
    assert raised.value is error
    assert out.read_text() == "old\n"
    assert names(tmp_path) == ["out.jsonl"]


def make_folder(path, content):
    with atomic_write(path) as partial:
        partial.mkdir()
        (partial / "file").write_text(content)


def test_a_folder_takes_the_place_of_another_or_leaves_it_there(tmp_path, monkeypatch):
    out, replace = tmp_path / "out", os.replace

    def fail(source, target):
        if source == tmp_path / ".out.partial":
            raise OSError(errno.EIO, "the disk is gone")
        replace(source, target)

    make_folder(out, "old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        make_folder(out, "new")
    assert (names(tmp_path), (out / "file").read_text()) == (["out"], "old")
    monkeypatch.undo()
    (tmp_path / ".out.old").mkdir()  # of a process that was killed
    make_folder(out, "new")
    assert (names(tmp_path), (out / "file").read_text()) == (["out"], "new")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_ended_process_leaves_the_earlier_file_and_no_other(tmp_path, number):
    out = tmp_path / "out.jsonl"
    out.write_text("old\n")
    code = (  # a test run in the background hands ignored signals down
        "import signal, time\nfrom redraft.rl.files import output_file\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        f"with output_file({str(out)!r}) as file:\n    file.write('half')\n"
        "    print('begun', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode
    assert out.read_text() == "old\n"
    assert names(tmp_path) == ["out.jsonl"]


def test_a_full_disk_names_the_file_and_keeps_the_earlier_one(tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("old\n")
    with pytest.raises(OSError, match=r"out\.jsonl") as raised, output_file(out):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "nothing was written or replaced" in str(raised.value)
    assert out.read_text() == "old\n"
    assert names(tmp_path) == ["out.jsonl"]


def test_a_full_device_is_named():
    with pytest.raises(OSError, match="/dev/full") as raised:
        write("/dev/full")
    assert raised.value.errno == errno.ENOSPC
    assert os.path.exists("/dev/full")


def test_a_link_in_a_circle_is_refused(tmp_path):
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(OSError, match="one: is a link that leads back to itself"):
        write(tmp_path / "one")
    assert (tmp_path / "one").is_symlink()


def test_links_are_followed_also_those_to_files_that_are_not_there_yet(tmp_path):
    (tmp_path / "real.jsonl").write_text("old\n")
    for target in ("real.jsonl", "later.jsonl"):
        link = tmp_path / f"link_to_{target}"
        link.symlink_to(target)
        write(link)
        assert link.is_symlink()
        assert (tmp_path / target).read_text() == "new\n"
        assert not (tmp_path / target).is_symlink()


def test_a_replaced_file_keeps_its_rights_and_a_new_one_has_the_usual(tmp_path):
    old, new, usual = tmp_path / "old", tmp_path / "new", tmp_path / "usual"
    old.write_text("")
    old.chmod(0o640)
    usual.write_text("")
    write(old)
    write(new)
    assert old.stat().st_mode & 0o777 == 0o640
    assert new.stat().st_mode == usual.stat().st_mode


def test_a_pipe_is_written_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write(pipe)
    reader.join(timeout=30)
    assert read == ["new\n"]
    assert pipe.is_fifo()
    assert names(tmp_path) == ["pipe"]


def test_devices_are_written_and_stay_devices():
    write("/dev/null")
    assert os.path.exists("/dev/null")
    assert not os.path.isfile("/dev/null")


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_stdout_gets_the_rows_between_what_is_printed_before_and_after(tmp_path, place, kind):
    code = (
        "from redraft.rl.files import output_file\nprint('before', flush=True)\n"
        f"with output_file({place!r}) as file:\n    file.write('row\\n')\nprint('after')\n"
    )
    command = [sys.executable, "-c", code]
    if kind == "pipe":
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    else:
        with (tmp_path / "shown").open("w") as shown:
            subprocess.run(command, check=True, stdout=shown)
        text = (tmp_path / "shown").read_text()
        assert names(tmp_path) == ["shown"]
    assert text == "before\nrow\nafter\n"


def test_a_place_that_cannot_be_written_is_refused_and_nothing_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    before = names(tmp_path)
    with pytest.raises(IsADirectoryError, match="is a folder; give the name of a file in it"):
        check_output_file(tmp_path)
    for check in (check_output_file, check_output_folder):
        with pytest.raises(NotADirectoryError, match="file is no folder"):
            check(tmp_path / "file" / "out")
        assert check(tmp_path / "new" / "out") == tmp_path / "new" / "out"
        for empty in ("", " "):
            with pytest.raises(ValueError, match="the path to write is empty"):
                check(empty)
    with pytest.raises(NotADirectoryError):
        check_output_folder(tmp_path / "file")
    assert names(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_may_not_be_written_is_refused(tmp_path):
    out = tmp_path / "out"
    out.write_text("")
    out.chmod(0o400)
    with pytest.raises(PermissionError, match="may not be written"):
        check_output_file(out)
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="may not be changed"):
        check_output_file(tmp_path / "new")


def test_home_folders_are_expanded_and_unknown_users_named(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(expand("~/x")) == "/home/me/x"
    assert str(expand("~root/x")).endswith("root/x")
    assert str(expand("a/~/x")) == "a/~/x"
    assert str(expand("$HOME/x")) == "$HOME/x"
    with pytest.raises(ValueError, match=r"no home folder of '~nobody-here'; write ./~nobody-here"):
        expand("~nobody-here/x")


PATHS = {"model", "prompts", "out", "data", "run", "runs", "variants"}


def options():
    """Every parameter of every verb that is named like a path."""

    def walk(command, name):
        for sub, found in getattr(command, "commands", {}).items():
            yield from walk(found, f"{name} {sub}")
        yield from ((f"{name} {parameter.name}", parameter) for parameter in command.params if parameter.name in PATHS)

    return dict([*walk(get_command(app), "redraft"), *walk(get_command(benchmarks), "benchmarks")])


def test_every_path_on_a_command_line_knows_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    found = {name: parameter for name, parameter in options().items() if name != "benchmarks decode prompts"}  # a count
    assert len(found) >= 12
    for name, parameter in found.items():
        assert str(parameter.process_value(typer.Context(get_command(app)), "~/x")) == "/home/me/x", name
