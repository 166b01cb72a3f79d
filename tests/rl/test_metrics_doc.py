"""docs/metrics.md names every metric that the code can emit, and no other."""

import ast
import json
import re
from pathlib import Path

import pytest

from displays import Silent
from redraft.rewards.result import Status
from redraft.rl.config.recipe import load_recipe
from redraft.rl.run import run_training
from redraft.rl.run_folder.recorder import Recorder
from short_names import sections
from tiny import SHAPE, write_recipe

ROOT = Path(__file__).resolve().parents[2]
LABELS = {
    *("tokens/forward", "benchmarks/results", "runs/bench_learning"),  # of the console line; folders
    *("tokens/s", "edits/token", "experts/layer", "ms/pass", "calls/pass"),  # columns of `python -m benchmarks decode`
}
NAME = re.compile(r"[a-z]+/[a-z0-9_]+")

ON_TRAJECTORY = {"path_check": "log", "rollout_correction": "token", "anchor": 0.1, "route_replay": "compare"}
OF_TRAJECTORIES = {
    "mismatch/log_prob_abs", "mismatch/path_fraction", "mismatch/correction", "mismatch/truncated_fraction",
    "objective/anchor", "moe/router_agreement", "moe/live_agreement",
}  # fmt: skip
OF_RANKS = {"moe/rank_load_max"}
OF_EDITS = {"objective/t2t_clip_fraction", "objective/t2t_log_ratio_abs"}


def documented() -> set[str]:
    rows = [line for line in (ROOT / "docs" / "metrics.md").read_text().splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall("`([^`]+)`", row.split(" | ")[0])}


def in_the_code() -> set[str]:
    """String literals `namespace/name`."""
    files = [path for path in (ROOT / "rl").rglob("*.py") if "models" not in path.parts]
    trees = [ast.parse(path.read_text()) for path in files]
    texts = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return {text for text in texts if isinstance(text, str) and NAME.fullmatch(text)} - LABELS


def general(name: str) -> str:
    """`rewards/digits/ok_fraction` as the documentation writes it."""
    parts = name.split("/")
    if parts[0] != "rewards":
        return name
    status, is_fraction = re.subn("_fraction$", "", parts[2])
    assert not is_fraction or status in set(Status)
    return f"rewards/<name>/{'<status>_fraction' if is_fraction else parts[2]}"


def test_every_metric_of_the_code_has_a_row_and_every_row_a_metric():
    rows = {name for name in documented() if not name.startswith("rewards/")} - {"policy_version"}
    assert in_the_code() == rows


def test_every_status_is_documented():
    (row,) = [line for line in (ROOT / "docs" / "metrics.md").read_text().splitlines() if "<status>_fraction" in line]
    assert set(re.findall(r"\w+", row.split("with that status:")[1])) == set(Status)


@pytest.mark.parametrize("estimator", ["trajectory", "elbo"])
def test_every_metric_of_a_real_run_is_documented(tmp_path, estimator):
    own = {"estimator": "elbo", "ratio": "sequence"} if estimator == "elbo" else ON_TRAJECTORY
    sft = {"data": {"path": "arithmetic", "kwargs": {"max_a": 9, "max_b": 9}}, "max_steps": 2, "eval_steps": 2}
    settings = {**own, "beta": 0.1, "num_iterations": 2}
    recipe = write_recipe(tmp_path, model={"init": SHAPE}, sft=sft, algorithm=sections(settings))
    config = load_recipe([recipe], ["trainer.total_steps=1", "rollout.decode.record_routes=true"])
    recorder = Recorder(config, Silent())
    run_training(config, recorder, resume=False)
    rows = [json.loads(line) for line in (recorder.run / "metrics.jsonl").read_text().splitlines()]
    emitted = {name for row in rows for name in row} - {"step", "stage"}
    assert {general(name) for name in emitted} <= documented()
    assert ("mismatch/log_prob_abs" in emitted) == (estimator == "trajectory")
    absent = (
        documented() - OF_RANKS - {general(name) for name in emitted}
    )  # with a KL term and a warm start nothing is left out
    assert absent <= (OF_EDITS if estimator == "trajectory" else OF_EDITS | OF_TRAJECTORIES)
