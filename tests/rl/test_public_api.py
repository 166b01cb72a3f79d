"""`from redraft import ...`: what a program gets, that it equals the command, and that users' packages stay theirs."""

import json
import logging
import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import redraft
from conftest import ROOT
from redraft import RunFolder, evaluate, generate, load_recipe, train
from redraft.rl.cli.main import app
from redraft.rl.data.files import DataError
from redraft.rl.process import prepared_process
from redraft.rl.run_folder.checkpoint import CheckpointNotFoundError
from tiny import SHAPE, make_policy, write_recipe

HEAVY = ("torch", "ray", "transformers", "numpy", "datasets", "pydantic", "yaml", "rich", "typer")


UNTYPED = pytest.mark.skipif(
    bool(os.environ.get("REDRAFT_SHAPES")), reason="the type checks of this tier refuse the argument first"
)
LAUNCHER = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def python(code: str, *arguments: str, cwd=None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program with our package on its path, after what `PYTHONPATH` says."""
    path = os.pathsep.join([*filter(None, [environment.pop("PYTHONPATH", "")]), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """A run of two steps, made through the public API."""
    folder = tmp_path_factory.mktemp("api")
    make_policy(folder / "policy")
    config = load_recipe(write_recipe(folder), "trainer.total_steps=2", "trainer.save_steps=1")
    return train(config)


def test_importing_the_public_names_loads_nothing_heavy():
    code = (
        "import sys\nbefore = len(sys.modules)\n"
        "from redraft import RunFolder, Verdict, __version__, evaluate, generate, load_recipe, reward, train\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], len(sys.modules) - before < 150)"
    )
    assert python(code, cwd="/").stdout == "[] True\n"


def test_every_public_name_is_there_and_no_other():
    assert set(redraft.__all__) <= set(dir(redraft))
    assert all(getattr(redraft, name) for name in redraft.__all__)
    assert {name for name in dir(redraft) if not name.startswith("__")} == set(redraft.__all__) - {"__version__"}
    assert issubclass(redraft.RecipeError, ValueError)
    assert issubclass(redraft.DataError, ValueError)
    assert redraft.reward is redraft.rewards.reward
    with pytest.raises(AttributeError, match="module 'redraft' has no attribute 'trian'"):
        redraft.trian  # noqa: B018


def test_every_public_function_has_a_docstring_with_an_example():
    for name in ("evaluate", "generate", "load_recipe", "train"):
        assert "Example::" in getattr(redraft, name).__doc__


def test_the_version_is_that_of_the_command():
    assert CliRunner().invoke(app, ["--version"]).output == f"redraft {redraft.__version__}\n"
    done = subprocess.run([sys.executable, "-m", "redraft", "--version"], capture_output=True, text=True)
    assert done.stdout == f"redraft {redraft.__version__}\n"


def test_a_run_folder_says_what_the_run_left(run):
    assert [row["step"] for row in run.metrics("train")] == [1, 2]
    assert {row["stage"] for row in run.metrics()} == {"train", "eval"}
    assert len(run.samples()) == 12
    assert run.samples() == run.samples(2) != run.samples(1)
    assert [folder.name for folder in run.checkpoints] == ["step_000001", "step_000002"]
    assert run.policy == run.checkpoints[-1] / "hf"
    assert run.config == load_recipe(run.path / "config.resolved.yaml")
    assert run.config.trainer.total_steps == 2


def test_a_run_folder_can_be_read_while_a_line_is_being_written(run, tmp_path):
    (tmp_path / "config.resolved.yaml").write_text("")
    young = RunFolder(tmp_path)
    assert (young.metrics(), young.samples(), young.checkpoints) == ([], [], [])
    with pytest.raises(CheckpointNotFoundError, match="no complete checkpoint"):
        _ = young.policy
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "stage": "sft"}\n{"step": 2, "sta')
    assert young.metrics("sft") == [{"step": 1, "stage": "sft"}]
    (tmp_path / "sft" / "hf").mkdir(parents=True)
    assert young.policy == tmp_path / "sft" / "hf"


def test_what_a_run_folder_lacks_is_named(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run folder: it holds no config\.resolved\.yaml"):
        RunFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match="no samples of step 7; there are 2 from 1 to 2"):
        run.samples(7)


@UNTYPED
def test_a_step_or_stage_that_is_none_is_refused(run):
    with pytest.raises(FileNotFoundError, match=r"no samples of step '1'; there are 2 from 1 to 2"):
        run.samples("1")
    with pytest.raises(ValueError, match=r"^no stage 'trian'; did you mean 'train'\? valid: sft, train, eval"):
        run.metrics("trian")
    with pytest.raises(ValueError, match=r"^no stage 5; valid: sft, train, eval"):
        run.metrics(5)


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "config.resolved.yaml").write_text("")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step"\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: not valid JSON: .*; mend or remove the line"):
        RunFolder(tmp_path).metrics()


@pytest.mark.usefixtures("signals_of_a_terminal")
def test_ctrl_c_is_raised_after_the_checkpoint_so_that_the_callers_loop_ends_too(tmp_path):
    make_policy(tmp_path / "policy")
    (tmp_path / "hasty.py").write_text(
        "import os, signal\nsent = []\n\n\ndef hasty(completions):\n"
        "    if not sent:\n        sent.append(os.kill(os.getpid(), signal.SIGINT))\n"
        "    return [float(len(text)) for text in completions]\n"
    )
    rewards = [{"fn": f"{tmp_path}/hasty.py:hasty", "isolation": "inline"}]
    config = load_recipe(write_recipe(tmp_path, rewards=rewards, evaluation=None))
    with pytest.raises(KeyboardInterrupt, match=r"after step 1, with a checkpoint; continue with train\(config, res"):
        train(config)
    assert [folder.name for folder in RunFolder(config.output_dir).checkpoints] == ["step_000001"]


def test_a_run_that_is_done_is_not_resumed(run):
    with pytest.raises(ValueError, match=r"has done 2 of trainer.total_steps=2 steps: nothing to resume"):
        train(run.config, resume=True)


def test_evaluation_gives_the_commands_numbers(run, monkeypatch):
    made = evaluate(run.config)
    monkeypatch.setenv("HOME", str(run.path))
    assert made == evaluate(run.config, policy=f"~/{run.policy.relative_to(run.path)}")
    assert made["eval/rows"] == 6
    (row,) = [row for row in run.metrics("eval") if row["step"] == 2]
    assert made["eval/accuracy"] == row["eval/accuracy"]
    assert made == evaluate(run.config, run.path)
    shown = CliRunner().invoke(app, ["eval", str(run.path / "config.resolved.yaml")]).output
    assert re.search(rf"eval/tokens_per_forward\D+{made['eval/tokens_per_forward']:.4g}\b", shown)
    with pytest.raises(ValueError, match="the recipe: no evaluation section"):
        evaluate(run.config.model_copy(update={"evaluation": None}))


def test_a_run_folder_is_taken_for_its_newest_policy_and_the_home_folder_is_known(run, monkeypatch):
    monkeypatch.setenv("HOME", str(run.path.parent))
    made = generate(run.policy, ["1+2="], max_new_tokens=8)
    assert made == generate(run.path, ["1+2="], max_new_tokens=8) == generate("~/run", ["1+2="], max_new_tokens=8)
    assert evaluate(run.config, "~/run") == evaluate(run.config)
    with pytest.raises(FileNotFoundError, match="nowhere: no such run or policy folder"):
        generate("nowhere", ["1+2="])


def test_generation_gives_the_commands_rows(run, tmp_path):
    prompts = ["1+2=", "12+2=", "3+4="]
    settings = {"block_length": 8, "threshold": 0.6}
    rows = generate(run.policy, prompts, mode="s", max_new_tokens=8, temperature=1.0, decode=settings, seed=3, slots=2)
    assert [row["prompt"] for row in rows] == prompts
    source, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    words = ["--model", run.policy, "--prompts", source, "--out", out, "--mode", "s", "--max-new-tokens", 8]
    words += ["--temperature", 1.0, "--block-length", 8, "--threshold", 0.6, "--seed", 3, "--slots", 2]
    assert CliRunner().invoke(app, ["generate", *map(str, words)]).exit_code == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows
    with pytest.raises(ValueError, match=r"prompts:1: the prompt has"):
        generate(run.policy, ["1+2=", "1" * 60], max_new_tokens=8)
    with pytest.raises(ValueError, match="thresold"):
        generate(run.policy, ["1+2="], decode={"thresold": 0.6})


PROGRAM = """
import sys
from redraft import evaluate, generate, load_recipe, train
config = load_recipe(sys.argv[1], "trainer.total_steps=1", "report_to=tensorboard")
run = train(config)
evaluate(config)
generate(run.policy, ["1+2="], max_new_tokens=8)
"""


def test_a_program_is_one_quiet_process_whatever_a_launcher_left(tmp_path):
    sft = {"data": {"path": "arithmetic", "kwargs": {"max_a": 9, "max_b": 9}}, "max_steps": 1, "batch_size": 2}
    (tmp_path / "beside.py").write_text("def ones(completions):\n    return [1.0 for _ in completions]\n")
    rewards = [{"fn": "beside:ones", "isolation": "inline"}]
    recipe = write_recipe(tmp_path, model={"init": SHAPE}, sft=sft, rewards=rewards)
    script = tmp_path / "deeper" / "program.py"  # whose folder is on the path in place of the working directory
    script.parent.mkdir()
    script.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, script, recipe],
        cwd=tmp_path,
        env={**os.environ, **LAUNCHER, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,  # without our care accelerate waits for the second rank for good
    )
    assert done.returncode == 0, done.stderr
    said = f"ignoring {', '.join(sorted(LAUNCHER))} of another launcher: redraft is one process\n"
    assert done.stderr == 3 * said


def test_a_call_leaves_the_process_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    for name, value in LAUNCHER.items():
        monkeypatch.setenv(name, value)
    level = logging.getLogger("transformers").level
    before, said = (dict(os.environ), list(sys.path)), []
    with prepared_process(said.append):
        assert not LAUNCHER.keys() & os.environ.keys()
        assert (os.environ["TOKENIZERS_PARALLELISM"], os.environ["TRANSFORMERS_VERBOSITY"]) == ("true", "error")
        assert sys.path == [*before[1], str(tmp_path)]
        assert logging.getLogger("transformers").level == logging.ERROR
    assert (dict(os.environ), sys.path) == before
    assert logging.getLogger("transformers").level in {level, logging.WARNING}
    assert len(said) == 1


@UNTYPED
def test_a_wrong_argument_is_named_with_what_to_write(run):
    for call, message in [
        (lambda: train("quickstart"), "train takes a recipe from load_recipe, got 'quickstart'; write train(load_re"),
        (lambda: evaluate("quickstart"), 'evaluate(load_recipe("quickstart"))'),
        (lambda: train(run), f"write train({run}.config)"),
        (lambda: train(None), "got None; write train(load_recipe(...))"),
        (lambda: evaluate(run.config, run.config), "evaluate takes the path of a policy, got RunConfig("),
        (lambda: generate(run, ["1"]), f"generate takes the path of a policy, got {run}; write {run}.policy"),
        (lambda: load_recipe("quickstart", ["seed=1"]), "each change as a word of its own, got ['seed=1']; write load"),
        (lambda: load_recipe("quickstart", {"seed": 1}), "each change as a word of its own, got {'seed': 1}"),
        (lambda: generate(run.policy, "12+3="), 'prompts: must be a list of prompts, got text; write ["12+3="]'),
        (lambda: generate(run.policy, {"prompt": "1"}), "prompts: must be a list of prompts, got {'prompt': '1'}"),
        (lambda: generate(run.policy, 5), "prompts: must be a list of prompts, got 5"),
        (lambda: generate(run.policy, ["1"], decode="fast"), "decode: must be a mapping of settings, such as"),
        (lambda: generate(run.policy, ["1"], seed="a"), "seed: must be an integer, got 'a'"),
    ]:
        with pytest.raises(TypeError, match=re.escape(message)):
            call()


@UNTYPED
@pytest.mark.parametrize("prompt", [{"prompt": "1"}, 5, None, [], ["1"]])
def test_a_prompt_that_is_none_is_named_by_its_number(run, prompt):
    with pytest.raises(DataError, match=r"^prompts:1: `prompt` must be text or a list of messages"):
        generate(run.policy, ["1", prompt], max_new_tokens=8)


@pytest.mark.parametrize("name", ["max_new_tokens", "slots"])
def test_a_count_below_one_is_refused_by_its_name(run, name):
    with pytest.raises(ValueError, match=f"^{name}: must be at least 1, got 0"):
        generate(run.policy, ["1"], **{name: 0})


def test_the_worked_example_of_the_docs_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    (tmp_path / "my_rewards.py").write_text(blocks[1])
    names: dict[str, object] = {}
    exec(compile(blocks[0], "docs/api.md", "exec"), names)
    run = names["run"]
    assert isinstance(run, RunFolder)
    assert run.metrics("train")[-1]["rewards/brevity/characters"] > 0
    assert "eval/accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["rl", "rollout", "rewards"])
def test_a_folder_of_ours_is_imported_under_one_name_only(name):
    done = python(f"import {name}", cwd=ROOT)
    assert re.search(
        rf"ImportError: .*{name}/__init__\.py is a part of Redraft and was imported as '{name}'", done.stderr
    )
    done = python("from redraft import rewards; rewards.resolve('rewards:brevity')", cwd=ROOT)
    assert "RewardError: reward module 'rewards' does not import: ImportError: " in done.stderr
    assert "is a part of Redraft and was imported as 'rewards'" in done.stderr


USER = """
import contextlib
from redraft.rewards import RewardMixture, RewardTerm, Sample
terms = [
    RewardTerm(fn="rewards:brevity", isolation="process"),
    RewardTerm(fn="rewards:brevity", name="here", isolation="inline", timeout_s=None),
    RewardTerm(fn="rewards/mine.py:brevity", name="file"),
    RewardTerm(fn="math_accuracy"),
]
with contextlib.closing(RewardMixture(terms)) as mixture:
    (scored,) = mixture.score([Sample("1+1=", "abc", columns={"ground_truth": "2"})])
print(scored.parts)
import sys, rewards
assert rewards.__file__.startswith(sys.argv[1]) and not {"rl", "rollout"} & sys.modules.keys()
"""


@pytest.mark.parametrize("first_on_path", [True, False])
def test_packages_of_a_user_with_our_names_are_the_users(tmp_path, first_on_path):
    for name in ("rl", "rollout"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('taken for one of ours')")
    (tmp_path / "rewards").mkdir()
    for file in ("__init__.py", "mine.py"):
        (tmp_path / "rewards" / file).write_text(
            "def brevity(completions):\n    return [len(c) for c in completions]\n"
        )
    done = python(USER, str(tmp_path), cwd=tmp_path, PYTHONPATH=str(tmp_path) if first_on_path else "")
    assert done.stdout == "{'brevity': 3.0, 'here': 3.0, 'file': 3.0, 'math_accuracy': 0.0}\n", done.stderr
