"""Fidelity: what the data sets' own solutions score, every exception by name."""

import copy
import os

import pytest

from code_rows import KINDS, fenced, human_eval, human_eval_plus, mbpp, require
from redraft.rewards.library.code.audit import audit
from redraft.rewards.library.code.options import CodeOptions
from redraft.rewards.library.code.reward import code_tests
from tiers import every

UNSAFE = {"sandbox": "unsafe", "allow_unsafe": True, "num_workers": 2}
INPUTS = None if os.environ.get("REDRAFT_FULL") else 100  # of each HumanEval+ problem; all of them take minutes

# Their solutions return a re.Match, of which the tests ask only whether it is one. It is no built-in value.
MBPP_RETURNS_A_MATCH = {737, 787, 794}
# Its solution returns a list of 30 MB as text, and 16 MB may cross.
PLUS_TOO_LARGE = {"HumanEval/130"}


def failures(rows, completions, columns, **kwargs):
    given = {name: [row[name] for row in rows] for name in columns}
    verdicts = code_tests([row["prompt"] for row in rows], completions, **given, **kwargs)
    return {row["task_id"]: v.detail for row, v in zip(rows, verdicts, strict=True) if v.score != 1.0}


@pytest.mark.witness  # the default run takes one in 8, in every sandbox
def test_all_164_human_eval_solutions_score_one(shared_data):
    rows = list(human_eval(shared_data).values())
    assert len(rows) == 164
    bodies = [row["canonical_solution"] for row in rows]
    assert failures(rows, bodies, ["test", "entry_point"], **UNSAFE) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_human_eval_solutions_score_one_in_every_sandbox(kind, shared_data):
    require(kind)
    rows = list(human_eval(shared_data).values())[::8]
    whole = [fenced(row["prompt"] + row["canonical_solution"]) for row in rows]
    options = {"sandbox": kind, "allow_unsafe": kind == "unsafe", "num_workers": 1}
    assert failures(rows, whole, ["test", "entry_point"], **options) == {}


@every(12)
def test_424_of_427_mbpp_solutions_score_one_and_the_others_are_known(shared_data, part):
    rows = mbpp(shared_data)
    assert len(rows) == 427
    tasks = {*list(rows)[part], *MBPP_RETURNS_A_MATCH}
    rows = [row for task, row in rows.items() if task in tasks]
    codes = [fenced(row["code"]) for row in rows]
    failed = failures(rows, codes, ["test_list", "test_imports"], **UNSAFE, timeout_s=20)  # 123 needs seconds
    assert set(failed) == MBPP_RETURNS_A_MATCH, failed


@every(8)
def test_human_eval_plus_solutions_return_through_the_sandbox_what_they_return_here(shared_data, part):
    rows = list(human_eval_plus(shared_data).values())
    assert len(rows) == 164
    rows = [_expected(row) for row in rows[part]]
    bodies = [row["canonical_solution"] for row in rows]
    known = set() if INPUTS else PLUS_TOO_LARGE & {row["task_id"] for row in rows}
    assert set(failures(rows, bodies, ["fn_name", "inputs", "outputs"], **UNSAFE, timeout_s=20)) == known


def test_one_solution_of_human_eval_plus_returns_more_than_may_cross(shared_data):
    row = _expected(human_eval_plus(shared_data)["HumanEval/130"], slice(108, 109))
    found = failures([row], [row["canonical_solution"]], ["fn_name", "inputs", "outputs"], **UNSAFE, timeout_s=20)
    assert set(found) == PLUS_TOO_LARGE
    assert "at most 16777216" in found["HumanEval/130"]


def _expected(row, part=slice(INPUTS)):
    """The row as a call row: expected values computed here, without any sandbox."""
    namespace = {}
    exec(row["prompt"] + row["canonical_solution"], namespace)
    inputs = (row["base_input"] + row["plus_input"])[part]
    outputs = [namespace[row["entry_point"]](*copy.deepcopy(given)) for given in inputs]
    return {**row, "fn_name": row["entry_point"], "inputs": inputs, "outputs": outputs}


@every(8)
def test_no_stub_passes_human_eval_and_every_row_survives_the_audit(shared_data, part):
    rows = list(human_eval(shared_data).values())
    assert len(rows) == 164
    assert audit(rows[part], CodeOptions(sandbox="unsafe", allow_unsafe=True, num_workers=2)) == {}


def test_the_audit_of_mbpp_quarantines_rows_by_name_with_a_kind(shared_data):
    tasks = [123, 126, 2, 404, 737, 787, 794]
    rows = [mbpp(shared_data)[task] for task in tasks]
    limits = CodeOptions(sandbox="unsafe", allow_unsafe=True, num_workers=2, timeout_s=3)
    found = audit(rows, limits, gold="code")
    assert {tasks[index]: reason.partition(":")[0] for index, reason in found.items()} == {
        123: "gold_slow",  # sums divisors by trial for every number: seconds
        404: "stub_passed",  # the minimum of two numbers is the first one in all its tests
        **dict.fromkeys(MBPP_RETURNS_A_MATCH, "gold_failed"),
    }
