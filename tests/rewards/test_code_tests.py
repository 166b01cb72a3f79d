"""The three kinds of tests, and what becomes of rows and candidates that are out of order."""

import pytest

import redraft.rewards.library.code.reward
from code_rows import fenced, score
from redraft.rewards.library.code.audit import quarantine
from redraft.rewards.library.code.compare import same_output, same_value
from redraft.rewards.library.code.options import CodeOptions
from redraft.rewards.library.code.reward import check_one, code_tests, make_job
from redraft.rewards.result import RewardError, Verdict
from redraft.rewards.scoring.call import Signature

ADD = fenced("def add(a, b):\n    return a + b\n")


def outcome(row, code, **kwargs):
    (verdict,) = score(row, [code if code.startswith("Here") else fenced(code)], **kwargs)
    return verdict.score, str(verdict.status)


# --- call ---


def test_calls_compare_values_with_lists_of_arguments_or_lines_of_json():
    assert outcome({"fn_name": "add", "inputs": [[1, 2], [[1], [2]]], "outputs": [3, [1, 2]]}, ADD) == (1.0, "ok")
    assert outcome({"fn_name": "add", "inputs": ["1\n2", '"a"\n"b"'], "outputs": ["3", '"ab"']}, ADD) == (1.0, "ok")
    assert outcome({"fn_name": "add", "inputs": "[[1, 2]]", "outputs": "[3]"}, ADD) == (1.0, "ok")
    assert outcome({"fn_name": "add", "inputs": [[1, 2], [1, 1]], "outputs": [3, 3]}, ADD) == (0.0, "wrong")


def test_a_method_of_the_class_solution_is_found():
    code = "class Solution:\n    def add(self, a, b):\n        return a + b\n"
    assert outcome({"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}, code) == (1.0, "ok")


def test_a_wrong_value_is_shown_with_its_call():
    (verdict,) = score({"fn_name": "add", "inputs": [[1, 2]], "outputs": [4]}, [ADD])
    assert verdict.detail == "test 1 of 1: AssertionError: add(1, 2) is 3, not 4"


SAME = [(1, 1), (1.0, 1), (1, 1.0), ((1, 2), [1, 2]), ({"a": (1,)}, {"a": [1]}), (float("nan"), float("nan")), ("", "")]
NOT_SAME = [(True, 1), (1, True), (0, False), ("1", 1), ([1], (1,)), ([1, 2], [1]), (None, 0), (0.1 + 0.2, 0.3)]
NOT_SAME += [({"a": 1}, {"a": 2}), ({"a": 1}, {"b": 1}), ({}, []), (10**400, 0.5), (float("nan"), 1.0)]


@pytest.mark.parametrize(("found", "wanted"), SAME)
def test_values_that_are_the_same(found, wanted):
    assert same_value(found, wanted, None)


@pytest.mark.parametrize(("found", "wanted"), NOT_SAME)
def test_values_that_are_not_the_same(found, wanted):
    assert not same_value(found, wanted, None)


def test_a_tolerance_is_for_floats_only():
    assert same_value([0.1 + 0.2], [0.3], 1e-6)
    assert same_value(2.0, 2, 1e-6)
    assert not same_value(2.0000001, 2, 1e-6), "a whole number is exact"
    assert not same_value(1_000_000, 1_000_001, 1e-3)
    assert not same_value(float("nan"), 0.3, 1e-6)
    assert not same_value(10**400, 0.5, 1e-6)


# --- assert ---


def asserts(*texts, **more):
    return {"test_list": list(texts), **more}


def test_assertions_run_with_their_imports_in_fresh_namespaces():
    row = asserts(
        "assert math.isclose(add(1, 2), 3)", "assert 'x' not in globals() and add(1, 1) == 2", "x = add(1, 2)"
    )
    assert outcome(row | {"test_imports": ["import math"]}, ADD) == (1.0, "ok")
    assert outcome(row, ADD) == (1.0, "ok"), "a module that the tests only forgot to import"
    row = asserts("x = add(1, 2)", "assert x == 3 and add")
    assert outcome(row, ADD) == (0.0, "wrong")


def test_changes_that_a_function_makes_in_place_are_seen_where_it_returns_none():
    row = asserts("xs = [3, 1, 2]\nd = {}\nassert sort(xs, d) is None and xs == [1, 2, 3] and d == {'n': 3}")
    assert outcome(row, "def sort(xs, d):\n    xs.sort()\n    d['n'] = len(xs)\n") == (1.0, "ok")
    assert outcome(row, "def sort(xs, d):\n    pass\n") == (0.0, "wrong")


def test_exceptions_of_the_candidate_arrive_under_their_built_in_class():
    row = asserts(
        "try:\n    f(0)\n    assert False\nexcept ZeroDivisionError as error:\n    assert 'zero' in str(error)"
    )
    assert outcome(row, "def f(x):\n    return 1 / x\n") == (1.0, "ok")
    assert outcome(row, "def f(x):\n    raise ValueError('zero')\n") == (0.0, "wrong")
    assert outcome(row, "class ZeroDivisionError(Exception): pass\ndef f(x):\n    return 1 / x\n") == (1.0, "ok")


def test_unittest_style_tests_work():
    script = """
import unittest
class Tests(unittest.TestCase):
    def runTest(self):
        self.assertEqual(add(1, b=2), 3)
        with self.assertRaises(TypeError):
            add(1)
result = unittest.TestResult()
Tests().run(result)
assert result.wasSuccessful()
"""
    assert outcome({"test": script, "entry_point": "add"}, ADD) == (1.0, "ok")
    assert outcome({"test": script, "entry_point": "add"}, "def add(a, b=0):\n    return a + b\n") == (0.0, "wrong")


def test_a_test_that_swallows_everything_does_not_swallow_the_end_of_the_candidate():
    row = asserts("try:\n    f()\nexcept:\n    pass")
    assert outcome(row, "import os\ndef f():\n    os._exit(0)\n") == (0.0, "wrong")
    assert outcome(row, "def f():\n    raise ValueError\n") == (1.0, "ok")


def test_values_cross_with_their_types():
    code = "def f(x):\n    return x\n"
    row = asserts(
        "for x in [1, 1.5, 1j, 'é', b'b', None, True, (1, [2, {3}]), frozenset({1}), {1: (2,)}, range(3), 10 ** 99]:\n"
        "    assert f(x) == x and type(f(x)) is type(x)"
    )
    assert outcome(row, code) == (1.0, "ok")
    row = asserts("assert f() == {'a': 2} and g() == [0, 1] and list(h()) == [0, 1] and h() != [0, 1]")
    code = (
        "from collections import Counter, UserList\ndef f(): return Counter('aa')\n"
        "class Own(list): pass\ndef g(): return Own([0, 1])\ndef h(): return (n for n in range(2))\n"
    )
    assert outcome(row, code) == (1.0, "ok")


def test_a_part_of_the_tests_gives_a_part_of_the_score_only_when_asked():
    row = asserts("assert add(1, 2) == 3", "assert add(1, 1) == 3", "assert add(0, 0) == 0", "assert add(2, 2) == 4")
    assert outcome(row, ADD) == (0.0, "wrong")
    assert outcome(row, ADD, partial=True) == (0.75, "wrong")


def test_code_that_does_not_run_is_wrong_and_no_code_is_no_answer():
    row = asserts("assert add(1, 2) == 3")
    assert outcome(row, "def add(a, b):\nreturn") == (0.0, "wrong")
    assert outcome(row, "import no_such_module") == (0.0, "wrong")
    assert outcome(row, "def other():\n    pass") == (0.0, "wrong")
    assert score(row, ["I do not know."]) == [Verdict(0.0, "no_answer")]


BROKEN = {
    "no columns": {},
    "an empty list": asserts(),
    "a number for a test": {"test_list": 7},
    "a truth value for tests": {"inputs": True, "outputs": True},
    "a module that is not installed": asserts("import no_such_module\nassert add(1, 2) == 3"),
    "tests that do not parse": asserts("assert f("),
    "tests that call nothing": asserts("assert True"),
    "tests that may not call": asserts("if False:\n    add(1, 2)"),
    "only built-in names": asserts("assert max(1, 2) == min(2, 3)"),
    "functions that are never run": {"test": "def try_add():\n    assert add(1, 2) == 3\n", "entry_point": "add"},
    "a test with a fixture": {"test": "def test_add(tmp_path):\n    assert add(1, 2) == 3\n", "entry_point": "add"},
    "a function as an argument": asserts("assert add(len, 2) == 3"),
    "an object as an argument": asserts("class C: pass\nassert add(C(), 2) == 3"),
    "eval of what is returned": asserts("assert eval(add('1', '2')) == 12"),
    "an expected output that is None": {"inputs": ["1"], "outputs": [None]},
    "an expected output that is empty": {"inputs": ["1"], "outputs": [" \n"]},
    "fewer outputs than inputs": {"inputs": ["1", "2"], "outputs": ["1"]},
    "no inputs": {"inputs": [], "outputs": []},
    "inputs that are no json": {"fn_name": "add", "inputs": ["1 2"], "outputs": ["3"]},
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_row_with_broken_tests_is_not_scored(case):
    (verdict,) = score(BROKEN[case], [ADD])
    assert (verdict.score, str(verdict.status)) == (None, "gold_error")
    assert verdict.detail


# --- stdio ---


def test_programs_read_stdin_and_print():
    code = "import sys\nif __name__ == '__main__':\n    print(sys.stdin.read().upper(), end='')\n    sys.exit(0)\n"
    row = {"inputs": ["é\r\nb\n", "x" * 300_000], "outputs": ["É\r\nB", "X" * 300_000 + "\n\n"]}
    assert outcome(row, code) == (1.0, "ok")


def test_a_program_that_does_not_read_its_input_may_be_right():
    assert outcome({"inputs": ["x" * 1_000_000], "outputs": ["1"]}, "print(1)") == (1.0, "ok")


def test_output_is_compared_line_by_line():
    assert same_output("1 \n2\n\n", "1\n2", None)
    assert same_output("\n 1\n2", "1\n2", None), "judges ignore white space at both ends"
    assert not same_output("1\n\n2", "1\n2", None)
    assert not same_output("1  2", "1 2", None)
    assert not same_output("0.30000000000000004", "0.3", None)
    assert same_output("x  0.30000000000000004", "x 0.3", 1e-9)
    assert not same_output("nan", "nan ", 1e-9) or same_output("nan", "nan", None)
    assert not same_output("nan", "0.3", 1e9)
    assert not same_output("inf", "0.3", 1e9)


def test_programs_score_a_part_when_asked():
    row = {"inputs": ["1", "2", "3", "4"], "outputs": ["1", "2", "3", "5"]}
    assert outcome(row, "print(input())", partial=True) == (0.75, "wrong")


# --- options and failures ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sandbox": "docker"}, "valid: auto, bubblewrap"),
        ({"sandbox": "http"}, "sandbox_fusion_url"),
        ({"sandbox_fusion_url": "http://x"}, "sandbox_fusion_url"),
        ({"timeout_s": 0}, "timeout_s must be positive, got 0"),
        ({"num_workers": 0}, "num_workers must be positive"),
        ({"sandbox": "unsafe", "allow_unsafe": False}, "allow_unsafe: true"),
    ],
)
def test_options_that_make_no_sense_are_errors(options, message):
    with pytest.raises(RewardError, match=message):
        score(asserts("assert add(1, 2) == 3"), [ADD], **options)


def test_a_checker_that_dies_every_time_is_not_the_candidates_fault():
    row = asserts("import os\nadd(1, 2)\nos.kill(os.getpid(), 9)")
    assert outcome(row, ADD) == (None, "infra_error")


def test_tests_that_hang_over_a_value_end_with_a_deadline(monkeypatch):
    monkeypatch.setattr(redraft.rewards.library.code.reward, "_GRACE_S", -3.0)  # of 4 s of wall time
    row = asserts("for _ in range(add(1, 2)): pass", "assert True")
    assert outcome(row, "def add(a, b):\n    return 10 ** 12\n", timeout_s=1) == (0.0, "timeout")
    assert outcome(row, ADD) == (1.0, "ok")


@pytest.fixture
def tries(monkeypatch):
    """Half a second of wall time for each second of CPU time; the wall times of all tries."""
    walls = []

    def watched(pool, job, target="redraft.rewards.library.code.checker:judge_job"):
        walls.append(job.wall_s)
        return check_one(pool, job, target)

    monkeypatch.setattr(redraft.rewards.library.code.reward, "check_one", watched)
    monkeypatch.setattr(redraft.rewards.library.code.reward, "_WALL_PER_CPU", 0.5)
    monkeypatch.setattr(redraft.rewards.library.code.reward, "_WALL_MORE_S", -9.0)
    return walls


PROGRAM = {"inputs": ["1"], "outputs": ["1"]}
CALL = {"test_list": ["assert add(1, 2) == 3"]}


@pytest.mark.parametrize("row", [PROGRAM, CALL])
def test_code_that_computes_past_its_wall_time_gets_one_more_try_alone(row, tries, tmp_path):
    once = f"""
import os
if not os.path.exists({str(tmp_path / "once")!r}):
    open({str(tmp_path / "once")!r}, "w").close()
    while True: pass
print(1)
def add(a, b): return a + b
"""
    assert outcome(row, once, timeout_s=1) == (1.0, "ok")
    assert tries == [0.5, 0.5]


@pytest.mark.parametrize("row", [PROGRAM, CALL])
def test_code_that_sleeps_past_its_wall_time_gets_no_more_tries(row, tries):
    assert outcome(row, "import time\ntime.sleep(60)\n", timeout_s=3) == (0.0, "timeout")
    assert tries == [1.5]


def test_a_call_makes_few_more_tries(tries, monkeypatch):
    monkeypatch.setattr(redraft.rewards.library.code.reward, "_MOST_RETRIES", 1)
    verdicts = score(PROGRAM, [fenced("while True: pass\n")] * 3, timeout_s=1)
    assert [(verdict.score, str(verdict.status)) for verdict in verdicts] == [(0.0, "timeout")] * 3
    assert len(tries) == 3 + 1


def test_64_programs_that_sleep_end_before_the_reward_timeout_of_a_run():
    job = make_job("p", ADD, PROGRAM, CodeOptions())
    programs, workers, more_tries = 64, 2, redraft.rewards.library.code.reward._MOST_RETRIES
    assert job.wall_s == 8.0
    assert (programs / workers + more_tries) * job.wall_s < 300  # cluster.reward_timeout_s


def test_a_job_carries_only_what_the_tests_need():
    job = make_job("p", ADD, {"test_list": ["assert add(1, 2) == 3"], "answer": 3}, CodeOptions(timeout_s=2.5))
    assert (job.cpu_s, job.wall_s, "answer" in job.row) == (3, 6.0, False)


def test_a_candidate_cannot_make_its_row_uncheckable_and_escape_its_zero():
    row = asserts("assert decode(encode('ab')) == 'ab'")
    assert outcome(row, "def encode(s): return iter(s)\ndef decode(s): return s\n") == (0.0, "wrong")
    row = asserts("try:\n    f()\nexcept Exception:\n    pass\nassert f() == 1")
    assert outcome(row, "def f():\n    raise ValueError\n") == (0.0, "wrong")


def test_a_long_chain_of_operators_is_judged_like_any_code():
    prompt = 'def add(a, b):\n    """Sum."""\n'
    row = {"test": "def check(f):\n    assert f(1, 2) == 3\n", "entry_point": "add", "prompt": prompt}
    (verdict,) = score(row, [f"    x = {'+'.join(['1'] * 900)}\n    return a + b\n"])
    assert verdict.score == 1.0
    (verdict,) = score(row, [f"    x = {'+'.join(['1'] * 20_000)}\n    return a + b\n"])
    assert verdict.score == 0.0


def test_a_program_that_was_killed_from_outside_gets_one_more_try_alone(tmp_path):
    once = f"""
import os
if not os.path.exists({str(tmp_path / "once")!r}):
    open({str(tmp_path / "once")!r}, "w").close()
    os.kill(os.getpid(), 9)
"""
    assert outcome(asserts("assert add(1, 2) == 3"), f"{once}def add(a, b): return a + b\n") == (1.0, "ok")
    assert outcome(asserts("assert add(1, 2) == 3"), "import os\nos.kill(os.getpid(), 9)\n") == (0.0, "wrong")


def test_a_text_in_place_of_a_column_is_for_all_rows():
    columns = {"inputs": [[[1, 2]]] * 2, "outputs": [[3]] * 2, "fn_name": "add"}
    verdicts = code_tests(["", ""], [ADD, ADD], **columns, sandbox="unsafe", allow_unsafe=True, num_workers=1)
    assert [verdict.score for verdict in verdicts] == [1.0, 1.0]


def test_a_column_of_another_name_is_no_argument():
    with pytest.raises(TypeError, match="unexpected keyword argument 'test_lists'; valid: test, entry_point"):
        code_tests([""], [ADD], test_lists=[["assert add(1, 2) == 3"]])
    with pytest.raises(RewardError, match=r"kwargs.test_lists is no argument .* valid: sandbox, .*, test, entry_point"):
        Signature.of(code_tests).check_kwargs({"test_lists": []})


# --- the audit ---

UNSAFE = {"sandbox": "unsafe", "allow_unsafe": True, "num_workers": 1}


def test_the_audit_takes_the_columns_that_a_recipe_gives_as_kwargs():
    row = {"test_list": ["assert m.isclose(add(1, 2), 3)"], "code": "def add(a, b):\n    return a + b\n"}
    assert quarantine([row, row], UNSAFE | {"test_imports": ["import math as m"]}) == {}
    found = quarantine([row], UNSAFE)
    assert found.keys() == {0}
    assert found[0].startswith("gold_failed: ")


def test_the_audit_measures_a_third_of_the_limit_with_a_floor_of_one_second():
    def busy(seconds):
        code = "import time\ndef add(a, b):\n    start = time.process_time()\n"
        return CALL | {"code": f"{code}    while time.process_time() < start + {seconds}: pass\n    return a + b\n"}

    assert quarantine([busy(0.5)], UNSAFE | {"timeout_s": 1}) == {}
    assert quarantine([busy(1.3)], UNSAFE | {"timeout_s": 5}) == {}
    found = quarantine([busy(1.8)], UNSAFE | {"timeout_s": 5})  # within 2 s, to which a third was once rounded
    assert found[0].startswith("gold_slow: took 1.")
    assert found[0].endswith("at most 1.67 s")


def test_the_audit_finds_rows_that_any_exception_passes():
    row = {"test_list": ["try:\n    add(1, 2)\n    assert False\nexcept ValueError:\n    pass"]}
    assert quarantine([row], UNSAFE) == {0: "stub_passed: raise ValueError"}
