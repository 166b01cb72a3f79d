"""A killed run continues as if nothing had happened: N steps, kill -9, resume = 2N steps, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from displays import Silent
from redraft.rl.config.recipe import load_recipe
from redraft.rl.run import run_training
from redraft.rl.run_folder.checkpoint import newest_checkpoint
from redraft.rl.run_folder.recorder import Recorder
from tiny import make_policy, write_recipe

pytestmark = pytest.mark.usefixtures("signals_of_a_terminal")

COMMAND = [sys.executable, "-m", "redraft.rl.cli.main", "train"]
DEADLINE_S = 240
CHANGING = ("time/", "decode/tokens_per_s", "reward/slowest", "rewards/digits/ms_")


def start(recipe, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, str(recipe), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True,
    )  # fmt: skip


def finish(process, code=0):
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code, output
    return output


def run_here(recipe, *words, resume=False):
    """What needs no process of its own, because nothing ends it."""
    config = load_recipe([recipe], words)
    run_training(config, Recorder(config, Silent()), resume)


def metrics(run):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(CHANGING)} for line in lines]


def wait_for_step(run, step, process):
    deadline = time.monotonic() + DEADLINE_S
    while not any(row["stage"] == "train" and row["step"] >= step for row in metrics(run)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, f"no step {step} within {DEADLINE_S} s"
        time.sleep(0.02)


def learned_bytes(run):
    newest = newest_checkpoint(run)
    files = sorted((newest / "hf").iterdir())
    return {path.name: path.read_bytes() for path in files if path.name != "README.md"}  # it names the run


@pytest.mark.parametrize("backend", ["inprocess", pytest.param("ray", marks=pytest.mark.heavy)])
def test_a_run_that_was_killed_and_resumed_equals_one_that_was_not(tmp_path, backend):
    make_policy(tmp_path / "policy")
    trainer = {"total_steps": 12, "learning_rate": 1e-2, "save_steps": 4}
    recipe = write_recipe(tmp_path, trainer=trainer, algorithm={"preset": "vrbpo"})
    backend = f"cluster.backend={backend}"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_here(recipe, backend, f"output_dir={whole}")

    process = start(recipe, backend, f"output_dir={killed}")
    wait_for_step(killed, 6, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=DEADLINE_S)
    assert newest_checkpoint(killed).name in {"step_000004", "step_000008"}
    finish(start(recipe, backend, f"output_dir={killed}", "--resume"))

    assert metrics(killed) == metrics(whole)
    assert learned_bytes(killed) == learned_bytes(whole)


@pytest.mark.parametrize(
    ("backend", "number"),
    [
        ("inprocess", signal.SIGTERM),
        pytest.param("inprocess", signal.SIGHUP, marks=pytest.mark.heavy),
        pytest.param("ray", signal.SIGINT, marks=pytest.mark.heavy),
    ],
)
def test_ctrl_c_ends_cleanly_with_a_checkpoint_that_resumes(tmp_path, backend, number):
    make_policy(tmp_path / "policy")
    recipe = write_recipe(tmp_path, trainer={"total_steps": 500, "save_steps": 500})
    run = tmp_path / "elsewhere"
    words = [f"cluster.backend={backend}", f"output_dir={run}"]
    process = start(recipe, *words)
    wait_for_step(run, 2, process)
    os.killpg(process.pid, number)  # a terminal's Ctrl-C reaches every process of the group, actors too
    output = finish(process, code=130)
    done = json.loads((newest_checkpoint(run) / "trainer.json").read_text())["step"]
    assert 2 <= done < 500
    assert "stopping after this step" in output
    assert f"stopped after step {done}; continue with: redraft train {recipe} {' '.join(words)} --resume" in output
    run_here(recipe, *words, f"trainer.total_steps={done + 1}", resume=True)
    assert newest_checkpoint(run).name == f"step_{done + 1:06d}"
    assert [row["policy_version"] for row in metrics(run) if row["stage"] == "train"][-1] == done + 1


@pytest.fixture
def ray_head(tmp_path, monkeypatch):
    """A cluster that somebody else started, somewhere else; Ray lets in who knows its token."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "redraft-tests-" + "0" * 32)
    elsewhere = tmp_path / "head"
    elsewhere.mkdir()
    command = str(Path(sys.executable).with_name("ray"))
    port = 20000 + os.getpid() % 10000
    start = [command, "start", "--head", "--block", f"--port={port}", "--num-cpus=5", "--include-dashboard=false"]
    head = subprocess.Popen(
        start, cwd=elsewhere, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    for line in head.stdout:
        if "Ray runtime started" in line:
            break
    yield f"127.0.0.1:{port}"
    # Not `ray stop`: that ends every Ray process of the machine, other tests' clusters among them.
    os.killpg(head.pid, signal.SIGTERM)
    head.communicate(timeout=DEADLINE_S)


@pytest.mark.heavy
def test_a_run_joins_the_cluster_that_ray_address_names(tmp_path, ray_head, monkeypatch):
    from tiny import SHAPE

    sft = {"data": {"path": "arithmetic", "kwargs": {"max_a": 9, "max_b": 9}}, "max_steps": 2, "batch_size": 4}
    recipe = write_recipe(tmp_path, model={"init": SHAPE}, sft=sft)
    monkeypatch.setenv("RAY_ADDRESS", ray_head)
    monkeypatch.chdir(tmp_path)  # the actors live in the head's folder: a relative output_dir must still be found
    finish(start(recipe, "cluster.backend=ray", "output_dir=run", "trainer.total_steps=2"))
    assert newest_checkpoint(tmp_path / "run").name == "step_000002"
