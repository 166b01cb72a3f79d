"""`redraft plan` as a person types it: no GPU, no weights, no torch, in a moment, with an exit code."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from redraft.rl.cli.main import app
from redraft.rl.models.llada2.config import LLADA2_MINI

REAL = """
output_dir: runs/mini
model: {path: inclusionAI/LLaDA2.1-mini}
data: {path: openai/gsm8k, name: main}
rewards: [{fn: math_accuracy}]
rollout: {prompts_per_step: 64, num_generations: 8, decode: {block_length: 32, max_completion_length: 1024}}
trainer: {activation_checkpointing: layer}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mini.yaml"
    path.write_text(REAL)
    return path


def plan(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["plan", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_a_recipe_that_fits(recipe):
    code, shown = plan(recipe, "--gpus", 8)
    assert code == 0
    assert shown.startswith("inclusionAI/LLaDA2.1-mini on 8 GPUs of 79.6 GiB: fits\n")
    for text in ("Memory: learner and rollout (8 GPUs)", "state", "One step", "views of a completion", "GPUs", "Tflop"):
        assert text in shown


def test_a_recipe_that_does_not_fit_exits_with_1_and_what_helps(recipe):
    code, shown = plan(recipe, "--gpus", 4)
    assert code == 1
    assert "does not fit: learner and rollout: needs " in shown
    assert "every GPU has room with one of these, cheapest first:\n  1. " in shown


def test_json_says_the_same(recipe):
    code, shown = plan(
        recipe, "trainer.optimizer=adamw_bf16_sr", "model.dtype=bfloat16", "--gpus", 4, "--json", "--imbalance", 1.5
    )
    made = json.loads(shown)
    assert code == 1 - made["fits"]
    assert made["recipe"] == [str(recipe), "trainer.optimizer=adamw_bf16_sr", "model.dtype=bfloat16"]
    assert made["assumptions"]["imbalance"] == 1.5
    assert made["network"]["parameters"] == 16_255_643_392


def test_a_recipe_without_a_gpu_uses_the_memory_of_the_host(monkeypatch):
    monkeypatch.setattr("redraft.rl.plan.machine.gpus_here", lambda: (0, 0.0))
    code, shown = plan("quickstart")
    assert code == 0
    assert "the policy of quickstart on this host" in shown


def test_a_folder_with_a_config_alone(recipe, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLADA2_MINI.to_dict()))
    _, shown = plan(recipe, f"model.path={tmp_path}", "--gpus", 8, "--json")
    assert json.loads(shown)["network"]["parameters"] == 16_255_643_392


def test_rates_change_seconds_and_no_memory(recipe):
    slow, fast = (json.loads(plan(recipe, "--gpus", 8, "--json", "--tflops", rate)[1]) for rate in (100, 400))
    assert slow["seconds"]["update"] > fast["seconds"]["update"]
    assert slow["memory"] == fast["memory"]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["trainer.parallel.ranks=6", "--gpus", 8], ValueError, "256 experts per layer cannot be shared equally by 6"),
        (["model.path=inclusionAI/LLaDA2.1-min"], FileNotFoundError, "did you mean 'inclusionAI/LLaDA2.1-mini'"),
        (["trainer.optimizer=adam"], ValueError, "did you mean 'adamw'"),
    ],
)
def test_mistakes_are_one_line(recipe, words, error, message):
    with pytest.raises(error, match=message):
        plan(recipe, *words)


def test_options_that_make_no_sense_are_refused(recipe):
    for words in (["--gpus", -1], ["--tflops", 0], ["--imbalance", 0.5], ["--tokens-per-forward", 0]):
        assert plan(recipe, *words)[0] == 2


def test_it_takes_less_than_two_seconds_and_loads_nothing_heavy(recipe):
    code = (
        "import sys\nfrom redraft.rl.cli.main import main\n"
        f"sys.argv = ['redraft', 'plan', {str(recipe)!r}, '--gpus', '1']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code == 1\n"
        "assert not {'torch', 'transformers', 'ray', 'datasets', 'numpy'} & sys.modules.keys()"
    )
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used < 2.0  # processor time
