"""A run that goes on from its checkpoint is the run that was never stopped: for each preset and each stateful setting.

The default run takes one preset per estimator; the others are heavy.

The checkpoint is one that the undisturbed run wrote itself, in a copy of its folder without what came after.
"""

import json
import shutil

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from displays import Silent
from redraft.rl.config.recipe import load_recipe
from redraft.rl.run import run_training
from redraft.rl.run_folder.checkpoint import complete_checkpoints
from redraft.rl.run_folder.files import WriteError
from redraft.rl.run_folder.recorder import Recorder
from tiers import one_per_estimator
from tiny import largest_file, make_policy, write_recipe

CHANGING = ("time/", "decode/tokens_per_s", "reward/slowest", "rewards/digits/ms_")
HOT = ("trainer.learning_rate=1e-2", "trainer.total_steps=2", "trainer.save_steps=1", "rollout.prompts_per_step=2")
SETTINGS = {
    "everything drawn by the step": {
        "rollout.max_sampling_rounds": 3, "trainer.shuffle_rewards": True, "trainer.warmup_steps": 3,
        "algorithm.preset": "vrbpo",
    },
    "a reference, decay, several passes": {
        "algorithm.preset": "vrbpo", "algorithm.regulariser": {"kl": {"beta": 0.5}, "anchor": {"weight": 0.05}},
        "trainer.weight_decay": 0.1, "trainer.adam_beta2": 0.9,
        "algorithm.update.num_iterations": 2, "algorithm.update.redraw": True,
    },
    "routes and paths of the rollout, a router that learns": {
        "algorithm.correction": {"route_replay": "rollout", "path_check": "mask", "rollout": "token"},
        "rollout.decode.record_routes": True, "trainer.freeze_router": False,
        "algorithm.update.num_minibatches": 3, "algorithm.update.target_drift": 1e-5,
    },
    "all rows compared": {
        "algorithm.advantage.kind": "reinforce_plus_plus",
        "algorithm.regulariser.kl": {"kind": "k1_reward", "beta": 0.1},
        "algorithm.advantage.multi_objective_aggregation": "normalize_then_sum",
        "trainer.tokens_per_microbatch": 64, "model.dtype": "float64",
    },
}  # fmt: skip


class NoWarning(Silent):
    def warn(self, text):
        raise AssertionError(text)


def run(recipe, folder, *overrides, resume=False):
    config = load_recipe([recipe], [*HOT, *overrides, f"output_dir={folder}"])
    run_training(config, Recorder(config, NoWarning()), resume)
    return folder


def metrics(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in row.items() if not key.startswith(CHANGING)} for row in rows]


def saved(folder):
    newest = complete_checkpoints(folder)[-1]
    weights = {path.name: path.read_bytes() for path in (newest / "hf").iterdir() if path.name != "README.md"}
    return newest.name, weights, state_bytes(newest), json.loads((newest / "trainer.json").read_text())


def state_bytes(checkpoint):
    """What the learner would load; the archive itself is laid out in no fixed order."""
    file = checkpoint.with_name("state.pt")
    dcp_to_torch_save(checkpoint / "state", file)
    state = torch.load(file, weights_only=True)
    file.unlink()
    moments = {
        f"{name}.{kind}": value.numpy().tobytes()
        for name, kinds in state["optimizer"]["state"].items()
        for kind, value in kinds.items()
    }
    return moments, state["optimizer"]["param_groups"], state["policy_version"]


def assert_goes_on(recipe, tmp_path, *overrides):
    whole = run(recipe, tmp_path / "whole", *overrides)
    first, last = complete_checkpoints(whole)
    resumed = tmp_path / "resumed"
    shutil.copytree(whole, resumed, ignore=shutil.ignore_patterns(last.name))
    assert [folder.name for folder in complete_checkpoints(resumed)] == [first.name]
    run(recipe, resumed, *overrides, resume=True)
    assert metrics(resumed) == metrics(whole)
    assert saved(resumed) == saved(whole)
    return whole


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    make_policy(folder / "policy")
    return write_recipe(folder, evaluation=None)


@pytest.mark.parametrize("preset", one_per_estimator())
def test_a_preset_goes_on_as_if_nothing_had_happened(recipe, tmp_path, preset):
    whole = assert_goes_on(recipe, tmp_path, f"algorithm.preset={preset}")
    if preset == "vrbpo":  # a trust region that was never cut would prove nothing
        assert [row["objective/learning_rate"] < 0.009 for row in metrics(whole)] == [False, True]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_stateful_setting_goes_on_as_if_nothing_had_happened(recipe, tmp_path, name):
    assert_goes_on(recipe, tmp_path, *(f"{key}={json.dumps(value)}" for key, value in SETTINGS[name].items()))


def test_a_full_disk_in_mid_run_keeps_the_step_and_the_resumed_run_is_whole(recipe, tmp_path):
    words = ("trainer.total_steps=3", "trainer.save_steps=100")
    whole, full = run(recipe, tmp_path / "whole", *words), tmp_path / "full"
    full.mkdir()
    rows = full / "metrics.jsonl"  # so long already that it is the first file for which there is no room
    rows.write_text(json.dumps({"stage": "sft", "step": 1, "filler": "0" * 400_000}) + "\n")
    one_row = len((whole / "metrics.jsonl").read_text().splitlines()[0])
    message = rf"cannot write {rows}: File too large; complete checkpoints: step_000002; make room, .* --resume"
    with largest_file(rows.stat().st_size + one_row * 3 // 2), pytest.raises(WriteError, match=message):
        run(recipe, full, *words)
    assert [row["step"] for row in metrics(full)] == [1, 1]
    run(recipe, full, *words, resume=True)
    assert metrics(full)[1:] == metrics(whole)
    assert saved(full) == saved(whole)


def test_on_ray_every_kind_of_state_goes_on_too(tmp_path):
    make_policy(tmp_path / "policy")
    settings = {**SETTINGS["everything drawn by the step"], **SETTINGS["a reference, decay, several passes"]}
    words = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    assert_goes_on(
        write_recipe(tmp_path),
        tmp_path,
        "cluster.backend=ray",
        "evaluation.eval_steps=1",
        "rollout.num_actors=1",
        "cluster.reward_workers=1",
        *words,
    )
