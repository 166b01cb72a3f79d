"""The whole loop with plain objects: what it writes, what it learns, and that it says what is wrong."""

import json

import pytest

from rl.data import DataError
from rl.recipe import RecipeError, load_recipe
from rl.recorder import Recorder
from rl.run import run_training
from tiny import DECODE, make_policy, recipe, write_recipe


class Lines:
    def __init__(self):
        self.rows = []

    def step(self, stage, step, metrics):
        self.rows.append((stage, step, dict(metrics)))


def run(folder, *overrides, resume=False, **sections):
    config = load_recipe([write_recipe(folder, **sections)], overrides)
    lines = Lines()
    outcome = run_training(config, Recorder(config, lines), resume)
    return outcome, lines.rows


@pytest.fixture
def place(tmp_path):
    make_policy(tmp_path / "policy")
    return tmp_path


def test_a_run_writes_metrics_samples_config_environment_and_checkpoints(place):
    outcome, rows = run(place)
    assert (outcome.steps, outcome.stopped) == (4, False)
    assert [(stage, step) for stage, step, _ in rows] == [
        ("eval", 0), ("train", 1), ("train", 2), ("eval", 2), ("train", 3), ("train", 4), ("eval", 4),
    ]  # fmt: skip
    folder = place / "run"
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in written] == [(stage, step) for stage, step, _ in rows]
    step = written[1]
    assert step["policy_version"] == 1.0
    assert step["mismatch/log_prob_abs"] < 1e-5  # the learner's replay is the decoder's own probability
    assert step["objective/log_ratio_abs"] == 0.0  # on-policy: every ratio is exactly 1
    samples = [json.loads(line) for line in (folder / "samples" / "step_000003.jsonl").read_text().splitlines()]
    assert len(samples) == 12
    assert {sample["policy_version"] for sample in samples} == {2}
    assert {"prompt", "completion", "reward", "parts", "ground_truth"} <= samples[0].keys()
    assert load_recipe([folder / "config.resolved.yaml"]).trainer.total_steps == 4
    assert "torch" in json.loads((folder / "env.json").read_text())["versions"]
    newest = folder / "checkpoints" / (folder / "checkpoints" / "latest").read_text()
    assert newest.name == "step_000004"
    assert {path.name for path in newest.iterdir()} == {"hf", "state", "data.json", "trainer.json", "MANIFEST.json"}
    assert (newest / "hf" / "tokenizer.json").is_file()


def test_the_loop_learns(place):
    _, rows = run(
        place, "trainer.total_steps=40", "trainer.learning_rate=1e-2", "evaluation.eval_steps=40",
        "rollout.prompts_per_step=8", "rollout.num_generations=8",
    )  # fmt: skip
    rewards = [metrics["reward/mean"] for stage, _, metrics in rows if stage == "train"]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2


@pytest.mark.parametrize(
    "algorithm",
    [
        {"estimator": "trajectory"},
        {"estimator": "elbo", "ratio": "sequence", "noise": "stratified"},
        {"estimator": "elbo", "ratio": "sequence", "noise": "bernoulli", "gamma": 0.5, "advantage": "leave_one_out"},
        {"estimator": "trajectory_sampled", "ratio": "sequence", "beta": 0.1},
        {"num_iterations": 2, "num_minibatches": 2, "beta": 0.05},
    ],
)
def test_every_estimator_and_objective_runs(place, algorithm):
    _, rows = run(place, "trainer.total_steps=2", algorithm=algorithm)
    trained = [metrics for stage, _, metrics in rows if stage == "train"]
    assert all(metrics["objective/grad_norm"] > 0 for metrics in trained)
    if algorithm.get("beta"):
        assert trained[-1]["objective/kl"] > 0


def test_rewards_can_be_shuffled_as_a_control(place):
    _, straight = run(place, "trainer.total_steps=1")
    _, shuffled = run(place, "trainer.total_steps=1", f"output_dir={place}/control", "trainer.shuffle_rewards=true")
    assert straight[1][2]["reward/mean"] == shuffled[1][2]["reward/mean"]
    assert straight[1][2]["objective/grad_norm"] != shuffled[1][2]["objective/grad_norm"]


def test_a_second_run_in_the_same_folder_is_refused(place):
    run(place, "trainer.total_steps=1")
    with pytest.raises(RecipeError, match="already holds checkpoints; continue with --resume"):
        run(place, "trainer.total_steps=1")


def test_resuming_what_is_done_is_an_error_not_a_silent_success(place):
    run(place, "trainer.total_steps=2")
    with pytest.raises(RecipeError, match=r"has done 2 of trainer.total_steps=2 steps: nothing to resume"):
        run(place, "trainer.total_steps=2", resume=True)


def test_resuming_without_a_checkpoint_is_an_error(place):
    with pytest.raises(FileNotFoundError, match="no complete checkpoint to resume from"):
        run(place, resume=True)


def test_resuming_with_other_rows_is_an_error(place):
    run(place, "trainer.total_steps=2")
    with pytest.raises(DataError, match="training rows changed"):
        run(place, "data.kwargs.max_a=8", resume=True)


def test_a_missing_model_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model.path: no folder .*policy"):
        run(tmp_path)


def test_a_prompt_longer_than_the_context_is_refused_with_its_lengths(place):
    rows = place / "long.jsonl"
    rows.write_text(json.dumps({"prompt": "1" * 60, "ground_truth": "1"}) + "\n")
    with pytest.raises(ValueError, match=r"has 60 tokens; .*but the policy has 64"):
        run(place, data={"path": str(rows)})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('ground truth')", "ground truth"),
        ("return [float('nan')] * len(completions)", "nan"),
        ("return [1.0]", "1 scores for"),
        ("import time; time.sleep(60)", "within"),
    ],
)
def test_a_broken_reward_stops_the_run_and_says_why(place, body, message):
    broken = place / "broken.py"
    broken.write_text(f"def broken(prompts, completions, **columns):\n    {body}\n")
    with pytest.raises(Exception, match=message) as caught:
        run(place, rewards=[{"fn": f"{broken}:broken", "timeout_s": 2}])
    assert "broken" in str(caught.value)


def test_rewards_of_none_everywhere_stop_the_run(place):
    masked = place / "masked.py"
    masked.write_text("def masked(prompts, completions, **columns):\n    return [None] * len(completions)\n")
    with pytest.raises(ValueError, match=r"none of 6 rows could be scored|are masked"):
        run(place, rewards=[{"fn": f"{masked}:masked"}])


def test_a_masked_sample_is_left_out_of_learning_and_counted(place):
    partly = place / "partly.py"
    partly.write_text(
        "def partly(prompts, completions, **columns):\n"
        "    return [None if i % 4 == 3 else float(len(set(c))) for i, c in enumerate(completions)]\n"
    )
    _, rows = run(place, "trainer.total_steps=1", rewards=[{"fn": f"{partly}:partly", "isolation": "inline"}])
    assert rows[1][2]["reward/masked_fraction"] == 0.25
    assert rows[1][2]["objective/learned_rows"] <= 9


def test_the_warm_start_runs_when_there_is_no_policy_yet(tmp_path):
    from tiny import SHAPE

    base = recipe(tmp_path)
    sft = {"data": {"path": "arithmetic", "kwargs": {"max_a": 9, "max_b": 9}}, "max_steps": 4, "eval_steps": 2}
    _, rows = run(tmp_path, "trainer.total_steps=1", model={"init": SHAPE}, sft={**sft, "batch_size": 8})
    assert {stage for stage, _, _ in rows} == {"sft", "eval", "train"}
    assert (tmp_path / "run" / "sft" / "hf" / "model.safetensors").is_file()
    assert base["rollout"]["decode"] == DECODE
