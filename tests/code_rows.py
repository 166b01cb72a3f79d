"""Rows of the shared code data, and code_tests with one worker for each sandbox that works here."""

import functools
import gzip
import json

import pytest

from redraft.rewards.library.code.columns import COLUMNS
from redraft.rewards.library.code.reward import code_tests
from redraft.rewards.result import RewardError

KINDS = ("unsafe", "bubblewrap", "landlock")


@functools.cache
def human_eval(folder):
    return _gzipped(folder / "humaneval/HumanEval.jsonl.gz")


@functools.cache
def human_eval_plus(folder):
    return _gzipped(folder / "evalplus/HumanEvalPlus.jsonl.gz")


@functools.cache
def mbpp(folder):
    return {row["task_id"]: row for row in json.loads((folder / "mbpp/sanitized-mbpp.json").read_text())}


def _gzipped(path):
    with gzip.open(path, "rt") as lines:
        return {row["task_id"]: row for row in map(json.loads, lines)}


def score(row, completions, kind="unsafe", **kwargs):
    """Verdicts of several completions of one row, one after the other in one worker."""
    columns = {name: [row[name]] * len(completions) for name in COLUMNS if name in row}
    options = {"num_workers": 1, "sandbox": kind, "allow_unsafe": kind == "unsafe"} | kwargs
    return code_tests([row.get("prompt", "")] * len(completions), completions, **columns, **options)


@functools.cache
def _missing(kind):
    try:
        score({"inputs": [""], "outputs": ["1"]}, ["print(1)"], kind)
    except RewardError as error:
        return str(error)
    return None


def require(kind):
    if _missing(kind) is not None:
        pytest.skip(f"no sandbox {kind} here: {_missing(kind)}")


def fenced(code):
    return f"Here it is:\n```python\n{code}\n```\n"
