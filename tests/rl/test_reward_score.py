"""`redraft reward score`: every line of a file gets a verdict, and an odd one ends nothing."""

import json

import pytest
from typer.testing import CliRunner

from redraft.rl.cli.reward import app

NONE = "line 2: no `completion` to score; columns: "
SHAPE = "line 2: a completion is text or a list of messages, got "
GOLD = "ground_truth must be"
BOX = r'"completion": "\\boxed{7}"'
SEVEN = '"ground_truth": "7"'
PARTS = r'[{"role": "assistant", "content": [{"type": "text", "text": "\\boxed{7}"}]}]'
ODD = {
    "not json": (None, "infra_error", "line 2: not valid JSON: "),
    '{"prompt": "q"': (None, "infra_error", "line 2: not valid JSON: "),
    "[1]": (None, "infra_error", "line 2: a row is a JSON object, got list"),
    "null": (None, "infra_error", "line 2: a row is a JSON object, got NoneType"),
    "[" * 100_000: (None, "infra_error", "line 2: "),
    '{"prompt": "\ud800"}': (None, "infra_error", "line 2: not valid UTF-8: "),
    f"{{{SEVEN}}}": (None, "infra_error", f"{NONE}ground_truth"),
    "{}": (None, "infra_error", f"{NONE}none"),
    f'{{"completion": 7, {SEVEN}}}': (None, "infra_error", f"{SHAPE}int 7"),
    f'{{"completion": [7], {SEVEN}}}': (None, "infra_error", f"{SHAPE}list"),
    f'{{{BOX}, {SEVEN}, "completion_ids": "x"}}': (None, "infra_error", "line 2: completion_ids is a list of token"),
    f"{{{BOX}}}": (None, "gold_error", GOLD),
    f'{{{BOX}, "ground_truth": {{"a": 1}}}}': (None, "gold_error", GOLD),
    f'{{{BOX}, "ground_truth": NaN}}': (None, "gold_error", GOLD),
    f'{{"completion": null, {SEVEN}}}': (0.0, "no_answer", ""),
    f'{{"completion": [], {SEVEN}}}': (0.0, "no_answer", ""),
    f'{{"completion": [{{"role": "assistant", "content": null}}], {SEVEN}}}': (0.0, "no_answer", ""),
    f'{{"completion": [{{"role": "assistant", "tool_calls": []}}], {SEVEN}}}': (0.0, "no_answer", ""),
    f'{{{BOX}, {SEVEN}, "prompt": null}}': (1.0, "ok", "7"),
    f'{{{BOX}, {SEVEN}, "prompt": 3}}': (1.0, "ok", "7"),
    f'{{"completion": {PARTS}, {SEVEN}}}': (1.0, "ok", "7"),
}
GOOD = f'{{"prompt": "q", {BOX}, {SEVEN}}}'


def run(tmp_path, lines, fn="math_accuracy", *more):
    data, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    data.write_text("".join(line + "\n" for line in lines), errors="surrogatepass")
    result = CliRunner().invoke(app, ["score", "--fn", fn, "--data", str(data), "--out", str(out), *more])
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return result, rows


def test_an_odd_row_has_a_reason_and_the_rows_around_it_their_scores(tmp_path):
    for line, (score, status, detail) in ODD.items():
        result, rows = run(tmp_path, [GOOD, line, "", GOOD])
        assert result.exit_code == 0, (line[:80], result.output, result.exception)
        assert [row["score"] for row in rows] == [1.0, score, 1.0], line[:80]
        assert rows[1]["status"] == status, line[:80]
        assert rows[1]["detail"].startswith(detail), rows[1]["detail"][:200]
    result, rows = run(tmp_path, ODD)
    assert [(row["score"], row["status"]) for row in rows] == [expected[:2] for expected in ODD.values()]


def test_odd_rows_are_counted_and_the_first_ones_shown(tmp_path):
    result, rows = run(tmp_path, ["x", GOOD, *["{}"] * 4])
    assert [row["score"] for row in rows] == [None, 1.0, *[None] * 4]
    assert rows[0] == {"line": 1, "score": None, "status": "infra_error", "detail": rows[0]["detail"], "ms": None}
    assert "1/6" in result.output
    assert "line 3: infra_error: no `completion` to score" in result.output
    assert "and 2 more lines" in result.output
    assert "6 rows written" in result.output


def test_a_row_that_a_users_reward_stumbles_over_is_masked_with_file_and_line(tmp_path):
    (tmp_path / "rw.py").write_text(
        "from redraft.rewards import RewardError\n"
        "def f(completions, answer):\n"
        "    if None in answer:\n"
        "        raise RewardError('no answer')\n"
        "    return [float(c) / a for c, a in zip(completions, answer)]\n"
    )
    rows = [{"completion": "6", "answer": 3}, {"completion": "x", "answer": 3}, {"completion": "6", "answer": 0},
            {"completion": "6"}, {"completion": "6", "answer": 2}]  # fmt: skip
    result, found = run(tmp_path, map(json.dumps, rows), f"{tmp_path}/rw.py:f")
    assert result.exit_code == 0
    assert [row["score"] for row in found] == [2.0, None, None, None, 3.0]
    assert "ZeroDivisionError: float division by zero" in found[2]["detail"]
    assert f"({tmp_path}/rw.py:5, in <listcomp>)" in found[2]["detail"]
    assert found[3]["detail"] == "line 4: reward 'f': no answer"


@pytest.mark.parametrize(
    ("lines", "fn", "more", "message"),
    [
        ([], "math_accuracy", (), "no rows"),
        ([GOOD], "math_acuracy", (), "no reward is named 'math_acuracy'"),
        ([GOOD], "math_accuracy", ("--kwargs", '{"extrac": 1}'), "kwargs.extrac is no argument"),
        (['{"completion": "7"}'] * 100, "math_accuracy", (), "needs 'ground_truth'; the data has the columns: none"),
    ],
)
def test_what_no_row_can_help_ends_with_one_error(tmp_path, lines, fn, more, message):
    result, rows = run(tmp_path, lines, fn, *more)
    assert result.exit_code == 1
    assert message in str(result.exception)
    assert rows == []
