"""Trackers mirror metrics.jsonl, and nothing that happens to them reaches the run."""

import importlib.util
import logging

import pytest

from displays import Silent
from redraft.rl.config.recipe import load_recipe
from redraft.rl.monitor.trackers import _trackio, _wandb, open_trackers
from redraft.rl.run_folder.mirror import Mirror, Start
from redraft.rl.run_folder.recorder import Recorder
from tiny import write_recipe


class Failing:
    """A tracker that fails in one method, and remembers what was called."""

    def __init__(self, method):
        self.method, self.calls = method, []

    def _call(self, method):
        self.calls.append(method)
        if method == self.method:
            raise RuntimeError("no network")

    def start(self):
        self._call("start")

    def log(self, values, step):
        self._call("log")

    def finish(self):
        self._call("finish")


def config(folder, *trackers):
    return load_recipe([write_recipe(folder, report_to=list(trackers))], [])


@pytest.mark.parametrize(
    ("method", "calls"),
    [
        ("start", ["start"]),
        ("log", ["start", "log"]),
        ("finish", ["start", "log", "log", "finish"]),
        ("none", ["start", "log", "log", "finish"]),
    ],
)
def test_a_tracker_that_fails_is_reported_once_and_left_out(tmp_path, caplog, method, calls):
    tracker = Failing(method)
    mirror = Mirror("wandb", tmp_path, lambda start: tracker)
    with caplog.at_level(logging.WARNING):
        mirror.log("train", {"x": 1.0}, 1)
        mirror.log("train", {"x": 2.0}, 2)
        mirror.close()
    assert tracker.calls == calls
    warned = [] if method == "none" else ["tracker wandb failed and is left out from here on: no network"]
    assert [record.getMessage() for record in caplog.records] == warned


def test_a_run_that_was_refused_before_its_first_row_starts_no_tracker(tmp_path):
    tracker = Failing("none")
    Mirror("wandb", tmp_path, lambda start: tracker).close()
    assert tracker.calls == []


class Remembering(Failing):
    """A tracker that remembers its rows, and how it was started."""

    def __init__(self, started):
        super().__init__("none")
        self.started, self.rows = started, []

    def log(self, values, step):
        self.rows.append((step, values["x"]))


def row(stage, step):
    return {"stage": stage, "step": step, "x": float(step)}


def mirrored(run, name, rewound, logged):
    """What a tracker got from one start of a run."""
    made = []
    mirror = Mirror(name, run, lambda start: made.append(Remembering(start)) or made[-1])
    mirror.rewind(*rewound)
    for stage, step in logged:
        mirror.log(stage, {"x": float(step)}, step)
    mirror.close()
    return made[0]


BEFORE = [("eval", 0), ("train", 1), ("train", 2), ("eval", 2), ("train", 3)]
ROWS = [row(*one) for one in BEFORE]


def test_a_resumed_run_is_the_same_run_of_a_tracker_and_sends_no_step_twice(tmp_path):
    first = mirrored(tmp_path, "wandb", (0, [row("sft", 9)], [row("sft", 9)]), BEFORE)
    second = mirrored(tmp_path, "wandb", (2, ROWS, ROWS[:3]), [("eval", 2), ("train", 3), ("train", 4)])
    third = mirrored(tmp_path, "wandb", (2, ROWS[:4], ROWS[:3]), [("eval", 2), ("train", 3), ("train", 4), ("eval", 4)])
    assert first.started.id == second.started.id == third.started.id
    assert [step for step, _ in first.rows] == [0, 1, 2, 2, 3]
    assert [step for step, _ in second.rows] == [4]
    # The third start only knows what metrics.jsonl says: step 4 is sent again if the second died before its row was in.
    assert [step for step, _ in third.rows] == [4, 4]


def test_tensorboard_voids_what_comes_again_and_gets_the_rest_of_that_step_back(tmp_path):
    mirrored(tmp_path, "tensorboard", (0, [], []), BEFORE)
    again = mirrored(tmp_path, "tensorboard", (2, ROWS, ROWS[:3]), [("eval", 2), ("train", 3)])
    assert again.started.step == 2
    assert [step for step, _ in again.rows] == [2, 2, 3]


def test_a_tracker_that_joins_later_gets_the_steps_before(tmp_path):
    mirrored(tmp_path, "tensorboard", (0, [], []), BEFORE)
    late = mirrored(tmp_path, "trackio", (2, ROWS, ROWS[:3]), [("eval", 2), ("train", 3)])
    assert [step for step, _ in late.rows] == [0, 1, 2, 2, 3]


def test_a_run_that_starts_anew_in_a_folder_is_another_run_of_its_trackers(tmp_path):
    first = mirrored(tmp_path, "wandb", (0, [], []), BEFORE)
    anew = mirrored(tmp_path, "wandb", (0, ROWS, []), BEFORE)
    assert first.started.id != anew.started.id
    assert len(anew.rows) == len(BEFORE)


def test_wandb_and_trackio_are_told_the_runs_name_recipe_and_that_it_may_go_on(tmp_path):
    settings = config(tmp_path, "wandb")
    wandb, trackio = (make(settings, Start("0123456789ab")).init_kwargs for make in (_wandb, _trackio))
    assert wandb["name"] == "run"
    assert trackio["name"] == "run-012345"
    assert wandb["id"] == "0123456789ab"
    assert wandb["resume"] == trackio["resume"] == "allow"
    assert wandb["config"] == trackio["config"] == settings.model_dump(mode="json")


def test_without_report_to_there_are_no_trackers(tmp_path):
    assert open_trackers(config(tmp_path)) == []


def test_a_tracker_that_is_not_installed_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"report_to: trackio is not installed; pip install 'redraft\[trackers\]'"):
        open_trackers(config(tmp_path, "trackio"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_what_metrics_jsonl_holds(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = config(tmp_path, "tensorboard")
    recorder = Recorder(settings, Silent(), open_trackers(settings))
    assert not recorder.run.exists()
    recorder.begin()
    recorder.metrics("sft", 20, {"eval/accuracy": 0.125})
    recorder.metrics("eval", 0, {"eval/accuracy": 0.25})
    recorder.metrics("train", 1, {"reward/mean": 0.5})
    recorder.metrics("eval", 1, {"eval/accuracy": 0.75})
    recorder.close()
    events = EventAccumulator(str(recorder.run / "redraft")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["eval/accuracy", "reward/mean"]
    assert [(event.step, event.value) for event in events.Scalars("eval/accuracy")] == [(0, 0.25), (1, 0.75)]
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(1, 0.5)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_no_step_twice_after_a_resume_and_holds_the_recipe(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = config(tmp_path, "tensorboard")
    for start, steps in [(0, [1, 2, 3, 4, 5]), (3, [4, 5, 6])]:
        recorder = Recorder(settings, Silent(), open_trackers(settings))
        recorder.begin()
        recorder.rewind(start)
        if start:
            recorder.metrics("eval", start, {"eval/accuracy": 0.5})
        for step in steps:
            recorder.metrics("train", step, {"reward/mean": step + start / 10})
        recorder.close()
    events = EventAccumulator(str(recorder.run / "redraft")).Reload()
    seen = [(event.step, round(event.value, 4)) for event in events.Scalars("reward/mean")]
    assert seen == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.3), (5, 5.3), (6, 6.3)]
    assert [event.step for event in events.Scalars("eval/accuracy")] == [3]
    recipes = events.Tensors("recipe/text_summary")
    assert [event.step for event in recipes] == [0, 3]
    assert all("learning_rate: 0.001" in event.tensor_proto.string_val[0].decode() for event in recipes)
