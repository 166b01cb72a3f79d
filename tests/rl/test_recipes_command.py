"""Built-in recipes: found by name in any folder, shown, copied with what they name; and files beside a recipe."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import ROOT
from redraft.rl.cli.main import app
from redraft.rl.config.places import GROUPS, built_in, copy_recipe, find_built_in
from redraft.rl.config.recipe import RecipeError, load_words
from tiny import write_recipe


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def recipes(*words: object) -> str:
    result = CliRunner().invoke(app, ["recipes", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_list_has_two_groups_and_says_what_each_recipe_is(elsewhere):
    listed = recipes("list")
    head, _, tail = listed.partition("examples:\n")
    assert head.startswith("recipes:\n")
    assert re.search(r"^  quickstart +Two-digit additions", head, re.MULTILINE)
    assert re.search(r"^  llada2_mini_full +LLaDA2.1-mini on GSM8K: all weights, eight 80 GB GPUs. Not run", head, re.M)
    assert "  short_answer  Another reward" in tail
    assert all(f"  {path.stem}" in listed for group in GROUPS for path in (ROOT / group).glob("*.yaml"))


def test_names_are_unique_and_every_built_in_recipe_is_whole(elsewhere):
    names = [path.stem for group in GROUPS for path in (ROOT / group).rglob("*.yaml")]
    assert len(names) == len(set(names)) == sum(len(built_in(group)) for group in GROUPS)
    for name in built_in("recipes"):
        assert load_words([name]).output_dir == f"runs/{name}"
    for name in built_in("examples"):
        assert load_words(["quickstart", name]).output_dir == f"runs/{name}"


def test_a_recipe_is_shown_as_it_is():
    assert recipes("show", "quickstart") == (ROOT / "recipes" / "quickstart.yaml").read_text()


def test_a_copy_brings_the_reward_that_the_recipe_names(elsewhere):
    assert recipes("copy", "short_answer", "mine") == "written: mine/short_answer.yaml\nwritten: mine/short_answer.py\n"
    for name in ("short_answer.yaml", "short_answer.py"):
        assert (elsewhere / "mine" / name).read_bytes() == (ROOT / "examples" / name).read_bytes()
    config = load_words(["quickstart", "mine/short_answer.yaml"])
    assert config.rewards[0].fn == f"{elsewhere}/mine/short_answer.py:short_answer"
    assert recipes("copy", "quickstart", "own.yaml") == "written: own.yaml\n"
    assert recipes("copy", "quickstart") == "written: quickstart.yaml\n"


def test_a_copy_replaces_no_file_and_then_writes_none(elsewhere):
    (elsewhere / "short_answer.py").write_text("mine")
    with pytest.raises(FileExistsError, match=r"short_answer\.py: is there already and stays as it is"):
        copy_recipe(find_built_in("short_answer"), elsewhere)
    assert [path.name for path in elsewhere.iterdir()] == ["short_answer.py"]
    assert (elsewhere / "short_answer.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("file", r"^file: cannot be made, .*file is no folder"),
        ("file/g", r"^file/g: cannot be made, .*file is no folder"),
        ("file/g.yaml", r"^file: cannot be made, .*file is no folder"),
        ("/proc/x", r"^/proc/x/quickstart.yaml: cannot be written: No such file|/proc/x: cannot be written, /proc may"),
        ("x.txt", r"^x\.txt: a recipe ends in \.yaml or \.yml; a folder with a dot must be there already"),
        ("", r"^the path to write is empty; write \. for the working directory"),
    ],
)
def test_a_place_that_cannot_take_a_copy_is_refused(elsewhere, to, message):
    (elsewhere / "file").touch()
    with pytest.raises((OSError, ValueError), match=message):
        copy_recipe(find_built_in("quickstart"), to)
    assert CliRunner().invoke(app, ["recipes", "copy", "quickstart", to]).exit_code == 1
    assert [path.name for path in elsewhere.iterdir()] == ["file"]
    (elsewhere / "v1.2").mkdir()
    assert copy_recipe(find_built_in("quickstart"), "v1.2") == [Path("v1.2/quickstart.yaml")]


@pytest.mark.parametrize("verb", ["show", "copy"])
def test_a_name_that_is_not_there_is_named_with_the_nearest(elsewhere, verb):
    result = CliRunner().invoke(app, ["recipes", verb, "quickstrt"])
    assert str(result.exception).startswith("quickstrt: no built-in recipe; did you mean 'quickstart'? valid: ")


def test_a_built_in_recipe_is_found_in_any_folder_and_its_run_lands_in_that_folder(elsewhere):
    config = load_words(["quickstart", "short_answer", "trainer.total_steps=3"])
    assert config.trainer.total_steps == 3
    assert config.output_dir == "runs/short_answer"
    assert config.rewards[0].fn == f"{ROOT}/examples/short_answer.py:short_answer"


def test_a_built_in_recipe_means_the_same_where_files_of_its_names_lie(elsewhere):
    (elsewhere / "short_answer.py").write_text("def short_answer(completions): return [0.0]")
    assert load_words(["quickstart", "short_answer"]).rewards[0].fn.startswith(f"{ROOT}/examples/")


@pytest.mark.parametrize("written", ["quickstart", "quickstart.yaml", "./quickstart"])
def test_a_file_goes_before_a_built_in_name_only_where_it_is_written_as_a_path(elsewhere, written):
    mine = write_recipe(elsewhere, output_dir="mine").read_text()
    for name in ("quickstart", "quickstart.yaml", "own"):
        (elsewhere / name).write_text(mine)
    assert load_words([written]).output_dir == ("runs/quickstart" if written == "quickstart" else "mine")
    assert load_words(["own"]).output_dir == "mine"  # no built-in recipe has this name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quickstrt"], r"quickstrt: no such recipe; did you mean 'quickstart'\? `redraft recipes list` shows the"),
        (
            ["nonsense"],
            r"nonsense: no such recipe; `redraft recipes list` shows the built-in ones; a file of yours ends",
        ),
        (["./nonsense"], r"\./nonsense: no such recipe; recipes here: none in \./recipes; `redraft recipes list`"),
        (
            ["quickstart.yaml"],
            r"did you mean the built-in 'quickstart' \(no folder, no ending\)\? recipes",
        ),
        (
            ["recipes/quickstart.yaml"],
            r"recipes/quickstart\.yaml: no such recipe; did you mean the built-in 'quick",
        ),
        ([Path("quickstart")], r"did you mean the built-in 'quickstart' \(as text, not as a Path\)\?"),
        (["recipes/quikstart.yaml"], r"no such recipe; did you mean 'quickstart'\? recipes here: none"),
        (["algorithm=ebpo", "quickstart"], r"algorithm=ebpo: no such recipe; the recipe comes first, then its changes"),
        (["short_answer"], r"\nshort_answer: an example changes the recipe .*: redraft train quickstart short_answer$"),
        (["quickstart", "short_answr"], r"short_answr: no recipe of this name; did you mean 'short_answer'\?"),
        (["quickstart", "trainer.total_steps"], r"override 'trainer.total_steps': write key.sub=value"),
    ],
)
def test_a_recipe_that_is_not_there_is_named_with_the_remedy(elsewhere, words, message):
    with pytest.raises(RecipeError, match=message):
        load_words(words)


def test_a_file_that_is_not_there_is_named_with_the_nearest_one_there(elsewhere):
    for folder in ("recipes", "mine"):
        (elsewhere / folder).mkdir()
        (elsewhere / folder / "addition.yaml").touch()
        with pytest.raises(RecipeError, match=rf"recipe; did you mean '{folder}/addition\.yaml'\? recipes here"):
            load_words([f"{folder}/adition.yaml"])


def test_a_mistake_in_an_example_is_explained_without_a_recipe_only_where_there_is_none(elsewhere):
    with pytest.raises(RecipeError) as error:
        load_words(["quickstart", "short_answer", "seed=x"])
    assert "an example changes" not in str(error.value)


def test_a_recipe_finds_what_lies_beside_it_after_what_lies_in_the_working_directory(elsewhere, tmp_path):
    beside = tmp_path / "recipes"
    beside.mkdir()
    for name in ("mine.py", "rows.jsonl"):
        (beside / name).write_text("")
    rewards = [
        {"fn": "mine.py:f", "when": {"path": "mine.py"}},
        {"fn": "trl_reward", "kwargs": {"function": "mine.py:f", "path": "mine.py"}},
    ]
    recipe = write_recipe(tmp_path, data={"path": "./rows.jsonl"}, rewards=rewards).replace(beside / "own.yaml")
    config = load_words([recipe])
    assert config.data.path == f"{beside}/rows.jsonl"
    assert (config.rewards[0].fn, config.rewards[0].when) == (f"{beside}/mine.py:f", {"path": "mine.py"})
    assert config.rewards[1].kwargs == {"function": f"{beside}/mine.py:f", "path": "mine.py"}
    for name in ("mine.py", "rows.jsonl"):
        (elsewhere / name).write_text("")
    config = load_words([recipe])
    assert config.data.path == "./rows.jsonl"
    assert config.rewards[0].fn == f"{elsewhere}/mine.py:f"


def test_words_that_are_no_files_stay_as_they_are(elsewhere, tmp_path):
    beside = tmp_path / "recipes"
    (beside / "openai" / "gsm8k").mkdir(parents=True)
    (beside / "arithmetic").mkdir()
    for source in ("arithmetic", "openai/gsm8k"):
        recipe = write_recipe(tmp_path, data={"path": source}).replace(beside / "own.yaml")
        assert load_words([recipe]).data.path == source


def test_the_trial_of_rewards_takes_a_built_in_recipe(elsewhere):
    result = CliRunner().invoke(app, ["reward", "test", "quickstart", "--rows", "2"])
    assert result.exit_code == 0, result.output
    assert "math_accuracy: 2 rows" in result.output


@pytest.mark.parametrize(
    ("words", "made"),
    [
        ("redraft r", ["reward", "recipes"]),
        ("redraft train qui", ["quickstart"]),
        ("redraft recipes copy s", ["short_answer"]),
        ("redraft train ./qui", []),  # where we have nothing to say, the shell completes files
    ],
)
def test_the_shell_completes_verbs_and_recipes(words, made):
    asked = {"_REDRAFT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-m", "redraft"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True)
    assert done.stdout.split() == made
