"""A learner that is lost is replaced, and the run goes on as if nothing had happened; in one process, without Ray."""

import json

import pytest

from displays import Silent, Warnings
from redraft.rl.cluster.errors import ClusterError, LearnerLostError
from redraft.rl.config.recipe import load_recipe
from redraft.rl.learner.worker import LearnerWorker
from redraft.rl.run import run_training
from redraft.rl.run_folder.checkpoint import complete_checkpoints
from redraft.rl.run_folder.recorder import Recorder
from tiny import make_policy, write_recipe

CHANGING = ("time/", "decode/tokens_per_s", "reward/slowest", "rewards/digits/ms_")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("restart")
    make_policy(folder / "policy")
    # A KL, so that a new learner needs the first policy as its reference too.
    return write_recipe(folder, algorithm={"preset": "vrbpo", "regulariser": {"kl": {"beta": 0.5}}})


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(recipe, folder, Silent())
    return folder


def run(recipe, folder, display, *words):
    config = load_recipe([recipe], [f"output_dir={folder}", *words])
    return run_training(config, Recorder(config, display), resume=False)


def metrics(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in row.items() if not key.startswith(CHANGING)} for row in rows]


def weights(folder):
    newest = complete_checkpoints(folder)[-1]
    return newest.name, (newest / "hf" / "model.safetensors").read_bytes()


@pytest.fixture
def losing(monkeypatch):
    """The updates of some numbers, counted from 0 over the whole run, lose the learner."""

    def lose(numbers):
        update, count = LearnerWorker.update, iter(range(100))

        def unreliable(self, rows):
            metrics = update(self, rows)  # what was learned is lost too
            if next(count) in numbers:
                raise LearnerLostError("learner: rank 1 died in update: killed")
            return metrics

        monkeypatch.setattr(LearnerWorker, "update", unreliable)

    return lose


@pytest.mark.parametrize(
    ("lost", "start"),
    [
        ({2}, "step_000002"),
        ({1}, "the run's first policy"),
        pytest.param({3, 5}, "step_000002", marks=pytest.mark.heavy),
    ],
)
def test_a_run_whose_learner_is_lost_equals_one_that_was_not_disturbed(recipe, whole, losing, tmp_path, lost, start):
    losing(lost)
    display = Warnings()
    assert run(recipe, tmp_path, display).steps == 4
    losses = [text for text in display.texts if "rank 1 died" in text]
    assert len(losses) == len(lost)
    assert losses[0].endswith(f"going on with a new learner from {start}")
    assert metrics(tmp_path) == metrics(whole)
    assert weights(tmp_path) == weights(whole)


def test_losses_in_a_row_end_the_run_with_what_was_lost(recipe, losing, tmp_path):
    losing(range(2, 100))
    message = r"rank 1 died in update: killed\nlost 3 times in a row at step 3; continue with --resume"
    with pytest.raises(ClusterError, match=message):
        run(recipe, tmp_path, Silent(), "cluster.max_restarts=2")
    assert [folder.name for folder in complete_checkpoints(tmp_path)] == ["step_000002"]
