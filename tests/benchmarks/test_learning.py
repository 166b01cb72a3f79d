"""The learning benchmark end to end on a very small grid: real runs, processes, resuming, report."""

import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.learning import grid as grid_module
from benchmarks.learning.algorithms import algorithms
from benchmarks.learning.grid import FILE, Grid, read_records, run_grid
from benchmarks.learning.run import RunSpec, count_forwards, run_config, run_one
from benchmarks.learning.tasks import TASKS, TOKENS
from benchmarks.learning.warm import WarmStart, ensure_warm_start
from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.learner.learner import Learner
from redraft.rl.models.registry import load_policy

SPEC = RunSpec("vrbpo", "arithmetic", "q", 1e-3, 0, steps=2, prompts=2, generations=4, held_out=4)
START = WarmStart("arithmetic", steps=2, batch_size=8, demonstrations=50)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def policy(runs):
    return ensure_warm_start(START, runs)


def without_times(record):
    return {name: value for name, value in record.items() if name != "seconds"}


def test_a_run_is_a_pure_function_of_its_spec_algorithm_and_policy(policy):
    chosen = algorithms()["vrbpo"]
    first, second = (without_times(run_one(SPEC, chosen, policy)) for _ in range(2))
    other = without_times(run_one(dataclasses.replace(SPEC, seed=1), chosen, policy))
    assert first == second
    assert first["curves"] != other["curves"]
    assert json.loads(json.dumps(first)) == first
    assert len(first["curves"]["tokens_per_forward"]) == 2


def test_all_algorithms_see_the_same_first_rollouts(policy):
    found = {
        name: run_one(dataclasses.replace(SPEC, preset=name), algorithm, policy)["curves"]
        for name, algorithm in algorithms().items()
    }
    for name in ("reward", "tokens_per_forward", "edits"):
        assert len({curves[name][0] for curves in found.values()}) == 1


def test_a_warm_start_is_made_once_and_again_when_a_setting_changes(runs, policy):
    before = (policy / "model.safetensors").stat().st_mtime_ns
    assert ensure_warm_start(START, runs) == policy
    assert (policy / "model.safetensors").stat().st_mtime_ns == before
    assert dataclasses.replace(START, steps=3).folder(runs) != policy


def test_forwards_are_counted_in_rows_with_and_without_a_graph(policy):
    model = load_policy(str(policy), "float32", "cpu")
    spent = count_forwards(model)
    ids, positions = torch.zeros(3, 8, dtype=torch.int64), torch.arange(8).expand(3, -1)
    everything = torch.ones(1, 8, 8, dtype=torch.bool)
    model.hidden_states(ids, positions, everything)
    with torch.no_grad():
        model.hidden_states(ids[:2], positions[:2], everything)
    with torch.inference_mode():
        model.hidden_states(ids, positions, everything)
    assert spent == {"learn": 3, "score": 2}


def test_a_gradient_that_is_not_finite_ends_the_run_and_says_where(policy, monkeypatch):
    def broken(self, rows):
        raise FloatingPointError("gradient norm is nan at policy version 0")

    monkeypatch.setattr(Learner, "update", broken)
    record = run_one(SPEC, AlgorithmConfig(), policy)
    assert record["failed"] == "step 0: gradient norm is nan at policy version 0"
    assert record["held_out"] is None


def test_the_decoder_of_a_run_is_the_published_mode_with_replayable_draws():
    config = run_config(dataclasses.replace(SPEC, mode="s"), AlgorithmConfig(), 5)
    decode = config.rollout.decode
    assert (decode.threshold, decode.editing_threshold, decode.max_completion_length) == (0.5, 0.0, 5)
    assert (decode.temperature, decode.unmask_confidence, decode.edit_sampling) == (1.0, "top", "sample")


def test_a_finished_run_is_not_run_again_and_a_changed_algorithm_is(tmp_path, policy, runs, monkeypatch):
    ran = []

    class Pool:
        """As the executor, in this process."""

        def __init__(self, *settings):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *problem):
            pass

        def submit(self, function, *arguments):
            from concurrent.futures import Future

            future = Future()
            if function is run_one:
                ran.append(arguments[0])
                record = {"spec": dataclasses.asdict(arguments[0]), "algorithm": arguments[1].model_dump(mode="json")}
                future.set_result(record)
            else:
                future.set_result(function(*arguments))
            return future

    monkeypatch.setattr(grid_module, "ProcessPoolExecutor", Pool)
    grid = Grid(("ebpo", "d2"), ("arithmetic",), ("q",), (1e-3,), seeds=2, steps=2)
    known, seen = algorithms(), []

    def go(algorithms_now):
        ran.clear()
        return run_grid(grid, algorithms_now, {"arithmetic": START}, runs, 1, lambda *counts: seen.append(counts))

    assert [record["spec"]["seed"] for record in go(known)] == [0, 0, 1, 1]
    assert len(ran) == 4
    assert seen[0] == (0, 4)
    assert seen[-1] == (4, 4)
    go(known)
    assert ran == []
    changed = AlgorithmConfig.model_validate({"preset": "ebpo", "loss": {"ratio": {"kind": "sequence", "gamma": 0.5}}})
    go({**known, "ebpo": changed})
    assert [spec.preset for spec in ran] == ["ebpo", "ebpo"]
    with (runs / FILE).open("a") as file:
        file.write('{"spec": {"preset": "eb')  # what a kill leaves
    go(known)
    assert [spec.preset for spec in ran] == []
    assert len(read_records(runs)) == 6


def test_the_command_runs_a_small_grid_in_processes_and_writes_its_report(tmp_path):
    words = [
        "learning", "--presets", "ebpo", "--presets", "vrbpo", "--tasks", "arithmetic",
        "--modes", "q", "--rates", "1e-3", "--seeds", "1", "--steps", "2", "--warm-steps", "2",
        "--workers", "1", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert "arithmetic, Q decoding" in result.stdout
    report = json.loads((tmp_path / "out" / "learning.json").read_text())
    assert {one["preset"] for one in report["cells"]["arithmetic/q"]["standings"]} == {"ebpo", "vrbpo"}
    assert (tmp_path / "out" / "learning.png").stat().st_size > 10_000
    assert "| ebpo |" in (tmp_path / "out" / "learning.md").read_text()
    assert len(read_records(tmp_path / "runs")) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--presets", "epbo"], "unknown preset 'epbo'; valid: vrbpo"),
        (["--tasks", "sums"], "unknown task 'sums'; valid: prefix_sum, arithmetic"),
        (["--modes", "z"], "unknown mode 'z'; valid: q, s"),
    ],
)
def test_unknown_names_are_refused_with_the_valid_ones(tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        CliRunner().invoke(app, ["learning", "--runs", str(tmp_path), *words], catch_exceptions=False)


def test_special_tokens_and_vocabulary_fit_the_policy(policy):
    vocabulary = load_policy(str(policy), "float32", "cpu").config.vocab_size
    assert max(TOKENS.mask, TOKENS.pad, *TOKENS.stops) < vocabulary
    assert all(max((*one.prompt, *one.answer)) < vocabulary for make in TASKS.values() for one in make().train)
