"""The whole loop with plain objects: what it writes, what it learns, and that it says what is wrong."""

import errno
import json
import shutil

import pytest

from redraft.rl.cluster.backend import backend
from redraft.rl.config.recipe import RecipeError, load_recipe
from redraft.rl.data.codec import Codec
from redraft.rl.data.held_out import load_held_out
from redraft.rl.data.load import DataError, load_rows
from redraft.rl.learner.learner import Learner
from redraft.rl.loop import Training, train
from redraft.rl.models.registry import load_text_side
from redraft.rl.progress import RunProgress
from redraft.rl.run import run_training
from redraft.rl.run_folder.files import WriteError
from redraft.rl.run_folder.recorder import Recorder
from redraft.rl.stages.warm_start import run_warm_start
from redraft.rollout.worker import RolloutWorker
from short_names import sections
from tiers import one_per_estimator
from tiny import DECODE, SHAPE, make_policy, recipe, write_recipe


class Lines:
    def __init__(self):
        self.rows, self.warnings = [], []

    def step(self, stage, step, metrics):
        self.rows.append((stage, step, dict(metrics)))

    def say(self, text):
        pass

    def warn(self, text):
        self.warnings.append(text)


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
    assert 0.0 < step["objective/log_ratio_abs"] < 0.1  # the second of two optimizer steps has left the old policy
    samples = [json.loads(line) for line in (folder / "samples" / "step_000003.jsonl").read_text().splitlines()]
    assert len(samples) == 12
    assert {sample["policy_version"] for sample in samples} == {2}
    assert {"prompt", "completion", "reward", "parts", "ground_truth"} <= samples[0].keys()
    assert load_recipe([folder / "config.resolved.yaml"]).trainer.total_steps == 4
    assert "torch" in json.loads((folder / "env.json").read_text())["versions"]
    newest = folder / "checkpoints" / (folder / "checkpoints" / "latest").read_text()
    assert newest.name == "step_000004"
    files = {"hf", "state", "config.json", "data.json", "trainer.json", "MANIFEST.json"}
    assert {path.name for path in newest.iterdir()} == files
    assert (newest / "hf" / "tokenizer.json").is_file()


def test_the_loop_learns(place):
    _, rows = run(
        place, "trainer.total_steps=25", "trainer.learning_rate=1e-2", "evaluation.eval_steps=25",
        "rollout.prompts_per_step=8", "rollout.num_generations=8",
    )  # fmt: skip
    rewards = [metrics["reward/mean"] for stage, _, metrics in rows if stage == "train"]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2


def test_a_run_whose_engine_sleeps_while_the_learner_works_is_the_same_run(place, monkeypatch):
    calls = []
    for owner, name in [(RolloutWorker, "sleep"), (RolloutWorker, "wake"), (Learner, "update")]:
        plain = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda self, *given, plain=plain, name=name: calls.append(name) or plain(self, *given)
        )
    short = ("trainer.total_steps=2", "evaluation.eval_steps=7", "trainer.save_steps=7")
    _, apart = run(place, *short, f"output_dir={place / 'apart'}")
    assert calls == ["update"] * 2
    _, colocated = run(place, *short, "cluster.placement=colocated")
    assert calls[2:] == ["wake", *["sleep", "update", "wake"] * 2]
    for (stage, step, one), (*_, other) in zip(apart, colocated, strict=True):
        told = {name for name in one if name.startswith(("objective/", "completions/", "mismatch/", "eval/"))}
        assert {name: one[name] for name in told} == {name: other[name] for name in told}, (stage, step)


@pytest.mark.parametrize("preset", one_per_estimator())
def test_every_preset_runs(place, preset):
    _, rows = run(place, "trainer.total_steps=1", algorithm=sections({"preset": preset, "num_iterations": 2}))
    (trained,) = [metrics for stage, _, metrics in rows if stage == "train"]
    assert trained["objective/grad_norm"] > 0


@pytest.mark.parametrize(
    "algorithm",
    [
        {"estimator": "elbo", "ratio": "sequence", "noise": "bernoulli", "gamma": 0.5, "t2t_views": "draft"},
        {"estimator": "trajectory_sampled", "ratio": "sequence", "beta": 0.1, "kl": "k1_reward", "path_check": "mask"},
        {"num_iterations": 2, "num_minibatches": 2, "beta": 0.05, "rollout_correction": "token", "anchor": 0.05},
        {"advantage": "reinforce_plus_plus", "loss_type": "cispo", "step_sampling": "surprisal"},
        {"advantage": "softmax", "multi_objective_aggregation": "normalize_then_sum"},
    ],
    ids=str,
)
def test_every_setting_runs(place, algorithm):
    _, rows = run(place, "trainer.total_steps=1", algorithm=sections({**algorithm, "num_iterations": 2}))
    (trained,) = [metrics for stage, _, metrics in rows if stage == "train"]
    assert trained["objective/grad_norm"] > 0
    if algorithm.get("beta") and algorithm.get("kl") != "k1_reward":
        assert trained["objective/kl"] > 0
    if "path_check" in algorithm:
        assert trained["mismatch/path_fraction"] == 0.0
    if "rollout_correction" in algorithm:
        assert trained["mismatch/correction"] == pytest.approx(1.0, abs=1e-3)


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
    rows = place / "rows.jsonl"
    rows.write_text('{"prompt": "1+1="}\n{"prompt": "2+2="}\n')
    data = {"path": str(rows)}
    run(place, "trainer.total_steps=2", data=data)
    rows.write_text('{"prompt": "1+1="}\n{"prompt": "2+3="}\n')
    with pytest.raises(DataError, match="training rows changed"):
        run(place, data=data, resume=True)


def test_a_missing_model_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model.path: no folder .*policy"):
        run(tmp_path)


def test_resuming_with_another_recipe_is_an_error_that_names_what_differs(place):
    run(place, "trainer.total_steps=2")
    with pytest.raises(RecipeError, match=r"seed was 0, now 9"):
        run(place, "seed=9", resume=True)
    with pytest.raises(RecipeError, match=r"trainer.learning_rate was 0.001, now 0.5"):
        run(place, "trainer.learning_rate=0.5", resume=True)
    outcome, _ = run(place, "trainer.total_steps=3", "evaluation.eval_steps=1", resume=True)
    assert outcome.steps == 3


def test_a_refused_run_leaves_the_records_of_the_finished_one_alone(place):
    run(place, "trainer.total_steps=1")
    before = {path.name: path.read_bytes() for path in (place / "run").iterdir() if path.is_file()}
    with pytest.raises(RecipeError):
        run(place, "trainer.total_steps=1", "seed=9")
    assert {path.name: path.read_bytes() for path in (place / "run").iterdir() if path.is_file()} == before


def test_evaluation_rows_that_are_also_learned_from_are_left_out(place, caplog):
    rows = [{"prompt": f"{i}+1=", "ground_truth": str(i + 1)} for i in range(8)]
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:6]))
    (place / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[2:]))
    evaluation = {"data": {"path": str(place / "test.jsonl")}, "decode": {**DECODE, "temperature": 0.0}}
    _, lines = run(place, "trainer.total_steps=1", data={"path": str(place / "train.jsonl")}, evaluation=evaluation)
    assert lines[0][2]["eval/rows"] == 2
    assert caplog.text.count("4 of 6 rows also occur in the training data") == 1
    with pytest.raises(DataError, match="all 6 rows also occur"):
        run(place, f"output_dir={place}/same", data={"path": str(place / "test.jsonl")}, evaluation=evaluation)


def test_a_warm_start_with_other_settings_is_not_reused(tmp_path):
    sft = {"data": {"path": "arithmetic", "kwargs": {"max_a": 9, "max_b": 9}}, "max_steps": 2, "batch_size": 8}
    config = load_recipe([write_recipe(tmp_path, model={"init": SHAPE}, sft=sft)])
    folder = run_warm_start(config, Recorder(config, Lines()), load_held_out(config))
    written = (folder / "model.safetensors").stat().st_mtime_ns
    run(tmp_path, "trainer.total_steps=1", model={"init": SHAPE}, sft=sft)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(RecipeError, match="already holds RL checkpoints"):
        run_warm_start(config, Recorder(config, Lines()), load_held_out(config))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RecipeError, match=r"is a warm start with other settings \(seed, model, sft"):
        run(tmp_path, "seed=3", model={"init": SHAPE}, sft=sft)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_warm_start_that_cannot_begin_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "asked.jsonl").write_text('{"prompt": "1+1=", "ground_truth": "2"}\n')
    for file, message in [("asked.jsonl", "asked.jsonl:1: a demonstration needs"), ("gone.jsonl", "no such file")]:
        with pytest.raises(DataError, match=message):
            run(tmp_path, model={"init": SHAPE}, sft={"data": {"path": str(tmp_path / file)}})
        assert not (tmp_path / "run").exists()


def test_a_warm_start_that_cannot_be_written_leaves_no_partial_policy(tmp_path, monkeypatch):
    def full(model, path, tokenizer):
        path.mkdir()
        (path / "model.safetensors").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("redraft.rl.stages.warm_start.save_policy", full)
    data = {"path": "arithmetic", "kwargs": {"max_a": 9, "max_b": 9}}
    with pytest.raises(WriteError, match=r"cannot write .*: No space left on device; complete checkpoints: none"):
        run(tmp_path, model={"init": SHAPE}, sft={"data": data, "max_steps": 1, "batch_size": 2})
    assert [path.name for path in (tmp_path / "run" / "sft").iterdir()] == []


def test_a_warm_start_that_an_accuracy_ends_is_not_reused_for_another_evaluation(tmp_path):
    data = {"path": "arithmetic", "kwargs": {"max_a": 9, "max_b": 9}}
    sft = {"data": data, "max_steps": 1, "batch_size": 8, "target_accuracy": 0.5}
    evaluation = {"data": {**data, "split": "test", "max_rows": 2}, "decode": {**DECODE, "temperature": 0.0}}
    sections = {"model": {"init": SHAPE}, "data": data, "sft": sft, "evaluation": evaluation}
    run(tmp_path, "trainer.total_steps=1", **sections)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    run(tmp_path, "trainer.total_steps=1", "evaluation.eval_steps=7", **sections)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(RecipeError, match=r"or with sft\.target_accuracy data, evaluation or rewards"):
        run(tmp_path, "trainer.total_steps=1", "evaluation.data.max_rows=1", **sections)


def test_a_stop_during_the_last_step_still_ends_the_run_as_finished(place):
    config = load_recipe([write_recipe(place)], ["trainer.total_steps=1"])
    lines = Lines()
    tokenizer, tokens = load_text_side(str(place / "policy"))
    with backend(config, str(place / "policy"), tokens) as (rollouts, rewards, learner):
        recorder = Recorder(config, lines)
        recorder.begin()
        training = Training(
            config=config,
            train=load_rows(config.data, 0),
            held_out=load_rows(config.evaluation.data, 0),
            rollouts=rollouts,
            rewards=rewards,
            learner=learner,
            codec=Codec(tokenizer, 0),
            recorder=recorder,
            progress=RunProgress(),
        )
        assert train(training, lambda: True) == 1
    assert [(stage, step) for stage, step, _ in lines.rows] == [("eval", 0), ("train", 1), ("eval", 1)]


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
        ("return []", "0 scores for"),
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
        "import itertools\n"
        "scored = itertools.count()\n"
        "def partly(prompts, completions, **columns):\n"
        "    return [None if next(scored) % 4 == 3 else float(len(set(c))) for c in completions]\n"
    )
    _, rows = run(place, "trainer.total_steps=1", rewards=[{"fn": f"{partly}:partly", "isolation": "inline"}])
    assert rows[1][2]["reward/masked_fraction"] == 0.25
    assert rows[1][2]["objective/learned_rows"] <= 9


def test_the_warm_start_runs_when_there_is_no_policy_yet(tmp_path):
    base = recipe(tmp_path)
    sft = {"data": {"path": "arithmetic", "kwargs": {"max_a": 9, "max_b": 9}}, "max_steps": 4, "eval_steps": 2}
    _, rows = run(tmp_path, "trainer.total_steps=1", model={"init": SHAPE}, sft={**sft, "batch_size": 8})
    assert {stage for stage, _, _ in rows} == {"sft", "eval", "train"}
    assert (tmp_path / "run" / "sft" / "hf" / "model.safetensors").is_file()
    assert base["rollout"]["decode"] == DECODE
