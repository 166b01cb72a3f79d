"""`redraft reward`, and the trial of verifiers before step 0."""

import json

import pytest
from typer.testing import CliRunner

from redraft.rewards import RewardError, RewardTerm
from redraft.rl.cli.main import app
from redraft.rl.config.recipe import load_recipe
from redraft.rl.config.sections import RewardTestConfig
from redraft.rl.data.load import load_rows
from redraft.rl.preflight.quarantine import find_unfit, read_quarantine, write_quarantine
from redraft.rl.preflight.verifiers import check_rewards
from tiny import make_policy, write_recipe

NAIVE = "def naive(completions, ground_truth):\n    return [1.0 for _ in completions]\n"


@pytest.fixture
def naive(tmp_path):
    path = tmp_path / "naive.py"
    path.write_text(NAIVE)
    return f"{path}:naive"


def run(*words):
    return CliRunner().invoke(app, ["reward", *map(str, words)])


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_list_names_every_reward_with_what_it_takes():
    result = run("list")
    assert result.exit_code == 0
    for word in ("math_accuracy", "boxed_format", "format_match", "ground_truth, extract=", "verifier", "pattern"):
        assert word in result.output


def test_score_writes_every_row_with_its_verdict(tmp_path):
    data = write_rows(
        tmp_path / "in.jsonl",
        {"prompt": "1+1", "completion": r"\boxed{2}", "ground_truth": "2", "id": 7},
        {"prompt": "1+2", "completion": r"\boxed{4}", "ground_truth": "3", "id": 8},
        {"prompt": "1+3", "completion": "4?", "ground_truth": "4", "id": 9},
    )
    result = run("score", "--fn", "math_accuracy", "--data", data, "--out", tmp_path / "out.jsonl")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["id"], row["score"], row["status"]) for row in rows] == [
        (7, 1.0, "ok"),
        (8, 0.0, "wrong"),
        (9, 0.0, "no_answer"),
    ]
    assert all(row["ms"] >= 0 and "detail" in row for row in rows)
    assert "ms p50 / p95 / max" in result.output


def test_score_gives_null_and_a_reason_to_a_row_that_cannot_be_scored(tmp_path):
    (tmp_path / "own.py").write_text(
        "def own(completions, k=1):\n    return [k * float(text) for text in completions]\n"
    )
    data = write_rows(tmp_path / "in.jsonl", {"completion": "2"}, {"completion": "two"})
    words = ("--fn", f"{tmp_path}/own.py:own", "--kwargs", '{"k": 3}', "--data", data, "--out", tmp_path / "out.jsonl")
    result = run("score", *words)
    assert result.exit_code == 0, result.output
    first, second = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert first["score"] == 6.0
    assert (second["score"], second["status"]) == (None, "infra_error")
    assert "could not convert" in second["detail"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--kwargs", "{"), "--kwargs '{' is not JSON"),
        (("--kwargs", "[1]"), "must be a JSON object"),
        (("--fn", "math_acuracy"), "did you mean 'math_accuracy'"),
        (("--kwargs", '{"extrct": 1}'), "kwargs.extrct is no argument"),
    ],
)
def test_mistakes_are_named(tmp_path, words, message):
    data = write_rows(tmp_path / "in.jsonl", {"prompt": "p", "completion": "c", "ground_truth": "2"})
    result = run("score", "--fn", "math_accuracy", "--data", data, "--out", tmp_path / "out.jsonl", *words)
    assert result.exit_code
    assert message in str(result.exception)
    assert not (tmp_path / "out.jsonl").exists()


def test_test_passes_a_good_verifier_and_shows_how_a_bad_one_is_gamed(tmp_path, naive):
    data = write_rows(tmp_path / "in.jsonl", {"prompt": "1+1", "ground_truth": "2"})
    good = run("test", "math_accuracy", "--data", data)
    assert good.exit_code == 0, good.output
    assert "always_equal" in good.output
    bad = run("test", naive, "--data", data)
    assert bad.exit_code == 1
    assert bad.output.count("list_everything") == 2  # counted in the first table, shown in the second


def test_test_takes_a_recipe_and_its_own_rows(tmp_path):
    result = run("test", write_recipe(tmp_path, rewards=[{"fn": "math_accuracy"}]), "--rows", 3)
    assert result.exit_code == 0, result.output
    assert "math_accuracy: 3 rows" in result.output
    assert (
        "math_accuracy: 2 rows"
        in run("test", write_recipe(tmp_path, rewards=[{"fn": "math_accuracy"}]), "data.max_rows=2").output
    )
    plain = write_recipe(tmp_path, rewards=[{"fn": "boxed_format"}])
    assert "no reward is a verifier" in str(run("test", plain).exception)


@pytest.mark.parametrize(
    ("data", "reward"),
    [
        ({"path": "gsm8k", "split": "test", "transform": "gsm8k"}, {"fn": "math_accuracy"}),
        ({"path": "aime/aime25.jsonl", "transform": "rename",
          "kwargs": {"columns": {"prompt": "problem", "ground_truth": "expected_answer"}}}, {"fn": "math_accuracy"}),
        ({"path": "sudoku/4x4_test_sudoku.csv", "transform": "rename",
          "kwargs": {"columns": {"prompt": "Puzzle", "puzzle": "Puzzle", "solution": "Solution"}}}, {"fn": "sudoku"}),
        ({"path": "mbpp/sanitized-mbpp.json"}, {"fn": "code_tests"}),
        ({"path": "ifeval/input_data.jsonl"}, {"fn": "ifeval"}),
    ],
    ids=lambda value: value.get("fn", ""),
)  # fmt: skip
def test_a_recipe_over_a_real_data_set_has_verifiers_that_hold(tmp_path, shared_data, data, reward):
    data = {**data, "path": str(shared_data / data["path"])}
    result = run("test", write_recipe(tmp_path, data=data, rewards=[reward]), "--rows", 12)
    assert result.exit_code == 0, result.output
    assert f"{reward['fn']}: 12 rows" in result.output


def test_a_run_does_not_start_with_a_verifier_that_can_be_gamed(tmp_path, naive):
    make_policy(tmp_path / "policy")
    recipe = write_recipe(tmp_path, rewards=[{"fn": naive, "attacks": ["empty"]}], output_dir=f"{tmp_path}/run")
    result = CliRunner().invoke(app, ["train", str(recipe)])
    assert isinstance(result.exception, RewardError)
    assert "'naive' does not tell right answers (score 1) from cheap ones (score 0): empty 0%" in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_a_reward_that_applies_to_no_row_is_refused(naive):
    terms = [RewardTerm(fn="boxed_format"), RewardTerm(fn=naive, when={"taks": "math"})]
    with pytest.raises(RewardError, match=r"'naive' applies to none of 1 training rows: when: .'taks': 'math'"):
        check_rewards(terms, [{"prompt": "p", "task": "math"}], RewardTestConfig(), 0, print)


def test_the_threshold_and_the_size_of_the_trial_are_settings(naive):
    rows, said = [{"prompt": "1+1", "ground_truth": "2"}] * 9, []
    terms = [RewardTerm(fn=naive, attacks=("empty",)), RewardTerm(fn="boxed_format")]
    check_rewards(terms, rows, RewardTestConfig(rows=5, threshold=0.0), 0, said.append)
    assert said == ["reward 'naive' on 5 rows, scored as it should: gold 100%, empty 0%"]
    check_rewards(terms, rows, RewardTestConfig(rows=0), 0, said.append)
    assert len(said) == 1


def recipe_over(folder, *golds):
    rows = [{"prompt": f"question {n}", "ground_truth": gold} for n, gold in enumerate(golds)]
    data = {"path": str(write_rows(folder / "rows.jsonl", *rows))}
    return write_recipe(folder, data=data, rewards=[{"fn": "math_accuracy"}])


def test_rows_that_the_verifier_cannot_judge_are_left_out_with_a_reason(tmp_path):
    recipe = recipe_over(tmp_path, *"123", "", *map(str, range(16)))
    config = load_recipe([recipe])
    rows, said = load_rows(config.data, 0), []
    unfit = find_unfit(config, rows, said.append)
    assert list(unfit) == [3]
    assert "ground_truth" in unfit[3]
    assert said == ["1 of 20 training rows left out, no verifier can judge them: see quarantine.jsonl"]
    write_quarantine(tmp_path, rows, unfit)
    assert read_quarantine(tmp_path) == unfit
    assert find_unfit(load_recipe([recipe], ["reward_test.audit=false"]), rows, said.append) == {}


def test_a_run_over_rows_that_mostly_cannot_be_judged_does_not_start(tmp_path):
    result = CliRunner().invoke(app, ["train", str(recipe_over(tmp_path, "1", "", "", "2"))])
    assert "cannot judge 2 of 4 training rows, more than reward_test.threshold=0.9 allows" in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_leaves_out_the_same_rows(tmp_path):
    make_policy(tmp_path / "policy")
    recipe = str(recipe_over(tmp_path, *"123", "", *map(str, range(16))))
    small = ["evaluation=null", "trainer.save_steps=1"]
    first = CliRunner().invoke(app, ["train", recipe, *small, "trainer.total_steps=1"])
    assert first.exit_code == 0, first.output
    assert read_quarantine(tmp_path / "run").keys() == {3}
    second = CliRunner().invoke(app, ["train", recipe, *small, "trainer.total_steps=2", "--resume"])
    assert second.exit_code == 0, second.output
