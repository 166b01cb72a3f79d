"""The command's frame: quick help, one line for what a person can mend, a trace for what only we can."""

import os
import subprocess
import sys

import pytest
import torch
from ray.exceptions import RaySystemError, RayTaskError

from redraft.rewards.result import RewardError
from redraft.rl.cli import main as module

HEAVY = "{'torch', 'transformers', 'ray', 'datasets', 'numpy', 'math_verify', 'rich', 'yaml'}"


@pytest.fixture
def ending(monkeypatch, capsys):
    """Run a verb that raises; gives exit code and stderr."""

    def run(error):
        def fail(self, ctx):
            raise error

        monkeypatch.setattr(sys, "argv", ["redraft", "train", "recipe.yaml"])
        monkeypatch.setattr("typer.core.TyperGroup.invoke", fail)
        with pytest.raises(SystemExit) as stopped:
            module.main()
        return stopped.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in ("train", "generate", "plan", "doctor"))])
def test_showing_help_imports_nothing_heavy(words):
    code = (
        f"import sys\nsys.argv = ['redraft', *{words}]\nfrom redraft.rl.cli.main import main\n"
        f"try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        f"heavy = {HEAVY} & set(sys.modules)\nassert not heavy, heavy"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "Usage: redraft" in shown


def test_help_takes_less_than_half_a_second():
    times = []
    for _ in range(3):
        before = os.times()
        subprocess.run(
            [sys.executable, "-m", "redraft.rl.cli.main", "train", "--help"], check=True, capture_output=True
        )
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(times) < 0.5  # processor time: what else the machine does is not our help's fault


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "Missing argument 'RECIPE'"),
        (["train", "recipe.yaml", "--resum"], "No such option: --resum"),
        (["train", "recipe.yaml", "--trainer.learning_rate", "1e-4"], "without dashes: trainer.learning_rate=VALUE"),
        (
            ["eval", "recipe.yaml", "--output-dir=x"],
            "No such option: --output-dir; keys of a recipe are written without",
        ),
        (["trian"], "No such command 'trian'"),
        (["generate", "--model", "m", "--prompts", "p", "--out", "o", "--seed", "x"], "'--seed'"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(monkeypatch, capsys, words, message):
    monkeypatch.setattr(sys, "argv", ["redraft", *words])
    with pytest.raises(SystemExit) as stopped:
        module.main()
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Usage: redraft" in err


def remote(cause):
    """An error as `ray.get` raises it: of the cause's class where Ray can make one, with a remote trace as message."""
    return RayTaskError("score", "Traceback (most recent call last): ...", cause).as_instanceof_cause()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("it broke"),
        FileNotFoundError("it broke"),
        FloatingPointError("it broke"),
        RewardError("it broke"),
        torch.OutOfMemoryError("it broke"),
        remote(ValueError("it broke")),
        remote(RewardError("it broke")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_person_can_mend_is_one_line(ending, error):
    assert ending(error) == (1, "error: it broke\n")


def test_an_outage_of_ray_is_one_line(ending):
    code, err = ending(RaySystemError("it broke"))
    assert code == 1
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("error", [TypeError("a bug"), remote(TypeError("a bug"))], ids=["here", "remote"])
def test_a_bug_keeps_its_trace(ending, error):
    with pytest.raises(TypeError):
        ending(error)


def test_debugging_shows_where_an_error_comes_from(ending, monkeypatch):
    monkeypatch.setenv("REDRAFT_DEBUG", "1")
    with pytest.raises(ValueError, match="it broke"):
        ending(ValueError("it broke"))


def test_an_interrupted_verb_says_so(ending):
    assert ending(KeyboardInterrupt()) == (130, "interrupted\n")
