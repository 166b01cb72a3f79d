"""Every recipe of a real model runs: the same YAML over a tiny checkpoint of its architecture and local rows."""

import json
from pathlib import Path

import pytest

from displays import Silent
from redraft.rl.config.places import built_in
from redraft.rl.config.recipe import load_recipe
from redraft.rl.config.schema import RunConfig
from redraft.rl.models.registry import build_policy, save_policy
from redraft.rl.verbs import train_recipe
from shapes import small_shape

REAL = [name for name in built_in("recipes") if name.startswith("llada2_")]
TEMPLATE = "{% for m in messages %}<role>{{ m['role'] }}</role>{{ m['content'] }}<|role_end|>{% endfor %}<role>"
TINY = [
    *("rollout.prompts_per_step=2", "rollout.num_generations=2", "rollout.decode.max_completion_length=32"),
    *("trainer.total_steps=1", "trainer.tokens_per_microbatch=4096", "data.name=null", "data.max_rows=4"),
    *("evaluation.data.name=null", "evaluation.data.max_rows=2", "evaluation.decode.max_completion_length=32"),
]
ROWS = {
    "gsm8k": ("gsm8k/train.jsonl", "gsm8k/test.jsonl"),
    "math": ("math500/math500_test.jsonl", "math500/math500_test.jsonl"),
    "code": ("mbpp/sanitized-mbpp.json", "humaneval/HumanEval.jsonl.gz"),
    "ifeval": ("ifeval/input_data.jsonl", "ifeval/input_data.jsonl"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A random network of LLaDA2's architecture with a chat template, small enough for a run of seconds."""
    folder = tmp_path_factory.mktemp("tiny") / "hf"
    model, tokenizer, _ = build_policy(small_shape(max_position_embeddings=4096), "float32", "cpu", 0, 32)
    tokenizer.chat_template = TEMPLATE
    save_policy(model, folder, tokenizer)
    return folder


def twin(name: str, checkpoint: Path, data: Path, run: Path) -> RunConfig:
    """The recipe, with the fewest words changed."""
    train, held_out = ROWS.get(name.rpartition("_")[2], ROWS["gsm8k"])
    places = [f"model.path={checkpoint}", f"output_dir={run}", f"data.path={data / train}"]
    places += [f"evaluation.data.path={data / held_out}"]
    here = [] if name == "llada2_mini_full" else ["cluster.backend=inprocess"]  # one of them on Ray is enough
    return load_recipe([name], [*places, *TINY, *here])


@pytest.mark.heavy
@pytest.mark.parametrize("name", REAL)
def test_the_tiny_twin_of_a_recipe_learns_a_step(name, checkpoint, shared_data, tmp_path, monkeypatch):
    config = twin(name, checkpoint, shared_data, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    outcome = train_recipe(config, Silent(), resume=False)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert outcome.steps == 1
    assert [row["stage"] for row in rows] == ["eval", "train", "eval"]
    weights = "adapter_model.safetensors" if config.model.lora else "model.safetensors"
    assert (tmp_path / "run" / "checkpoints" / "step_000001" / "hf" / weights).is_file()
