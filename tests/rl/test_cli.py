"""The command as a person types it."""

import json
import os
import re
import subprocess
import sys
import threading

import pytest
import torch
from safetensors.torch import load_file

from redraft.rl.cli.main import main
from tiny import SHAPE, make_policy, write_recipe


@pytest.fixture
def redraft(monkeypatch, capsys):
    """Run the command in this process; gives exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["redraft", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def place(tmp_path):
    make_policy(tmp_path / "policy")
    return tmp_path


def test_help_imports_nothing_heavy():
    code = (
        "import sys, redraft.rl.cli.main\n"
        "heavy = {'torch', 'transformers', 'ray', 'datasets', 'numpy', 'pydantic', 'math_verify'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("verb", ["train", "sft", "eval", "generate", "export"])
def test_every_verb_has_help(redraft, verb):
    code, out, _ = redraft(verb, "--help")
    assert code == 0
    assert "Usage" in out


def test_train_shows_steps_and_a_closing_table(place, redraft):
    code, out, _ = redraft("train", write_recipe(place), "trainer.total_steps=2")
    assert code == 0
    assert "train     1/2  reward" in out
    assert "before RL" in out
    assert "held-out accuracy" in out
    assert "training reward" in out


def test_sft_then_eval_then_export(tmp_path, redraft):
    sft = {"data": {"path": "arithmetic", "kwargs": {"max_a": 9, "max_b": 9}}, "max_steps": 2, "batch_size": 4}
    recipe = write_recipe(tmp_path, model={"init": SHAPE}, sft=sft)
    code, out, _ = redraft("sft", recipe)
    assert code == 0
    assert "policy written to" in out
    code, out, _ = redraft("eval", recipe)
    assert code == 0
    assert "eval/accuracy" in out
    assert redraft("eval", recipe, "--model", tmp_path / "run")[1] == out
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "1+2="}\n')
    words = ["--prompts", prompts, "--out", tmp_path / "out.jsonl", "--max-new-tokens", 8]
    assert redraft("generate", "--model", tmp_path / "run", *words)[0] == 0
    redraft("train", recipe, "trainer.total_steps=1")
    code, out, _ = redraft("export", tmp_path / "run", "--out", tmp_path / "exported", "--dtype", "bfloat16")
    assert code == 0
    exported = load_file(tmp_path / "exported" / "model.safetensors")
    trained = load_file(tmp_path / "run" / "checkpoints" / "step_000001" / "hf" / "model.safetensors")
    name = "model.layers.1.mlp.experts.0.up_proj.weight"
    torch.testing.assert_close(exported[name], trained[name].to(torch.bfloat16), rtol=0, atol=0)


@pytest.mark.parametrize("index", range(6))
def test_generate_reproduces_the_golden_decodes(tmp_path, golden, redraft, index):
    case = json.loads((golden / "cases.json").read_text())["decode"][index]
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text(json.dumps({"prompt_ids": case["prompt"], "note": "kept"}) + "\n")
    code, _, _ = redraft(
        "generate", "--model", golden, "--prompts", prompts, "--out", out, "--dtype", "float64", "--trace",
        "--threshold", case["threshold"], "--editing-threshold", case["editing_threshold"],
        "--max-post-steps", case["max_post_steps"], "--max-new-tokens", case["max_new_tokens"],
    )  # fmt: skip
    assert code == 0
    row = json.loads(out.read_text())
    assert row["completion_ids"] == case["tokens"]
    assert (row["num_forwards"], row["num_edits"]) == (case["num_forwards"], case["num_edits"])
    assert row["tokens_per_forward"] == len(case["tokens"]) / case["num_forwards"]
    assert row["note"] == "kept"
    assert len(row["trace"]["edits"]) == case["num_edits"]


def test_generate_reads_text_and_repeats_itself_by_seed(place, redraft):
    prompts = place / "prompts.jsonl"
    prompts.write_text('{"prompt": "1+2="}\n{"prompt": "12+2="}\n')
    made = []
    for seed in (1, 1, 2):
        out = place / "out.jsonl"
        code, _, _ = redraft(
            "generate", "--model", place / "policy", "--prompts", prompts, "--out", out, "--mode", "s",
            "--temperature", 1.0, "--max-new-tokens", 16, "--block-length", 8, "--seed", seed, "--slots", 1,
        )  # fmt: skip
        assert code == 0
        made.append([json.loads(line)["completion"] for line in out.read_text().splitlines()])
    assert made[0] == made[1] != made[2]
    assert len(made[0]) == 2


GENERATE = ["generate", "--model", "{policy}", "--prompts", "{prompts}", "--out", "{out}"]


@pytest.mark.parametrize(
    ("rows", "extra", "message"),
    [
        ("", [], "prompts.jsonl: the file has no rows"),
        ('{"prompt": "a"}\n{"prompt"\n', [], "prompts.jsonl:2: not valid JSON"),
        ('{"text": "a"}\n', [], "prompts.jsonl:1: needs `prompt` or `prompt_ids`, has text"),
        ('{"prompt_ids": ["a"]}\n', [], "prompts.jsonl:1: prompt_ids must be a list of integers"),
        ('{"prompt_ids": [100000]}\n', [], "prompts.jsonl:1: token id 100000 is not in 0 to"),
        ('{"prompt": "' + "1" * 70 + '"}\n', [], "prompts.jsonl:1: the prompt has 70 tokens; .*but the policy has 64"),
        ('{"prompt": [{"role": "user", "content": "a"}]}\n', [], "no chat template; give a text prompt"),
        ('{"prompt": "a"}\n', ["--mode", "fast"], "unknown decoding mode 'fast'; valid: q, s, llada2.0"),
        ('{"prompt": "a"}\n', ["--dtype", "int8"], "dtype 'int8': valid are float32, bfloat16, float64"),
        ('{"prompt": "a"}\n', ["--editing-threshold", "1.3"], "use 1.0 to switch editing off"),
        ('{"prompt": "a"}\n', ["--temperature", "nan"], "^error: temperature: must be a finite number, got nan"),
        ('{"prompt": "a"}\n', ["--model", "nowhere"], "nowhere: no such run or policy folder"),
    ],
)
def test_generate_names_what_is_wrong(place, redraft, rows, extra, message):
    prompts, out = place / "prompts.jsonl", place / "out.jsonl"
    prompts.write_text(rows)
    names = {"policy": place / "policy", "prompts": prompts, "out": out}
    command = [word.format(**names) for word in GENERATE]
    code, _, err = redraft(*command, "--max-new-tokens", 8, "--block-length", 8, *extra)
    assert code == 1
    assert err.startswith("error: ")

    assert re.search(message, err.replace("\n", " ")), err
    assert not out.exists()


def place_verbs(place):
    """Every verb that writes, with an input that is in order."""
    rows = place / "rows.jsonl"
    rows.write_text('{"prompt": "1+2=", "completion": "3"}\n')
    return {
        "generate": ["--model", place / "policy", "--prompts", rows, "--max-new-tokens", 8, "--block-length", 8],
        "export": [place / "policy"],
        "reward score": ["--fn", "boxed_format", "--data", rows],
    }


FILES = {"generate", "reward score"}


@pytest.mark.parametrize("verb", ["generate", "export", "reward score"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(place, redraft, monkeypatch, verb):
    monkeypatch.setattr("redraft.rl.models.llada2.checkpoint.weight_files", None)  # nothing loads a policy
    words = place_verbs(place)[verb]
    (place / "taken").write_text("old\n")
    (place / "folder").mkdir()
    before = sorted(place.rglob("*"))
    wrong = [place / "taken" / "deeper", place / "folder" if verb in FILES else place / "taken"]
    for out in wrong:
        code, _, err = redraft(*verb.split(), *words, "--out", out)
        assert (code, err.startswith("error: ")) == (1, True)
        assert "is a folder" in err if out.name == "folder" else "is no folder" in err
    assert sorted(place.rglob("*")) == before
    assert (place / "taken").read_text() == "old\n"


def test_an_export_never_replaces_what_a_run_or_its_source_holds(place, redraft):
    run = place / "run"
    for folder in ("checkpoints/step_000002/hf", "sft/hf"):
        (run / folder).mkdir(parents=True)
    (run / "config.resolved.yaml").write_text("seed: 0\n")
    (place / "link").symlink_to(run / "sft")
    before = sorted(place.rglob("*"))
    for out in (run, run / "checkpoints", run / "checkpoints/step_000002/hf", run / "sft/hf", place / "link" / "hf"):
        code, _, err = redraft("export", place / "policy", "--out", out)
        assert (code, err) == (1, f"error: {out}: belongs to the run {run}; write elsewhere, e.g. {run}/export\n")
    code, _, err = redraft("export", place / "policy", "--out", place / "policy")
    assert (code, err) == (1, f"error: {place}/policy: is the policy to export; give another folder\n")
    assert sorted(place.rglob("*")) == before
    assert redraft("export", place / "policy", "--out", run / "export")[0] == 0


def test_outputs_follow_links_and_fill_pipes(place, redraft):
    for verb in FILES:
        words = place_verbs(place)[verb]
        link, pipe = place / f"link {verb}", place / f"pipe {verb}"
        link.symlink_to("real")
        os.mkfifo(pipe)
        assert redraft(*verb.split(), *words, "--out", link)[0] == 0
        assert link.is_symlink()
        assert json.loads((place / "real").read_text())["prompt"] == "1+2="
        read = []
        reader = threading.Thread(target=lambda pipe=pipe, read=read: read.append(pipe.read_text()))
        reader.start()
        assert redraft(*verb.split(), *words, "--out", pipe)[0] == 0
        reader.join(timeout=30)
        assert json.loads(read[0])["prompt"] == "1+2="
        assert pipe.is_fifo()
        assert not list(place.glob("*.partial")) + list(place.glob(".*.partial"))


def test_a_corrupt_checkpoint_names_the_file(place, redraft):
    weights = place / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, _, err = redraft("train", write_recipe(place))
    assert code == 1
    assert "model.safetensors" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nowhere.yaml"], "nowhere.yaml: no such recipe; recipes here"),
        (["train", "{recipe}", "trainer.learning_rte=1"], "did you mean 'learning_rate'?"),
        (["train", "{recipe}", "trainer.total_steps=ten"], "trainer.total_steps: Input should be a valid integer"),
        (["train", "{recipe}", "model.path=nowhere"], "model.path: no folder nowhere"),
        (["train", "{recipe}", "--resume"], "no complete checkpoint to resume from"),
        (["train", "{recipe}", "rewards=[{fn: math_acuracy}]"], "math_accuracy"),
        (["sft", "{recipe}"], "the recipe has no sft section"),
        (
            ["eval", "{recipe}", "evaluation.data.path=arithmetic", "model.path=no"],
            "no policy there; make it with redraft sft",
        ),
        (["train", "{recipe}", "output_dir={recipe}"], "cannot be made, {recipe} is no folder"),
        (["train", "{recipe}", "output_dir={recipe}/run"], "cannot be made, {recipe} is no folder"),
        (["sft", "{recipe}", "output_dir={recipe}/run"], "cannot be made, {recipe} is no folder"),
        (["train", "{recipe}", "nowhere.yaml"], "nowhere.yaml: no such recipe"),
        (
            [
                "reward",
                "score",
                "--fn",
                "boxed_format",
                "--data",
                "{recipe}",
                "--out",
                "x",
                "--kwargs",
                '{"a": 1, "a": 2}',
            ],
            "--kwargs: the key 'a' is written twice",
        ),
        (["export", "nowhere", "--out", "x"], "nowhere: no such run or policy folder"),
    ],
)
def test_mistakes_become_one_clear_line(place, redraft, words, message):
    recipe = write_recipe(place)
    code, _, err = redraft(*[word.replace("{recipe}", str(recipe)) for word in words])
    assert code == 1
    assert err.startswith("error: ")
    assert message.replace("{recipe}", str(recipe)) in err
    assert "Traceback" not in err
