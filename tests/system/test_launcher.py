"""What another launcher left in the environment, and clusters that are gone."""

import os
import socket
import subprocess
import sys

import pytest

from redraft.rl.cli.main import main
from redraft.rl.preflight import launcher
from redraft.rl.preflight.launcher import RayAddressError, check_ray_address, forget_launcher
from tiny import SHAPE, write_recipe

LEFT = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_FSDP": "true"}
MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "PMI_SIZE": "2", "PMI_RANK": "1"}
OURS = {"PATH": "/bin", "SLURM_NTASKS": "2", "CUDA_VISIBLE_DEVICES": "1", "RANKS": "x", "MY_WORLD_SIZE": "3"}


def test_only_variables_of_launchers_are_forgotten():
    environment = {**LEFT, **ACCELERATE, **MPI, **OURS, "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
    assert forget_launcher(environment) == sorted({*LEFT, *ACCELERATE, *MPI, "WORLD_SIZE", "TORCHELASTIC_RUN_ID"})
    assert environment == OURS
    assert forget_launcher(environment) == []


def test_every_verb_forgets_what_a_launcher_left(monkeypatch, capsys):
    for name, value in LEFT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["redraft", "recipes", "list"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert f"ignoring {', '.join(sorted(LEFT))} of another launcher" in capsys.readouterr().err


@pytest.mark.heavy  # tests/rl/test_public_api.py runs a program with such variables in a process of its own
@pytest.mark.parametrize(
    ("verb", "left"),
    [("train", LEFT | MPI | {"WORLD_SIZE": "2"}), ("sft", LEFT | ACCELERATE | {"WORLD_SIZE": "1"})],
)
def test_a_command_is_one_process_whatever_a_launcher_left(tmp_path, verb, left):
    sft = {"data": {"path": "arithmetic", "kwargs": {"max_a": 9, "max_b": 9}}, "max_steps": 1, "batch_size": 2}
    path = write_recipe(tmp_path, model={"init": SHAPE}, sft=sft, evaluation=None, report_to=["tensorboard"])
    command = [sys.executable, "-m", "redraft.rl.cli.main", verb, path, "trainer.total_steps=1", "trainer.save_steps=1"]
    done = subprocess.run(command, env={**os.environ, **left}, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert f"ignoring {', '.join(sorted(left))} of another launcher" in done.stderr
    assert (tmp_path / "run" / "sft" / "hf" / "model.safetensors").is_file()


@pytest.fixture
def silent():
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_an_address_where_no_cluster_answers_is_refused_within_the_deadline(monkeypatch, silent):
    monkeypatch.setattr(launcher, "_DEADLINE_S", 4.0)
    for address in ("127.0.0.1:1", silent, "nonsense"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(RayAddressError, match=r"unset RAY_ADDRESS .*cluster.backend=inprocess") as error:
            check_ray_address()
        assert str(error.value).startswith(f"RAY_ADDRESS={address}: ")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("address", ["", "local"])
def test_without_an_address_nothing_is_asked(monkeypatch, address):
    monkeypatch.setattr(subprocess, "run", None)
    monkeypatch.setenv("RAY_ADDRESS", address)
    check_ray_address()


def test_a_cluster_that_is_gone_is_known_before_the_warm_start(tmp_path, monkeypatch, capsys):
    sft = {"data": {"path": "arithmetic"}, "max_steps": 1}
    path = write_recipe(tmp_path, model={"init": SHAPE}, sft=sft, cluster={"backend": "ray"})
    monkeypatch.setattr(launcher, "_DEADLINE_S", 3.0)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(sys, "argv", ["redraft", "train", str(path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("error: RAY_ADDRESS=127.0.0.1:1: no Ray cluster can be joined there")
    assert not (tmp_path / "run").exists()
