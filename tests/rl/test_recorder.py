"""The run folder's files: written once nothing speaks against the run, and never half."""

import errno
import json

import pytest

from displays import Silent
from redraft.rl.config.recipe import load_recipe
from redraft.rl.run_folder.files import WriteError
from redraft.rl.run_folder.mirror import Mirror
from redraft.rl.run_folder.recorder import Recorder
from tiny import largest_file, write_recipe


class Sink(Mirror):
    def __init__(self):
        self.rows, self.closed = [], False

    def rewind(self, step, seen, kept):
        self.rewound = step, len(seen), len(kept)

    def log(self, stage, values, step):
        self.rows.append((step, values))

    def close(self):
        self.closed = True


def make(folder, *trackers):
    return Recorder(load_recipe([write_recipe(folder)], []), Silent(), trackers)


def rows(recorder):
    return [
        (row["stage"], row["step"])
        for row in map(json.loads, (recorder.run / "metrics.jsonl").read_text().splitlines())
    ]


@pytest.fixture
def recorder(tmp_path):
    """Of a warm start and three steps, evaluated at every other one."""
    recorder = make(tmp_path)
    recorder.begin()
    written = [("sft", 1), ("sft", 2), ("eval", 0), ("train", 1), ("train", 2), ("eval", 2), ("train", 3)]
    for stage, step in written:
        recorder.metrics(stage, step, {"x": 1.0})
    (recorder.run / "samples").mkdir()
    for step in (1, 2, 3):
        (recorder.run / "samples" / f"step_{step:06d}.jsonl").touch()
    return recorder


def test_making_a_recorder_writes_nothing(tmp_path):
    recorder = make(tmp_path)
    assert not recorder.run.exists()
    recorder.rewind(0)
    recorder.drop_stage("sft")
    assert not recorder.run.exists()


def test_begin_says_what_runs_here_and_may_be_repeated(tmp_path):
    recorder = make(tmp_path)
    recorder.begin()
    recorder.begin()
    assert load_recipe([recorder.run / "config.resolved.yaml"], []) == recorder.config
    assert "torch" in json.loads((recorder.run / "env.json").read_text())["versions"]


def test_rewind_keeps_the_steps_of_the_checkpoint_and_drops_the_evaluation_that_is_made_again(recorder):
    recorder.rewind(2)
    assert rows(recorder) == [("sft", 1), ("sft", 2), ("eval", 0), ("train", 1), ("train", 2)]
    assert sorted(path.name for path in (recorder.run / "samples").iterdir()) == [
        "step_000001.jsonl",
        "step_000002.jsonl",
    ]


def test_a_row_that_had_no_room_is_written_by_the_resumed_run_once(recorder):
    unwritten = [("train", 4, {"x": 4.0})]
    recorder.rewind(4, unwritten)
    recorder.rewind(4, unwritten)
    assert rows(recorder)[-2:] == [("train", 3), ("train", 4)]
    recorder.rewind(3)
    assert rows(recorder)[-1] == ("train", 3)


def test_copies_of_samples_are_left_alone(recorder):
    for name in ("step_000003_best.jsonl", "step_x.jsonl", "step_000009.jsonl.bak"):
        (recorder.run / "samples" / name).touch()
    recorder.rewind(1)
    assert sorted(path.name for path in (recorder.run / "samples").iterdir()) == [
        "step_000001.jsonl", "step_000003_best.jsonl", "step_000009.jsonl.bak", "step_x.jsonl",
    ]  # fmt: skip


def test_a_full_disk_is_named_by_file_and_leaves_no_half_row(recorder):
    before = (recorder.run / "metrics.jsonl").read_bytes()
    with largest_file(len(before) + 10):
        with pytest.raises(WriteError, match=r"cannot write .*/run/metrics.jsonl: File too large"):
            recorder.metrics("train", 4, {"x": 1.0})
        assert (recorder.run / "metrics.jsonl").read_bytes() == before


def test_a_full_disk_at_the_start_is_named_by_file_and_keeps_the_old_files(recorder):
    before = {path.name: path.read_bytes() for path in recorder.run.iterdir() if path.is_file()}
    message = r"cannot write .*/run/config.resolved.yaml: File too large"
    with largest_file(100), pytest.raises(WriteError, match=message):
        recorder.begin()
    assert {path.name: path.read_bytes() for path in recorder.run.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("method", ["say", "warn"])
def test_a_terminal_that_is_gone_is_no_reason_to_stop(tmp_path, method):
    class Gone(Silent):
        def step(self, stage, step, metrics):
            raise OSError(errno.EIO, "Input/output error")

        say = warn = step

    recorder = Recorder(load_recipe([write_recipe(tmp_path)], []), Gone())
    recorder.begin()
    recorder._show(method, "text", 0, {})
    recorder.metrics("train", 1, {"x": 1.0})
    assert rows(recorder) == [("train", 1)]


def test_a_fresh_run_keeps_only_the_warm_start(recorder):
    recorder.rewind(0)
    assert rows(recorder) == [("sft", 1), ("sft", 2)]
    assert not list((recorder.run / "samples").iterdir())


def test_a_repeated_stage_appears_once(recorder):
    recorder.drop_stage("sft")
    recorder.metrics("sft", 1, {"x": 2.0})
    assert rows(recorder) == [("eval", 0), ("train", 1), ("train", 2), ("eval", 2), ("train", 3), ("sft", 1)]


def test_a_line_that_a_kill_cut_short_or_that_is_no_row_is_dropped(recorder):
    with (recorder.run / "metrics.jsonl").open("a") as file:
        file.write('null\n[4]\n{"step": 4}\n{"step": 4, "sta')
    recorder.rewind(3)
    assert rows(recorder)[-1] == ("train", 3)
    assert len(rows(recorder)) == 7


def test_metrics_survive_a_rewrite_that_fails(recorder, monkeypatch):
    before = rows(recorder)

    def fail(source, target):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        recorder.rewind(1)
    assert rows(recorder) == before


def test_trackers_get_every_stage_but_the_warm_start_and_are_closed(tmp_path):
    sink = Sink()
    recorder = make(tmp_path, sink)
    recorder.begin()
    for stage, step in [("sft", 20), ("eval", 0), ("train", 1)]:
        recorder.metrics(stage, step, {"x": 1.0})
    assert sink.rows == [(0, {"x": 1.0}), (1, {"x": 1.0})]
    recorder.close()
    assert sink.closed
