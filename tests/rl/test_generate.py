"""Completing a file of prompts: settings that follow the policy, and rows that cannot be completed."""

import json

import pytest
from typer.testing import CliRunner

from redraft.rl.cli.main import app
from redraft.rl.data.load import DataError
from redraft.rl.models.registry import build_policy, save_policy
from redraft.rl.stages.generate import run_generate
from redraft.rollout.config import DecodeConfig
from tiny import SHAPE


@pytest.fixture
def place(tmp_path):
    model, tokenizer, _ = build_policy(SHAPE, "float32", "cpu", 0, block_length=8)
    save_policy(model, tmp_path / "policy", tokenizer)
    return tmp_path


def complete(place, content: str) -> None:
    prompts = place / "prompts.jsonl"
    prompts.write_text(content)
    run_generate(
        str(place / "policy"),
        str(prompts),
        str(place / "out.jsonl"),
        DecodeConfig(block_length=8, max_completion_length=8, max_post_steps=1),
        seed=0,
        dtype="float32",
        device="cpu",
        slots=64,
        trace=False,
        advance=lambda done, total: None,
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, "needs `prompt` or `prompt_ids`, has text"),
        ({"prompt": 5}, "`prompt` must be text or a list of messages"),
        ({"prompt_ids": ["a"]}, "prompt_ids must be a list of integers"),
        ({"prompt_ids": [True]}, "prompt_ids must be a list of integers"),
        ({"prompt_ids": [1, 100000]}, "token id 100000 is not in 0 to 9"),
        ({"prompt_ids": [-1]}, "token id -1 is not in 0 to 9"),
        ({"prompt": [{"role": "user", "content": "a"}]}, "no chat template; give a text prompt"),
        ({"prompt": "1" * 60}, "the prompt has 60 tokens; with max_completion_length 8 in whole blocks of 8 it needs"),
    ],
)
def test_a_row_that_cannot_be_completed_is_named_by_file_and_line(place, row, message):
    content = '{"prompt": "a"}\n\n' + json.dumps(row) + "\n"
    with pytest.raises(DataError, match=rf"/prompts.jsonl:3: {message}" if "chat" not in message else message) as error:
        complete(place, content)
    assert str(error.value).startswith(str(place / "prompts.jsonl:3: "))
    assert not (place / "out.jsonl").exists()


def test_text_needs_a_tokenizer(place):
    for file in (place / "policy").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(DataError, match=r"prompts.jsonl:1: the model has no tokenizer.*give prompt_ids"):
        complete(place, '{"prompt": "a"}')


def run(place, *extra):
    (place / "prompts.jsonl").write_text('\n{"prompt": "1+2="}\n\n{"prompt": "3"}\n')
    command = ["generate", "--model", place / "policy", "--prompts", place / "prompts.jsonl", "--out", place / "out"]
    result = CliRunner().invoke(app, [*map(str, [*command, "--dtype", "float64", "--trace", *extra])])
    return result, (place / "out").read_text() if (place / "out").exists() else ""


def test_blocks_are_as_long_as_the_policy_was_trained_with(place):
    _, trained = run(place, "--max-new-tokens", 8)
    _, same = run(place, "--max-new-tokens", 8, "--block-length", 8)
    _, other = run(place, "--max-new-tokens", 8, "--block-length", 4)
    assert trained == same != other
    assert [len(json.loads(line)["prompt"]) for line in trained.splitlines()] == [4, 1]


@pytest.mark.parametrize("option", ["--slots", "--max-new-tokens", "--block-length"])
def test_a_count_below_one_is_refused_by_its_option(place, option):
    result, out = run(place, option, 0)
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in " ".join(result.output.split())
    assert not out
