"""What a person sees, on a terminal and in a file."""

import io
import json

import pytest
from rich.console import Console

from redraft.rl.config.recipe import load_recipe
from redraft.rl.monitor import display as module
from redraft.rl.monitor.display import ConsoleDisplay, metrics_table, open_display, progress
from tiny import write_recipe

STEP = {"reward/mean": 0.51234, "reward/masked_fraction": 0.0, "completions/mean_length": 7.5, "time/step_s": 1.234}


@pytest.fixture
def config(tmp_path):
    return load_recipe([write_recipe(tmp_path)], [])


@pytest.fixture(params=["terminal", "plain"])
def console(request):
    return Console(file=io.StringIO(), force_terminal=request.param == "terminal", width=40, color_system=None)


def text(console):
    return console.file.getvalue()


def write_rows(folder, *rows):
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"stage": stage, "step": step, **values}) for stage, step, values in rows]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def cells(console, label):
    (line,) = [line for line in text(console).splitlines() if label in line]
    return [cell.strip() for cell in line.strip("│┃ ").split("│")]


def test_a_step_is_one_line_however_narrow_the_console_is(config, console):
    display = ConsoleDisplay(config, console)
    with display.bar:
        display.step("train", 3, STEP)
    assert "train     3/4  reward 0.512  length 7.5  s 1.23\n" in text(console)
    assert "masked" not in text(console)


def test_masked_completions_are_shown_where_there_are_any(config, console):
    ConsoleDisplay(config, console).step("train", 1, {"reward/masked_fraction": 0.125})
    assert "masked 12.5%" in text(console)


def test_only_a_terminal_gets_a_bar_and_a_resumed_run_starts_where_it_is(config):
    for terminal in (True, False):
        display = ConsoleDisplay(config, Console(file=io.StringIO(), force_terminal=terminal))
        display.step("eval", 2, {"eval/accuracy": 0.5})
        assert not display.bar.tasks
        display.step("train", 3, STEP)
        assert [(task.completed, task.total) for task in display.bar.tasks] == ([(3, 4)] if terminal else [])


def test_the_summary_compares_the_first_and_the_last_evaluation_of_the_whole_run(config, tmp_path):
    console = Console(file=io.StringIO(), width=100)
    write_rows(
        tmp_path / "run",
        ("sft", 20, {"sft/loss": 1.0, "eval/accuracy": 0.1}),
        ("eval", 0, {"eval/accuracy": 0.25, "eval/tokens_per_forward": 2.0}),
        ("train", 1, {"reward/mean": 0.3}),
        ("eval", 2, {"eval/accuracy": 0.5, "eval/tokens_per_forward": 2.0}),
        ("train", 2, {"reward/mean": 0.6}),
        ("eval", 4, {"eval/accuracy": 0.75, "eval/tokens_per_forward": 1.5}),
    )
    ConsoleDisplay(config, console).summary(tmp_path / "run")  # as after a resume: nothing was shown before
    assert cells(console, "held-out accuracy")[1:] == ["25.0%", "75.0%", "+50.0 points"]
    assert cells(console, "tokens per forward")[1:] == ["2.00", "1.50", "-0.50"]
    assert cells(console, "training reward")[1:] == ["0.300", "0.600", "+0.300"]
    assert "2 steps, " in text(console)


def test_a_summary_without_evaluation_shows_the_reward(config, tmp_path, console):
    write_rows(tmp_path / "run", ("train", 1, {"reward/mean": 0.3}), ("train", 2, {"reward/mean": 0.6}))
    ConsoleDisplay(config, console).summary(tmp_path / "run")
    assert "accuracy" not in text(console)
    assert "+0.300" in text(console)


def test_a_summary_of_one_step_has_no_empty_table(config, tmp_path, console):
    write_rows(tmp_path / "[run]", ("train", 1, {"reward/mean": 0.3}))
    ConsoleDisplay(config, console).summary(tmp_path / "[run]")
    (line,) = text(console).splitlines()
    assert line.startswith("1 steps, 0 s in this command")
    assert line.endswith(f"in {tmp_path}/[run]")  # neither wrapped nor read as markup


def test_outside_a_terminal_tables_are_not_squeezed(config, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    metrics_table(f"a [very] {'long ' * 20}title", {"eval/edits_per_completion": 0.123456})
    with open_display(config) as display:
        display.step("train", 1, STEP)
    out = capsys.readouterr().out
    assert f"a [very] {'long ' * 20}title\n" in out
    assert "│ eval/edits_per_completion │ 0.1235 │" in out
    assert "train     1/4  reward 0.512  length 7.5  s 1.23\n" in out
    assert module.WIDE > 100


def test_outside_a_terminal_long_work_says_at_most_twenty_one_lines(capsys):
    with progress("work") as advance:
        for done in range(1001):
            advance(done, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert (lines[0], lines[-1]) == ("work: 0/1000", "work: 1000/1000")
