"""The worker that a recipe's `rollout.engine` names."""

import pytest

from oracles.tiny_policy import TOKENS, run_config
from redraft.rl.cli.main import main
from redraft.rl.cluster.rollout_worker import rollout_worker
from redraft.rl.config.recipe import RecipeError, load_recipe
from redraft.rollout.config import Limits
from redraft.rollout.vllm.engine import VLLMRolloutWorker
from redraft.rollout.vllm.options import WorkerOptions
from redraft.rollout.worker import RolloutWorker
from tiny import make_policy, write_recipe


def with_rollout(**settings):
    config = run_config()
    return config.model_copy(update={"rollout": config.rollout.model_copy(update=settings)})


def test_the_torch_engine_is_the_default_and_gets_the_recipes_limits():
    settings = {"slots": 5, "cache_gib": 0.5, "logits_mib": 3.0, "forward_timeout_s": 7.0}
    worker = rollout_worker("folder", with_rollout(**settings), TOKENS, threads=2)
    _, tokens, limits, threads = worker.args
    assert (worker.func, tokens, threads) == (RolloutWorker, TOKENS, 2)
    assert limits == Limits(slots=5, cache_bytes=2**29, logits_bytes=3 * 2**20, step_timeout_s=7.0)


def test_a_vllm_worker_is_told_how_to_make_the_policy(monkeypatch):
    monkeypatch.setattr("redraft.rollout.vllm.engine.find_spec", lambda name: object())
    config = with_rollout(engine="vllm", slots=5)
    worker = rollout_worker("folder", config, TOKENS, threads=None)
    options, limits, threads = worker.args
    assert worker.func is VLLMRolloutWorker
    assert (limits.slots, threads) == (5, None)
    assert WorkerOptions.read(options.model_dump(mode="json")) == WorkerOptions(
        load_model="redraft.rl.models.registry:load_policy",
        path="folder",
        dtype=config.model.dtype,
        device=config.model.device,
        tokens=TOKENS,
        decode=config.rollout.decode.model_dump(),
    )


def test_a_missing_vllm_ends_the_run_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("redraft.rollout.vllm.engine.find_spec", lambda name: None)
    make_policy(tmp_path / "policy")
    recipe = write_recipe(tmp_path)
    monkeypatch.setattr("sys.argv", ["redraft", "train", str(recipe), "rollout.engine=vllm"])
    with pytest.raises(SystemExit):
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "error: rollout.engine: vllm needs vLLM, which is not installed: pip install 'redraft[vllm]'"
    )
    assert "VLLM_TARGET_DEVICE=empty pip install" in line
    assert not (tmp_path / "run").exists()


def test_a_recipe_whose_decoding_vllm_cannot_do_is_refused(tmp_path):
    make_policy(tmp_path / "policy")
    overrides = ["rollout.engine=vllm", "evaluation.decode.editing_window=2"]
    with pytest.raises(RecipeError, match=r"rollout\.engine: vllm cannot open earlier blocks again"):
        load_recipe([write_recipe(tmp_path)], overrides)
