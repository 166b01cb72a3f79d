"""What rewards cost, against the plain way to do the same, and whether they hold out.

    OMP_NUM_THREADS=1 python -m benchmarks.rewards.costs
    OMP_NUM_THREADS=1 python -m benchmarks.rewards.costs --soak 20000  # that many scores with workers killed at random

Prints a table and writes rewards.json: (a) math comparisons in warm workers against a fresh interpreter for each;
(b) HumanEval problems judged in the sandbox against the same tests run without one in a fresh process; (c) a thousand
math answers of which two never end; (d) the soak. Reads the reference data (REDRAFT_DATA, default ../shared/data).
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common.record import write_record
from benchmarks.rewards.soak import soak
from redraft.rewards.library.code.reward import code_tests
from redraft.rewards.library.math import _default_workers as default_workers
from redraft.rewards.library.math import _pool as math_pool
from redraft.rewards.library.math import math_verdicts
from redraft.rewards.scoring.trial import gold_forms
from redraft.rl.monitor.display import text_table

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("REDRAFT_DATA", ROOT.parent / "shared/data"))
TARGETS = {
    "math_ms": ("<=", 3.0),
    "math_fresh_over_warm": (">=", 100.0),
    "code_sandboxed_over_plain": ("<=", 5.0),
    "code_sandboxed_over_bare": ("<=", 5.0),
    "hanging_over_allowed": ("<=", 1.0),
    "soak_memory_growth": ("<=", 1.1),
    "soak_worker_memory_growth": ("<=", 1.1),
    "soak_wrong_results": ("<=", 0.0),
}
HANG = r"\boxed{9^{9^{9^{9}}}}"
FRESH_CALLS = 10


def math_costs(repeats: int) -> dict[str, float]:
    """Milliseconds of one answer that text alone cannot decide, warm, and with an interpreter of its own.

    `math_ms` is a training batch with the default number of workers: eight different right answers to each of 64
    questions; `math_one_worker_ms` the same in one. `math500_ms` is the solutions of MATH-500, most decided by text.
    """
    grouped = [(rf"\frac{{{n}x}}{{{n + 1}}}", f"{k * n}x/({k * (n + 1)})") for n in range(2, 66) for k in range(1, 9)]
    rows = [json.loads(line) for line in (DATA / "math500/math500_test.jsonl").read_text().splitlines()]
    program = (
        "import sys; from redraft.rewards.library.answers.algebra import compare; assert compare(*sys.argv[1:]) == 'ok'"
    )
    fresh = statistics.median(_seconds([sys.executable, "-c", program, *pair]) for pair in grouped[:FRESH_CALLS])
    batch = [(gold, rf"\boxed{{{answer}}}") for gold, answer in grouped]
    warm, one_worker = _warm_math(batch, repeats, None), _warm_math(batch, repeats, 1)
    return {
        "math_ms": 1e3 * warm,
        "math_one_worker_ms": 1e3 * one_worker,
        "math500_ms": 1e3 * _warm_math([(row["answer"], row["solution"]) for row in rows], repeats, None),
        "math_fresh_ms": 1e3 * fresh,
        "math_fresh_over_warm": fresh / one_worker,
    }


def _warm_math(pairs: list[tuple[str, str]], repeats: int, num_workers: int | None) -> float:
    """Median seconds of one (gold, completion) pair in workers that have started and have parsed none of them."""
    golds, completions = [list(column) for column in zip(*pairs, strict=True)]
    seconds = []
    for _ in range(repeats):
        math_pool(num_workers or default_workers()).close()
        warming = [rf"\boxed{{{n}x/({n})}}" for n in range(2, 34)]
        _all_ok(math_verdicts([""] * 32, warming, ["x"] * 32, num_workers=num_workers))
        seconds.append(
            _timed(lambda: _all_ok(math_verdicts([""] * len(pairs), completions, golds, num_workers=num_workers)))
        )
    return statistics.median(seconds) / len(pairs)


def code_costs(problems: int) -> dict[str, float]:
    """Median milliseconds of a HumanEval problem: in the sandbox, and its test in a process of its own without one.

    Plain is ``python -c``; bare is an interpreter without site packages (``-I -S``), as the sandbox's own is.
    """
    with gzip.open(DATA / "humaneval/HumanEval.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file][:problems]
    sandboxed, plain, bare = [], [], []
    for row in [rows[0], *rows]:  # the first call starts the checker and its sandbox
        form = gold_forms(row)[-1]
        started = time.perf_counter()
        (verdict,) = code_tests(
            [row["prompt"]], [form], test=[row["test"]], entry_point=[row["entry_point"]], num_workers=1
        )
        sandboxed.append(time.perf_counter() - started)
        assert verdict.score == 1.0, (row["task_id"], verdict)
        program = f"{row['prompt']}{row['canonical_solution']}\n{row['test']}\ncheck({row['entry_point']})\n"
        plain.append(_seconds([sys.executable, "-c", program]))
        bare.append(_seconds([sys.executable, "-I", "-S", "-c", program]))
    p50, p50_plain, p50_bare = (statistics.median(times[1:]) for times in (sandboxed, plain, bare))
    return {
        "code_sandboxed_ms": 1e3 * p50,
        "code_plain_ms": 1e3 * p50_plain,
        "code_bare_ms": 1e3 * p50_bare,
        "code_sandboxed_over_plain": p50 / p50_plain,
        "code_sandboxed_over_bare": p50 / p50_bare,
        "code_sandboxed_p95_ms": 1e3 * sorted(sandboxed[1:])[int(0.95 * len(rows))],
    }


def hanging_costs(deadline_s: float) -> dict[str, float]:
    """Seconds of 1,000 answers, clean and with two that never end; allowed: 1.5 deadlines more."""
    golds = [rf"\frac{{{n}x}}{{{n + 1}}}" for n in range(1, 1001)]
    clean = [rf"\boxed{{{n}x/({n + 1})}}" for n in range(1, 1001)]
    golds[300], golds[700] = "x+1", "x+1"
    clean[300], clean[700] = r"\boxed{1+x}", r"\boxed{1+x}"
    hanging = [HANG if row in (300, 700) else text for row, text in enumerate(clean)]

    def score(texts: list[str]) -> list[Any]:
        return math_verdicts([""] * len(texts), texts, golds, timeout_s=deadline_s)

    score(clean)
    started = time.perf_counter()
    _all_ok(score(clean))
    clean_s = time.perf_counter() - started
    started = time.perf_counter()
    verdicts = score(hanging)
    hanging_s = time.perf_counter() - started
    assert [row for row, verdict in enumerate(verdicts) if verdict.score != 1.0] == [300, 700]
    assert {verdicts[row].status for row in (300, 700)} == {"timeout"}
    allowed = 1.5 * deadline_s + clean_s
    return {
        "thousand_clean_s": clean_s,
        "thousand_with_two_hanging_s": hanging_s,
        "hanging_over_allowed": hanging_s / allowed,
    }


def _all_ok(verdicts: list[Any]) -> None:
    wrong = [row for row, verdict in enumerate(verdicts) if verdict.score != 1.0]
    assert not wrong, wrong


def _timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _seconds(command: list[str]) -> float:
    return _timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def _row(name: str, value: float) -> tuple[str, str, str, str]:
    if name not in TARGETS:
        return name, f"{value:.4g}", "", ""
    relation, target = TARGETS[name]
    met = value <= target if relation == "<=" else value >= target
    return name, f"{value:.4g}", f"{relation} {target:g}", "met" if met else "MISSED"


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of the math batches, after one to warm up")
    parser.add_argument("--problems", type=int, default=164, help="HumanEval problems")
    parser.add_argument("--deadline", type=float, default=5.0, help="seconds of one comparison in (c)")
    parser.add_argument("--soak", type=int, default=0, help="scores of the soak; 0: none")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/rewards.json"))
    arguments = parser.parse_args()
    results = math_costs(arguments.repeats) | code_costs(arguments.problems) | hanging_costs(arguments.deadline)
    if arguments.soak:
        results |= soak(arguments.soak, DATA)
    body = [_row(name, value) for name, value in results.items()]
    text_table("", ("", "measured", "target", ""), body)
    write_record(arguments.out, {name: round(value, 4) for name, value in results.items()})


if __name__ == "__main__":
    main()
