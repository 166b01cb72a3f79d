import contextlib
import json

from typer.testing import CliRunner

from conftest import ROOT
from redraft.rewards.scoring.mixture import RewardMixture, Sample
from redraft.rewards.term import RewardTerm
from redraft.rl.cli.main import app


def test_the_example_reward_runs_in_its_own_process():
    term = RewardTerm(fn=f"{ROOT}/examples/short_answer.py:short_answer")
    completions = [r"\boxed{12}", "12", "it is 12", "13", "11 or maybe 12", ""]
    samples = [Sample(prompt="5+7=", completion=text, columns={"ground_truth": "12"}) for text in completions]
    with contextlib.closing(RewardMixture([term])) as mixture:
        assert [one.total for one in mixture.score(samples)] == [1.0, 0.5, 0.5, 0.0, 0.0, 0.0]


def test_the_example_recipe_trains_with_its_reward(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ["recipes/quickstart.yaml", "examples/short_answer.yaml", f"output_dir={tmp_path}/run"]
    small = ["sft.max_steps=5", "sft.target_accuracy=null", "trainer.total_steps=1", "evaluation.data.max_rows=4"]
    small += [
        "rollout.prompts_per_step=2",
        "rollout.num_generations=2",
        "cluster.backend=inprocess",
        "sft.data.max_rows=100",
    ]
    result = CliRunner().invoke(app, ["train", *words, *small])
    assert result.exit_code == 0, result.output
    assert "reward 'short_answer' on 16 rows, scored as it should: gold 100%, empty 100%, list_every" in result.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (step,) = [row for row in rows if row["stage"] == "train"]
    assert {"rewards/short_answer/mean", "rewards/boxed_format/mean", "reward/slowest_ms"} <= step.keys()


def test_the_readme_holds_the_two_set_up_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert "pip install -e . && redraft train recipes/quickstart.yaml" in lines
    assert "pip install -e '.[dev]' && pytest" in lines
