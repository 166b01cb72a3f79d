"""`benchmarks/gpu/check`: on a CPU, in an environment as bare as the machines it is made for."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from benchmarks.gpu import command, packing, places
from benchmarks.gpu.findings import Findings, Setting
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.report import as_markdown, name_of, summary
from benchmarks.gpu.runner import Run
from conftest import ROOT

CPU = Setting("cpu", "tiny")
# What a bare machine lacks, or may lack; the CLI's own packages among them.
LACKING = (
    "ray", "trl", "accelerate", "datasets", "math_verify", "vllm", "typer", "rich", "langdetect", "nltk", "beartype",
    "matplotlib", "openai", "pyseccomp",
)  # fmt: skip
BARE = f"""
import importlib.machinery, sys

class Bare(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {LACKING!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Bare
"""


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """The environment of processes, of which every Python lacks what a bare machine does."""
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "sitecustomize.py").write_text(BARE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "bare"), str(ROOT)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def python(*words):
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=280)


def check(*words):
    return python(ROOT / "benchmarks" / "gpu" / "check", *words)


def record_of(folder):
    return json.loads((folder / "gpu_check_cpu.json").read_text())


# --- the parts ----------------------------------------------------------------------------------------------------


HELD = {
    "golden": ("golden decode", 6),
    "mini_step": ("tokens per second", 2),
    "decode_64": ("cases measured", 1),
    "colocated": ("the same after a sleep", 1),
    "sharded": ("difference from the plain gradient", 2),
    "sync": ("did not arrive as they were rounded", 1),
    "learner": ("tokens per second", 2),
    "likelihood": ("gradient's error", 6),
    "compiled": ("rows from graphs as padded passes write them", 1),
    "experts": ("experts without tokens", 8),
    "train": ("resumed against undisturbed", 1),
    "decode_more": ("cases measured", 1),
}
"""Words of each part's most telling checks, and how many there are of them."""
assert list(HELD) == [part.name for part in PARTS]


# The decodes of the first two are those of tests/benchmarks/test_decode_bench.py; the others open a process group, or
# make several runs. CI runs all parts, see below.
LONG = ("golden", "decode_more", "mini_step", "colocated", "sharded", "sync")


@pytest.mark.parametrize("name", [name for name in HELD if name not in LONG])
def test_a_part_finds_what_it_should(tmp_path, golden, monkeypatch, name):
    """In this process, which has imported torch already."""
    monkeypatch.setenv("REDRAFT_GOLDEN", str(golden.parent))
    path = tmp_path / "found.json"
    assert command.main(["--device", "cpu", "--size", "tiny", "--child", name, str(path)]) == 0
    checks = json.loads(path.read_text())["checks"]
    assert [one for one in checks if not one["holds"]] == []
    words, count = HELD[name]
    assert sum(words in one["name"] for one in checks) == count


def one_process_each():
    """Every part; all but one are heavy, because each of their processes imports torch anew."""
    return [pytest.param(name, marks=[pytest.mark.heavy] * (name != "experts")) for name in HELD]


@pytest.mark.parametrize("name", one_process_each())
def test_a_part_holds_on_a_cpu_without_what_a_bare_machine_lacks(tmp_path, bare, golden, name):
    done = check("--device", "cpu", "--size", "tiny", "--out", tmp_path, "--parts", name)
    ((found, part),) = record_of(tmp_path)["parts"].items()
    assert (found, part["state"]) == (name, "passed"), part.get("output")
    assert done.returncode == 0
    words, count = HELD[name]
    assert sum(words in one["name"] for one in part["checks"]) == count
    report = (tmp_path / "gpu_check_cpu.md").read_text()
    assert f"## {name}: {part['title']}" in report
    assert "What does not hold" not in report
    assert done.stdout.splitlines()[-1].split()[:2] == [name, "passed"]
    if name == "decode_64":
        assert part["figures"]["record"]["sessions"][0]["profile"]["costs"]
        assert "A pass by kernel" in report


def test_what_a_run_in_one_process_needs_is_imported_without_them(bare):
    """And they are really not there."""
    ended = python(
        "-c",
        "import redraft.rl.run, redraft.rl.stages.generate, redraft.rl.stages.evaluate, redraft.rl.learner.worker,"
        " redraft.rewards.worker, benchmarks.decode.measure\n"
        "print('imported')\n"
        "import ray",
    )
    assert ended.stdout == "imported\n", ended.stderr
    told = ended.stderr.splitlines()
    assert [line for line in told if "Error" in line] == ["ModuleNotFoundError: No module named 'ray'"]


# --- what goes wrong ----------------------------------------------------------------------------------------------


def part(name, limit_s=60.0, least_s=0.0, module="nowhere"):
    return Part(name, "For a test", limit_s, least_s, module)


def test_a_part_that_fails_or_takes_too_long_costs_no_other(tmp_path, capsys):
    parts = [part("unheard_of"), part("golden", limit_s=0.2), part("train", least_s=1000.0, limit_s=2000.0)]
    assert Run(CPU, None, tmp_path, seconds=100.0).all(parts) == 1
    record = record_of(tmp_path)
    states = {name: (one["state"], one["reason"]) for name, one in record["parts"].items()}
    assert states["unheard_of"] == ("error", "exit code 1")
    assert states["golden"] == ("timed out", "ended after 0 s")
    assert states["train"][0] == "skipped"
    assert "it takes 1000 or more" in states["train"][1]
    assert any("ValueError" in line for line in record["parts"]["unheard_of"]["output"])
    assert {"commit", "device", "versions", "command"} <= record.keys()
    assert "skipped" in capsys.readouterr().out.splitlines()[-1]
    assert "| train | skipped |" in (tmp_path / "gpu_check_cpu.md").read_text()


def test_what_a_part_found_before_its_time_was_up_counts(tmp_path):
    findings = Findings(tmp_path / "found.json")
    findings.at_most("a number", 1.0, 2.0)
    findings.table("A table", "", ("a",), [["1"]])
    findings.table("A table", "", ("a",), [["2"]])
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["holds"] for one in found["checks"]] == [True]
    assert [one["rows"] for one in found["tables"]] == [[["2"]]]


def test_a_case_that_fails_is_a_check_that_does_not_hold(tmp_path):
    findings = Findings(tmp_path / "found.json")
    with findings.case("first"):
        raise RuntimeError("CUDA error: an illegal memory access\nCompile with ...")
    with findings.case("second"):
        findings.at_most("error", float("nan"), 1.0)
        findings.equal("tokens", 3, 4)
    assert [(one["name"], one["measured"], one["holds"]) for one in findings.checks] == [
        ("first", "RuntimeError: CUDA error: an illegal memory access", False),
        ("error", "nan", False),
        ("tokens", "3", False),
    ]


def test_checks_that_do_not_hold_come_first_in_the_report():
    broken = {"name": "a check", "measured": "2", "wanted": "at most 1", "holds": False}
    one = {"title": "Some part", "state": "failed", "seconds": 1.0, "reason": "1 of 1", "checks": [broken]}
    record = {
        "device": {"name": "NVIDIA H100 80GB HBM3", "driver": "580"}, "versions": {"torch": "2.11", "triton": None},
        "command": "check", "commit": "abc", "size": "full", "seconds_allowed": 480.0, "seconds": 2.0,
        "parts": {"some": one},
    }  # fmt: skip
    report = as_markdown(record)
    assert report.index("## What does not hold") < report.index("## some: Some part")
    assert "| some: a check | 2 | at most 1 |" in report
    assert summary(record).endswith("some: a check: 2, wanted at most 1")


@pytest.mark.parametrize(
    ("device", "name"),
    [("NVIDIA H100 80GB HBM3", "gpu_check_h100"), ("NVIDIA H200", "gpu_check_h200"), ("CPU", "gpu_check_cpu")],
)
def test_records_are_named_by_the_kind_of_gpu(device, name):
    assert name_of({"device": {"name": device}}) == name


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--parts", "golden,exparts"], "unknown part 'exparts'; valid: golden, mini_step"),
        (["--device", "cpu"], "the full size needs a GPU; add --size tiny on a CPU"),
        (["--device", "cuda"], "nvidia-smi finds no GPU; --device cpu --size tiny runs without"),
    ],
)
def test_words_that_make_no_run_are_refused_at_once(words, problem, capsys, monkeypatch):
    monkeypatch.setattr(command, "gpu_of_machine", lambda: None)
    try:
        code = command.main(words)
    except SystemExit as error:  # argparse's own
        code = error.code
    assert code == 2
    assert problem in capsys.readouterr().err


# --- the carried folder -------------------------------------------------------------------------------------------


@pytest.fixture
def carried(tmp_path, monkeypatch):
    folder = tmp_path / "carried"
    for module in (places, packing):
        monkeypatch.setattr(module, "CARRIED", folder)
    monkeypatch.setattr(packing, "ROOT", tmp_path)
    return folder


def install_for_a_test(python, target):
    target.mkdir()
    (target / f"for_{python}.py").write_text("")


def test_a_packed_folder_says_what_it_is_for_and_of_what(carried, monkeypatch, capsys, golden):
    monkeypatch.delenv("REDRAFT_GOLDEN", raising=False)
    shutil.copytree(golden, carried.parent / "shared" / "golden" / "llada2_tiny")
    monkeypatch.setattr(places, "ROOT", carried.parent)
    monkeypatch.setattr(packing, "install", install_for_a_test)
    for python in ("3.13", "3.12"):  # the golden data of the second folder are not those of the first
        assert packing.main(["--python", python]) == 0
    note = json.loads((carried / "packed.json").read_text())
    assert (note["python"], note["sources"], note["commit"]) == ("3.12", places.sources(), places.commit())
    assert (carried / "golden" / "llada2_tiny" / "cases.json").is_file()
    assert {path.name for path in carried.iterdir()} == {"for_3.12.py", "golden", "packed.json"}
    assert "for Python 3.12" in capsys.readouterr().out
    assert places.golden_folder() == carried / "golden"


def no_wheels(python, target):
    raise subprocess.CalledProcessError(1, "pip")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("golden_folder", lambda carried: None, "no golden data: shared/golden/llada2_tiny"),
        ("install", no_wheels, "pip could not fetch pydantic>=2, jaxtyping, psutil for Python 3.12"),
        ("LARGEST_MIB", 0.5, "but at most 0.5 MiB can be carried"),
    ],
)
def test_a_folder_that_cannot_be_made_leaves_the_earlier_one(
    carried, monkeypatch, capsys, golden, name, value, problem
):
    monkeypatch.setenv("REDRAFT_GOLDEN", str(golden.parent))
    monkeypatch.setattr(packing, "install", install_for_a_test)
    monkeypatch.setattr(packing, name, value)
    carried.mkdir()
    (carried / "earlier").write_text("")
    assert packing.main([]) == 1
    assert problem in capsys.readouterr().err
    assert [path.name for path in carried.iterdir()] == ["earlier"]


@pytest.mark.parametrize(
    ("note", "problem"),
    [
        (None, "run `benchmarks/gpu/pack` where there is a network"),
        ({"python": "3.1"}, f"carried is for Python 3.1: run `benchmarks/gpu/pack --python {places._PYTHON}`"),
        ({"python": places._PYTHON, "packages": {"pydantic": "2"}}, "carried holds only pydantic"),
    ],
)
def test_packages_that_are_missing_are_named_with_the_remedy(carried, monkeypatch, note, problem):
    monkeypatch.setattr(places, "NEEDED", ("json", "unheard_of"))
    if note is not None:
        carried.mkdir()
        (carried / "packed.json").write_text(json.dumps(note))
    assert places.carried_fits() is (note is not None and note["python"] == places._PYTHON)
    missing = places.what_is_missing()
    assert "lacks unheard_of" in missing
    assert problem in missing


def test_a_copy_without_history_names_the_commit_that_was_packed(carried, monkeypatch):
    monkeypatch.setattr(places, "_git", lambda *words: "")
    assert places.commit() == "unknown (no git checkout, nothing packed)"
    carried.mkdir()
    note = carried / "packed.json"
    note.write_text(json.dumps({"commit": "abc", "sources": places.sources()}))
    assert places.commit() == "abc"
    note.write_text(json.dumps({"commit": "abc", "sources": "others"}))
    assert places.commit() == "abc, sources changed since it was packed"
