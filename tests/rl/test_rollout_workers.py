"""The worker that a recipe's `rollout.engine` names."""

import pytest
import torch

from oracles.tiny_policy import TOKENS, run_config
from redraft.rl.cli.main import main
from redraft.rl.cluster.rollout_worker import rollout_worker
from redraft.rl.config.by_device import rollout_dtype
from redraft.rl.config.recipe import RecipeError, load_recipe
from redraft.rl.learner.worker import LearnerWorker
from redraft.rl.models.registry import load_text_side
from redraft.rollout.config import Limits
from redraft.rollout.trajectory import Prompt
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


@pytest.mark.parametrize(
    ("asked", "learner", "on_cpu", "on_gpu"),
    [
        ("auto", "float32", "float32", "bfloat16"),
        ("auto", "float64", "float64", "bfloat16"),
        ("float32", "float64", "float32", "float32"),
    ],
)
def test_an_engine_computes_in_the_learners_type_on_a_cpu_and_in_bfloat16_on_a_gpu(asked, learner, on_cpu, on_gpu):
    config = with_rollout(dtype=asked)
    config = config.model_copy(update={"model": config.model.model_copy(update={"dtype": learner})})
    assert (rollout_dtype(config, on_gpu=False), rollout_dtype(config, on_gpu=True)) == (on_cpu, on_gpu)


def test_an_engine_of_another_type_gets_the_learners_weights_rounded_to_it(tmp_path):
    path = str(make_policy(tmp_path / "policy"))
    config = load_recipe([write_recipe(tmp_path)], ["rollout.dtype=bfloat16", "model.device=cpu"])
    _, tokens = load_text_side(path)
    learner, worker = LearnerWorker(path, config, tokens), rollout_worker(path, config, tokens, None)()
    assert worker.sync(learner.weights()) == 0
    installed = worker.policy.model.state_dict()
    for name, weight in learner.learner.model.state_dict().items():
        kept = name.endswith("expert_bias")
        assert installed[name].dtype == (torch.float32 if kept else torch.bfloat16)
        assert torch.equal(installed[name], weight if kept else weight.bfloat16())
    prompts = [Prompt("p", (3, 4, 5), seed=0)]
    ((_, completion),) = worker.stream(prompts, config.rollout.decode)
    assert completion.policy_version == 0


def test_a_vllm_worker_is_told_how_to_make_the_policy(monkeypatch):
    monkeypatch.setattr("redraft.rollout.vllm.engine.find_spec", lambda name: object())
    config = with_rollout(engine="vllm", slots=5)
    worker = rollout_worker("folder", config, TOKENS, threads=None)
    make_options, limits, threads = worker.args
    options = make_options()
    assert worker.func is VLLMRolloutWorker
    assert (limits.slots, threads) == (5, None)
    assert WorkerOptions.read(options.model_dump(mode="json")) == WorkerOptions(
        load_model="redraft.rl.models.registry:load_policy",
        path="folder",
        dtype=config.model.dtype,
        device=config.model.device,
        tokens=TOKENS,
        decode=config.rollout.decode.model_dump(),
        weights_by_sync=True,
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
