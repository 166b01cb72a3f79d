"""The command of docs/cluster.md for several nodes, word for word, on a cluster of this machine with a token."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT
from redraft.rl.run_folder.checkpoint import newest_checkpoint
from tiny import make_policy, write_recipe

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("signals_of_a_terminal")]

DEADLINE_S = 400
BIN = Path(sys.executable).parent


def documented(command: str) -> list[str]:
    """The words of the one line of docs/cluster.md that begins with a command, without its comment."""
    text = (ROOT / "docs" / "cluster.md").read_text()
    (line,) = re.findall(rf"^    ({re.escape(command)}.*?)(?: +#.*)?$", text, re.MULTILINE)
    return line.split()


@pytest.fixture
def environment(tmp_path):
    """A user's, who has no token yet; ports are of this test, as others may have a cluster here."""
    port = 20000 + os.getpid() % 10000
    settings = {"HOME": str(tmp_path / "home"), "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "token"}
    settings |= {"OMP_NUM_THREADS": "1", "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port + 1}"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    (tmp_path / "home").mkdir()
    return port, kept | settings


@pytest.fixture
def head(environment):
    port, variables = environment
    subprocess.run(documented("ray get-auth-token"), env=variables, check=True, capture_output=True)
    start = [word.replace("6379", str(port)) for word in documented("ray start --head")]
    head = subprocess.Popen(
        [*start, "--block", f"--dashboard-port={port + 1}", "--num-cpus=4", "--dashboard-host=127.0.0.1"],
        env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    for line in head.stdout:
        if "Ray runtime started" in line:
            break
    yield variables
    # Not `ray stop`: that ends every Ray process of the machine, other tests' clusters among them.
    os.killpg(head.pid, signal.SIGTERM)
    head.communicate(timeout=DEADLINE_S)


def submitted(words, environment):
    """Submit again while the head's agent, which starts after the head, is not there yet: Ray asks for that."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        done = subprocess.run(
            words, env=environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=DEADLINE_S,
        )  # fmt: skip
        if "No available agent" not in done.stdout or time.monotonic() > deadline:
            return done
        time.sleep(1)


@pytest.mark.timeout(900)
def test_the_documented_command_runs_a_recipe_on_a_cluster_with_a_token(head, tmp_path):
    make_policy(tmp_path / "policy")
    shared = write_recipe(
        tmp_path,
        evaluation=None,
        trainer={"total_steps": 2, "learning_rate": 1e-3, "parallel": {"ranks": 2}},
        rollout={
            "prompts_per_step": 2,
            "num_generations": 2,
            "decode": {"max_completion_length": 8, "block_length": 8},
        },
        cluster={"backend": "ray"},
    )
    assert shared == tmp_path / "recipe.yaml"
    words = [word.replace("/shared", str(tmp_path)) for word in documented("ray job submit")]
    done = submitted(words, head)
    assert done.returncode == 0, done.stdout
    assert newest_checkpoint(tmp_path / "runs" / "first").name == "step_000002"
    without = {name: value for name, value in head.items() if not name.startswith("RAY_AUTH")}
    refused = subprocess.run(
        [*words[:3], "--", "true"], env=without | {"HOME": "/"}, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert refused.returncode != 0
    assert "oken" in refused.stdout + refused.stderr
