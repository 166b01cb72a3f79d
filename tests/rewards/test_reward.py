import collections
import re
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import pytest
from pydantic import ValidationError

from conftest import ROOT
from redraft.rewards import RewardError, RewardTerm, resolve, reward
from redraft.rewards.result import InvalidResultError, Status, Verdict, as_verdicts
from redraft.rewards.reward import LIBRARY, importable_address, registered

OURS = ROOT / "rewards"


def test_a_reward_is_found_by_its_registered_name():
    assert resolve("boxed_format").__module__ == "redraft.rewards.library.format"


def test_a_reward_is_found_by_module_and_function():
    assert resolve("redraft.rewards.library.format:boxed_format") is resolve("boxed_format")


def test_a_reward_is_found_by_file_and_function(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("class Box:\n    @staticmethod\n    def f(prompts, completions):\n        return [1.0]\n")
    assert resolve(f"{path}:Box.f")([], []) == [1.0]


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        ("math_acuracy", r"no reward is named 'math_acuracy'; did you mean 'math_accuracy'\? valid: boxed_format, .*"),
        ("no_such_package.rewards:f", r"no module named 'no_such_package.rewards'"),
        (
            "redraft.rewards.library.format:boxed_fromat",
            r"no 'boxed_fromat' in 'redraft.rewards.library.format'; did you mean 'boxed_format'\?",
        ),
        ("/no/such/file.py:f", r"no file '/no/such/file.py'"),
        ("redraft.rewards.text:MAX_COMPLETION_CHARS", r"is a int, not a function"),
    ],
)
def test_a_reward_that_is_not_there_is_one_clear_error(fn, message):
    with pytest.raises(RewardError, match=message):
        resolve(fn)


def test_a_file_that_does_not_import_says_why(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    for _ in range(2):  # not remembered as imported
        with pytest.raises(RewardError, match=r"broken.py' does not import: ZeroDivisionError") as caught:
            resolve(f"{path}:f")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_module_whose_own_import_is_missing_is_not_reported_as_missing_itself(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RewardError, match="'needs_more' does not import: No module named 'not_installed_anywhere'"):
        resolve("needs_more:f")


def test_a_taken_name_is_refused_and_the_same_function_may_register_again():
    function = resolve("boxed_format")
    assert reward("boxed_format", isolation="inline")(function) is function
    with pytest.raises(RewardError, match=r"taken by redraft\.rewards\.library\.format:boxed_format"):
        reward("boxed_format")(lambda prompts, completions: [])


def test_a_function_that_no_other_process_can_import_is_refused_for_a_worker():
    @reward("local_function")
    def local_function(prompts, completions):
        return []

    with pytest.raises(RewardError, match="isolation: inline"):
        importable_address("local_function")


def test_defaults_depend_on_the_function_and_are_written_out():
    builtin = RewardTerm(fn="math_accuracy")
    assert (builtin.name, builtin.isolation, builtin.timeout_s, builtin.weight) == (
        "math_accuracy",
        "inline",
        None,
        1.0,
    )
    own = RewardTerm(fn="my.module:helpful")
    assert (own.name, own.isolation, own.timeout_s) == ("helpful", "process", 30.0)
    assert RewardTerm(**own.model_dump()) == own
    assert RewardTerm(**builtin.model_dump()) == builtin


def test_a_relative_file_is_made_absolute_so_that_every_process_means_the_same_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RewardTerm(fn="mine.py:f").fn == f"{tmp_path}/mine.py:f"
    assert RewardTerm(fn="verl_score", kwargs={"function": "x.py:f"}).kwargs == {"function": f"{tmp_path}/x.py:f"}


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"fn": "math_acuracy"}, "did you mean 'math_accuracy'"),
        ({"fn": "m:f", "wieght": 2}, "wieght"),
        ({"fn": "m:f", "weight": float("nan")}, "finite"),
        ({"fn": "m:f", "timeout_s": 0}, "greater than 0"),
        ({"fn": "m:f", "isolation": "inline", "timeout_s": 3}, "timeout_s=3 has no effect on 'f'"),
        ({"fn": "m:f", "name": "two words"}, "pattern"),
        ({"name": "nothing"}, "fn"),
    ],
)
def test_a_wrong_term_is_refused(term, message):
    with pytest.raises(ValidationError, match=message):
        RewardTerm(**term)


class RealNumber(float):
    pass


def test_numbers_none_and_verdicts_are_scores():
    result = [1, 0.5, True, RealNumber(2), None, Verdict(0.0, Status.TIMEOUT, "slow")]
    assert as_verdicts(result, 6) == [
        Verdict(1.0, "ok"),
        Verdict(0.5, "ok"),
        Verdict(1.0, "ok"),
        Verdict(2.0, "ok"),
        Verdict(None, "masked"),
        Verdict(0.0, "timeout", "slow"),
    ]


def test_whatever_gives_numbers_one_after_the_other_is_scores():
    import numpy as np
    import torch

    class Half:
        def __float__(self):
            return 0.5

    for result in (
        np.array([0.5, 1.0]),
        np.array([[0.5], [1.0]], dtype=np.float32),
        np.array([Decimal("0.5"), True], dtype=object),
        torch.tensor([0.5, 1.0], dtype=torch.bfloat16),
        torch.tensor([[0.5], [1.0]], requires_grad=True),
        [np.float16(0.5), np.bool_(True)],
        [np.array(0.5), np.array([1])],
        [torch.tensor(0.5), torch.tensor([True])],
        [Decimal("0.5"), Fraction(1)],
        [Half(), np.int64(1)],
        (Half(), 1),
        (score for score in (0.5, 1)),
        map(float, ("0.5", "1")),
        {"a": 0.5, "b": 1.0}.values(),
        collections.deque([0.5, 1]),
        [{"score": np.float32(0.5)}, {"score": torch.tensor([1])}],
    ):
        assert [verdict.score for verdict in as_verdicts(result, 2)] == [0.5, 1.0], result
    assert as_verdicts([Verdict(0.0, metrics={"n": np.float64(2)})], 1)[0].metrics == {"n": 2.0}
    for value in (
        np.array([0.5, 1.0]),
        np.array([]),
        np.array("x"),
        np.float32("nan"),
        torch.zeros(2),
    ):
        with pytest.raises(InvalidResultError):
            as_verdicts([value], 1)
    with pytest.raises(InvalidResultError, match="returned a ndarray"):
        as_verdicts(np.array(0.5), 1)


@pytest.mark.parametrize(
    ("result", "message", "row"),
    [
        ([0.0], "returned 1 scores for 2 completions", None),
        ([0.0] * 3, "returned 3 scores for 2 completions", None),
        (None, "returned a NoneType", None),
        (0.5, "returned a float", None),
        ("ab", "returned a str", None),
        ({0.0: 1, 1.0: 2}, "returned a dict", None),
        ({0.0, 1.0}, "returned a set", None),
        (b"ab", "returned a bytes", None),
        ([0.0, b"1"], r"returned b'1' \(bytes\)", 1),
        ([0.0, 1j], r"returned 1j \(complex\)", 1),
        ([0.0, Decimal("NaN")], "returned nan", 1),
        ([10**400, 0.0], "returned inf", 0),
        ([0.0, "1"], r"returned '1' \(str\)", 1),
        ([0.0, [1.0]], r"returned \[1.0\] \(list\)", 1),
        ([float("nan"), 0.0], "returned nan", 0),
        ([0.0, float("-inf")], "returned -inf", 1),
        ([Verdict(float("nan")), 0.0], "returned nan", 0),
    ],
)
def test_anything_else_is_an_error_with_its_row(result, message, row):
    with pytest.raises(InvalidResultError, match=message) as caught:
        as_verdicts(result, 2)
    assert caught.value.row == row


def test_every_reward_of_ours_stands_in_the_table_with_its_place():
    assert {name: registered(name).address for name in LIBRARY} == LIBRARY
    decorated = [re.findall(r'^@reward\("(\w+)"', path.read_text(), re.MULTILINE) for path in OURS.rglob("*.py")]
    assert sorted(name for names in decorated for name in names) == sorted(LIBRARY)


def test_a_name_of_ours_is_taken_before_its_module_is_loaded():
    code = "from redraft.rewards import reward\n\n@reward('sudoku')\ndef mine(completions):\n    return []"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "reward name 'sudoku' is taken by redraft.rewards.library.puzzles:sudoku; choose another" in done.stderr


def test_importing_rewards_is_light():
    heavy = (
        "torch",
        "ray",
        "sympy",
        "math_verify",
        "transformers",
        "numpy",
        "openai",
        "trl",
        "nltk",
        "langdetect",
        "redraft.rl",
    )
    program = (
        "import sys, redraft.rewards as ours\n[getattr(ours, name) for name in ours.__all__]\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
