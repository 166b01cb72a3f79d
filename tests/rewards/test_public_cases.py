"""Every reduced case of public bug reports, through the command that a user types.

The cases lie in the reference folder (`cases/rewards.jsonl`): an input, the right score, and why.
"""

import json
from collections import defaultdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from redraft.rl.cli.main import app

GROUPS = ("math_accuracy", "code_tests", "ifeval", "others")


def score_by_command(fn: str, kwargs: dict, files: dict[str, str], rows: list[dict]) -> list[float | None]:
    """Scores that `redraft reward score` writes for rows, with a user's files in the working folder."""
    for path, text in files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["reward", "score", "--fn", fn, "--data", "in.jsonl", "--out", "out.jsonl"]
    result = CliRunner().invoke(app, [*command, "--kwargs", json.dumps(kwargs)])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return [json.loads(line)["score"] for line in Path("out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("group", GROUPS)
def test_every_reported_case_gets_the_right_score(group, shared_cases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = defaultdict(list)  # cases of one reward, settings and files share a call
    for line in (shared_cases / "rewards.jsonl").read_text().splitlines():
        case = json.loads(line)
        if (case["fn"] if case["fn"] in GROUPS else "others") == group:
            calls[json.dumps([case["fn"], case["kwargs"], case.get("files", {})])].append(case)
    assert calls
    wrong = [
        f"{case['kind']}: {score} instead of {case['expected']}: {str(case['input'])[:300]}"
        for call, cases in calls.items()
        for case, score in zip(
            cases, score_by_command(*json.loads(call), [case["input"] for case in cases]), strict=True
        )
        if score != case["expected"]
    ]
    assert not wrong, "\n".join(wrong)
