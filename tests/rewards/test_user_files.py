"""Reward files see what lies beside them, as a script in their place would, and nothing of one reaches another."""

import contextlib
import pickle
import sys
import threading

import pytest

from redraft.rewards import RewardError, RewardMixture, RewardTerm, Sample, resolve
from redraft.rewards.adapters.verl import verl_score
from redraft.rewards.scoring.runner import InlineRunner, RaisedError


def write(folder, **files):
    """Write Python files into a folder; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def call(fn, completions=("7",), **columns):
    """Scores of a reward file in this process, with nothing left behind on the import path."""
    before = list(sys.path)
    runner = InlineRunner(fn)
    arguments = runner.start().select({"completions": list(completions), **columns}, {})
    found = [verdict.score for verdict in runner.call(arguments, len(completions))]
    assert sys.path == before
    return found


SAME = "def same(a, b):\n    return a == b\n"
TAKES_HELPER = """
from helper_mod import same
def f(completions, ground_truth, **columns):
    return [float(same(*pair)) for pair in zip(completions, ground_truth)]
"""


def test_a_reward_file_imports_what_lies_beside_it_also_in_a_worker(tmp_path):
    write(tmp_path, helper_mod=SAME, sib=TAKES_HELPER)
    assert call(f"{tmp_path}/sib.py:f", ["7", "8"], ground_truth=["7", "7"]) == [1.0, 0.0]
    assert "helper_mod" not in sys.modules
    with contextlib.closing(RewardMixture([RewardTerm(fn=f"{tmp_path}/sib.py:f")])) as mixture:
        assert mixture.score([Sample("q", "7", None, {"ground_truth": "7"})])[0].total == 1.0


LATE = """
def f(completions):
    import helper_mod
    from parts import more
    return [helper_mod.VALUE + more.VALUE] * len(completions)
"""


def test_helpers_of_one_name_do_not_mix_even_when_they_are_imported_late(tmp_path):
    for number in (1, 2):
        folder = write(tmp_path / f"r{number}", helper_mod=f"VALUE = {number}", late=LATE)
        write(folder / "parts", more=f"VALUE = {10 * number}")
    first, second = (InlineRunner(f"{tmp_path}/r{number}/late.py:f") for number in (1, 2))
    for _ in range(2):
        assert first.call({"completions": ["a"]}, 1)[0].score == 11.0
        assert second.call({"completions": ["a"]}, 1)[0].score == 22.0


def test_helpers_do_not_mix_when_two_threads_call_at_once(tmp_path):
    wait = (
        "import time\ndef f(completions):\n    time.sleep(0.02)\n    import helper_mod\n    return [helper_mod.VALUE]\n"
    )
    for number in (1, 2):
        write(tmp_path / f"r{number}", helper_mod=f"VALUE = {number}", late=wait)
    found = {}

    def work(number):
        runner = InlineRunner(f"{tmp_path}/r{number}/late.py:f")
        found[number] = [runner.call({"completions": ["a"]}, 1)[0].score for _ in range(5)]

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {1: [1.0] * 5, 2: [2.0] * 5}


def test_a_helper_goes_before_a_module_of_that_name_that_is_imported_already(tmp_path, monkeypatch):
    other = write(tmp_path / "other", helper_mod="VALUE = 5")
    monkeypatch.syspath_prepend(str(other))
    import helper_mod  # pyright: ignore[reportMissingImports]

    write(
        tmp_path / "own",
        helper_mod="VALUE = 1",
        rw="import helper_mod\ndef f(completions):\n    return [helper_mod.VALUE]\n",
    )
    assert call(f"{tmp_path}/own/rw.py:f") == [1.0]
    assert sys.modules.pop("helper_mod") is helper_mod
    assert helper_mod.VALUE == 5


def test_files_of_a_package_import_relatively_and_from_above(tmp_path):
    write(tmp_path / "pkg", __init__="SCALE = 2.0\n", deep="")
    write(tmp_path / "pkg" / "sub", __init__="", helper="VALUE = 3.0\n")
    write(
        tmp_path / "pkg" / "sub",
        rw="from .helper import VALUE\nfrom .. import SCALE\nfrom pkg.sub import helper\nimport helper as beside\n"
        "def f(completions):\n    return [SCALE * VALUE + helper.VALUE + beside.VALUE]\n",
    )
    assert call(f"{tmp_path}/pkg/sub/rw.py:f") == [12.0]
    assert "pkg" not in sys.modules


def test_a_file_outside_any_package_may_import_relatively_too_and_have_a_name_that_is_none(tmp_path):
    write(tmp_path, **{"helper_mod": SAME})
    (tmp_path / "my-reward.v2.py").write_text(TAKES_HELPER.replace("from helper_mod", "from .helper_mod"))
    assert call(f"{tmp_path}/my-reward.v2.py:f", ground_truth=["7"]) == [1.0]


def test_dataclasses_and_pickles_of_a_reward_file_work(tmp_path):
    text = """
from __future__ import annotations
import pickle
from dataclasses import dataclass
from helper_mod import Held
@dataclass
class Score:
    value: float
def f(completions):
    return [pickle.loads(pickle.dumps(Score(2.0))).value + pickle.loads(pickle.dumps(Held())).value]
"""
    write(tmp_path, rw=text, helper_mod="class Held:\n    value = 1.0\n")
    assert call(f"{tmp_path}/rw.py:f") == [3.0]
    score = resolve(f"{tmp_path}/rw.py:Score")
    assert pickle.loads(pickle.dumps(score(4.0))).value == 4.0


def test_a_file_that_changed_is_read_again_with_what_lies_beside_it(tmp_path):
    text = "from helper_mod import VALUE\ndef f(completions):\n    return [VALUE]\n"
    write(tmp_path, rw=text, helper_mod="VALUE = 1\n")
    assert call(f"{tmp_path}/rw.py:f") == [1.0]
    assert resolve(f"{tmp_path}/rw.py:f") is resolve(f"{tmp_path}/rw.py:f")
    write(tmp_path, rw=text + "# changed\n", helper_mod="VALUE = 25\n")
    assert call(f"{tmp_path}/rw.py:f") == [25.0]


def test_a_folder_named_as_one_of_ours_or_of_python_takes_nothing_away_and_is_found(tmp_path):
    text = "import json\nfrom redraft.rewards import Verdict\nfrom rewards.helper import ONE\n"
    text += "def f(completions):\n    return [Verdict(float(json.loads(ONE)))]\n"
    write(tmp_path / "rewards", __init__="", mine=text, helper="ONE = '1'\n")
    write(tmp_path, json="raise RuntimeError")
    assert call(f"{tmp_path}/rewards/mine.py:f") == [1.0]


def test_the_current_folder_is_a_projects_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    text = (
        "from proj_rewards.helper_mod import same\ndef f(completions):\n    return [same(c, '7') for c in completions]"
    )
    write(tmp_path / "proj_rewards", helper_mod=SAME, rw=text)
    assert call("proj_rewards/rw.py:f", ["7", "8"]) == [1.0, 0.0]
    with contextlib.closing(RewardMixture([RewardTerm(fn="proj_rewards.rw:f")])) as mixture:
        assert mixture.score([Sample("q", "7")])[0].total == 1.0
    assert resolve("proj_rewards.rw:f")(["8"]) == [False]
    with pytest.raises(RewardError, match=r"no module named 'proj_rewards\.rx' for a reward; .* in the current folder"):
        resolve("proj_rewards.rx:f")


def test_the_adapters_call_files_with_what_lies_beside_them(tmp_path):
    text = "async def f(solution_str, ground_truth):\n    import helper_mod\n    return solution_str == ground_truth\n"
    write(tmp_path, helper_mod=SAME, rw=text)
    terms = [
        RewardTerm(fn="verl_score", kwargs={"function": f"{tmp_path}/rw.py:f"}, isolation="inline"),
        RewardTerm(
            fn="trl_reward", kwargs={"function": f"{write(tmp_path, sib=TAKES_HELPER)}/sib.py:f"}, isolation="inline"
        ),
    ]
    with contextlib.closing(RewardMixture(terms)) as mixture:
        assert mixture.score([Sample("q", "7", None, {"ground_truth": "7"})])[0].total == 2.0
    assert callable(verl_score)


def test_what_a_users_code_raises_is_told_with_file_and_line(tmp_path):
    write(tmp_path, helper_mod="import json\ndef broken(text):\n    return json.loads(text)\n")
    write(
        tmp_path, rw="import helper_mod\ndef f(completions):\n    return [helper_mod.broken(t) for t in completions]\n"
    )
    with pytest.raises(RaisedError, match=rf"^JSONDecodeError: .* \({tmp_path}/helper_mod\.py:3, in broken\)$"):
        call(f"{tmp_path}/rw.py:f", ["x"])
    with contextlib.closing(RewardMixture([RewardTerm(fn=f"{tmp_path}/rw.py:f")])) as mixture:
        where = rf"^reward 'f' raised on row 1 \(prompt 'p'\): json.* \({tmp_path}/helper_mod\.py:3, in broken\)$"
        with pytest.raises(RewardError, match=where):
            mixture.score([Sample("p", "1"), Sample("p", "x")])
    write(tmp_path, bad="import helper_mod\n\n1 / 0\n")
    with pytest.raises(RewardError, match=rf"bad\.py' does not import: Zero.* \({tmp_path}/bad\.py:3, in <module>\)"):
        resolve(f"{tmp_path}/bad.py:f")
    write(tmp_path, leaves="raise SystemExit(3)\n")
    with pytest.raises(RewardError, match="does not import: SystemExit: 3"):
        resolve(f"{tmp_path}/leaves.py:f")
