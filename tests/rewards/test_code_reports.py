"""Every kind of fault that users of code graders reported, with its siblings: each has the right score."""

import json

import pytest

import code_reports as reports
from code_rows import score
from redraft.rewards.library.code.audit import quarantine
from redraft.rewards.library.code.columns import COLUMNS
from redraft.rewards.library.code.formats import holds_tests
from redraft.rewards.scoring.trial import gold_forms


def outcome(row, completion, **kwargs):
    (verdict,) = score(row, [completion], **kwargs)
    return verdict.score, verdict.detail


def cases(table):
    return [pytest.param(*case, id=f"{number}") for number, case in enumerate(table)]


@pytest.mark.parametrize(("completion", "expected"), cases(reports.LITERALS))
def test_no_text_makes_the_checker_fail(completion, expected):
    assert outcome(reports.DOUBLE, completion)[0] == expected


@pytest.mark.parametrize("value", reports.VALUES)
def test_no_value_makes_the_checker_fail(value):
    code = reports.py(f"def add(a, b):\n    return {value}")
    assert outcome(reports.ADD, code)[0] == 0.0
    row = {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}
    assert outcome(row, code, tolerance=1e-6)[0] == 0.0


@pytest.mark.parametrize(
    "code", ["import sys\nsys.stdout.buffer.write(b'\\xff1\\n')", "print('\\ufffd1')", "print('\\ud800')"]
)
def test_output_that_is_no_text_is_wrong(code):
    assert outcome({"inputs": ["x"], "outputs": ["\ufffd1" if "xff" in code else "1"]}, reports.py(code))[0] == 0.0


@pytest.mark.parametrize(("completion", "expected"), cases(reports.BLOCKS))
def test_the_block_that_defines_the_name_is_the_solution(completion, expected):
    assert outcome(reports.ADD, completion)[0] == expected


@pytest.mark.parametrize(("completion", "expected"), cases(reports.BODIES))
def test_a_body_continues_the_function_of_the_prompt(completion, expected):
    assert outcome(reports.DOUBLE, completion)[0] == expected


@pytest.mark.parametrize(("completion", "expected"), cases(reports.PROGRAM_BLOCKS))
def test_the_block_that_reads_its_input_is_the_program(completion, expected):
    assert outcome(reports.SUM, completion)[0] == expected


@pytest.mark.parametrize(("completion", "expected"), cases(reports.ENDS))
def test_a_program_may_end_itself(completion, expected):
    assert outcome(reports.SUM, completion)[0] == expected


@pytest.mark.parametrize("code", reports.CALLED_ENDS)
def test_code_that_is_called_does_not_pass_by_ending_itself(code):
    assert outcome({"test_list": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"]}, reports.py(code))[0] == 0.0


@pytest.mark.parametrize(("completion", "expected"), cases(reports.PROVIDED))
def test_call_rows_provide_the_usual_names(completion, expected):
    assert outcome(reports.TOTAL, completion)[0] == expected


@pytest.mark.parametrize(
    ("row", "completion", "expected"), cases([*reports.SOLUTIONS, *reports.LONG, *reports.FORMATS])
)
def test_rows_of_public_data_sets_are_judged(row, completion, expected):
    found, detail = outcome(row, completion)
    assert found == expected, detail
    assert expected is not None or detail


@pytest.mark.parametrize(("wanted", "printed", "expected"), cases(reports.PRINTED))
def test_a_tolerance_bends_printed_floats_and_nothing_else(wanted, printed, expected):
    row = {"inputs": ["3\n"], "outputs": [f"{wanted}\n"]}
    assert outcome(row, reports.py(f"print({printed!r})"), tolerance=1e-6)[0] == expected


@pytest.mark.parametrize(("wanted", "value", "expected"), cases(reports.RETURNED))
def test_a_tolerance_bends_returned_floats_and_nothing_else(wanted, value, expected):
    row = {"fn_name": "f", "inputs": [[0]], "outputs": [wanted]}
    assert outcome(row, reports.py(f"def f(x):\n    return {value}"), tolerance=1e-6)[0] == expected


@pytest.mark.parametrize(("code", "test", "expected"), cases(reports.CROSSING))
def test_values_of_the_library_cross(code, test, expected):
    assert outcome({"test_list": [test]}, reports.py(code))[0] == expected


def test_every_form_of_tests_has_its_column():
    assert {name for row, *_ in reports.FORMATS for name in row} <= set(COLUMNS)


def test_tests_in_the_column_of_answers_are_no_answer():
    packed = json.dumps(reports.SUM)
    assert holds_tests(packed)
    assert gold_forms({"ground_truth": packed}) == []
    assert not any(map(holds_tests, ["42", "[1, 2]", '{"a": 1}', "assert True", 7, None, ["a"]]))


def test_the_audit_reads_packed_tests_and_the_first_of_several_solutions():
    row = {"input_output": json.dumps(reports.SUM), "solutions": json.dumps([reports.READ, "print(1)"])}
    options = {"sandbox": "unsafe", "allow_unsafe": True, "num_workers": 1}
    assert quarantine([row], options) == {}
    assert quarantine([row | {"solutions": ["print(1)"]}], options)[0].startswith("gold_failed: ")
