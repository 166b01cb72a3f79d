"""math_accuracy under strings that hang, overflow or confuse a computer algebra system, from every kind of caller."""

import asyncio
import logging
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray

from redraft.rewards.library.math import _pool, math_verdicts
from redraft.rewards.processes.errors import WorkerTimeoutError
from redraft.rewards.processes.pool import WorkerPool

TIMEOUT_S = 1.0

HANGING = [  # 2 workers and a deadline each: few, and of different kinds
    "9^{9^{9^{9}}}",
    r"x^{9^{9^{9}}}",
    "99999999999!",
    r"\binom{10^{10}}{10^{9}}",
    "(x+1)^{100000}",
]
NESTED = [
    "(" * 1_000 + "1" + ")" * 1_000,
    "{" * 1_000 + "1" + "}" * 1_000,
    r"\{" * 1_000 + "1" + r"\}" * 1_000,
    r"\frac{1}{" * 1_000 + "1" + "}" * 1_000,
    r"\sqrt{" * 1_000 + "2" + "}" * 1_000,
    r"\sin(" * 1_000 + "x" + ")" * 1_000,
    r"\left(" * 1_000 + "1" + r"\right)" * 1_000,
    "x" + "^{x" * 1_000 + "}" * 1_000,
    "(" * 300 + "x" + ")" * 300,
    r"\sqrt{" * 30 + "x" + "}" * 30,
]
LONG = [
    "7" * 1_990,
    "7" * 100_000,
    "a" * 100_000,
    "x=" * 50_000,
    r"\frac" * 20_000,
    r"\boxed{" * 14_000,
    r"\text{" * 16_000,
    "\n" * 100_000,
    "x" + "\u0301" * 100_000,
    "1(" * 999,
    "^" * 1_900,
    "_" * 1_900,
    "$" * 1_000,
    "1," * 900,
    "x=" * 900,
]
STRANGE = [
    "",
    "   ",
    "\x00",
    "1\x002",
    "\ud800",
    "1\udfff+x",
    "\ufeff42",
    "\u202e24",
    "\U0001f642",
    "\u0664\u0662",
    "".join(map(chr, range(1, 32))),
    "__import__('os').system('exit 1')",
    "x+1; import sys; sys.exit()",
    "nan",
    "i^{i}",
    r"|||x|||",
    r"\infty-\infty",
    r"\frac{1}{0}",
    "0^{0}",
    "1e999999999",
    r"\begin{matrix}",
    r"\def\x{\x\x}\x",
    r"\input{/etc/passwd}",
    r"\text{",
    "%" * 50,
    "}" * 50,
    "\\",
    "9**9**9**9",
    r"\prod_{n=1}^{10^{9}} n",
    r"\sum_{n=1}^{10^{12}} n^{n}",
]
HOSTILE = HANGING + NESTED + LONG + STRANGE
FEWER_HANGING = HOSTILE[3:]  # each of the three left out costs a deadline and a new worker
GOLD = "x+1"  # no number: text alone can refuse next to nothing


def attack(strings=HOSTILE):
    """Score hostile strings among good ones; returns verdicts as tuples, and the workers before and after."""
    warm = [rf"\boxed{{{n}+x}}" for n in range(40)]
    math_verdicts(warm, warm, [GOLD] * len(warm), num_workers=2)
    before = {worker.pid for worker in _pool(2).workers}
    completions, golds = [], []
    for index, hostile in enumerate(strings):
        completions += [rf"\boxed{{{hostile}}}", rf"\boxed{{{index}+x}}", rf"\boxed{{{index}-x}}"]
        golds += [GOLD, f"x+{index}", f"x+{index}"]
    verdicts = math_verdicts([""] * len(golds), completions, golds, timeout_s=TIMEOUT_S, num_workers=2)
    after = {worker.pid for worker in _pool(2).workers} - {None}
    return [(verdict.score, str(verdict.status), verdict.detail) for verdict in verdicts], before, after


def check(attacked, strings=HOSTILE):
    verdicts, before, after = attacked
    hanging = sum(string in HANGING for string in strings)
    hostile, right, wrong = verdicts[0::3], verdicts[1::3], verdicts[2::3]
    assert [verdict[:2] for verdict in right] == [(1.0, "ok")] * len(strings)
    assert [verdict[:2] for verdict in wrong] == [(0.0, "wrong")] * len(strings)
    assert [score for score, _, _ in hostile] == [0.0] * len(strings)  # each answered, none masked, none accepted
    assert [status for _, status, _ in hostile[:hanging]] == ["timeout"] * hanging
    assert {status for _, status, _ in hostile[hanging:]} <= {"wrong", "no_answer", "timeout"}
    assert sum(status == "timeout" for _, status, _ in hostile) < hanging + 4
    assert before
    assert not before & after  # each worker has met a deadline: both are new
    assert "".join(detail for _, _, detail in verdicts).encode()  # no lone surrogate is left in what gets written out


def test_there_are_60_hostile_strings():
    assert len(HOSTILE) == len(set(HOSTILE)) == 60


def test_hostile_predictions_score_zero_and_cost_their_neighbours_nothing_from_the_main_thread():
    check(attack(FEWER_HANGING), FEWER_HANGING)


@pytest.mark.heavy
def test_hostile_predictions_are_handled_from_a_plain_thread():
    with ThreadPoolExecutor(1) as thread:
        check(thread.submit(attack).result())


@pytest.mark.heavy
def test_hostile_predictions_are_handled_inside_an_async_ray_actor(monkeypatch):
    class Scorer:
        async def attack(self):
            asyncio.get_running_loop()  # an async actor: no main thread, a running loop
            return attack()

    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    root = str(Path(__file__).parents[2])
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )
    try:
        check(ray.get(ray.remote(Scorer).remote().attack.remote(), timeout=200))
    finally:
        ray.shutdown()
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_hostile_gold_answers_mask_their_rows_and_no_other():
    golds = [*HANGING[:2], *NESTED, *LONG, *STRANGE]
    completions = [r"\boxed{x+5}"] * len(golds) + [r"\boxed{1+x}"]
    *verdicts, right = math_verdicts(
        [""] * len(completions), completions, [*golds, "x+1"], timeout_s=TIMEOUT_S, num_workers=2
    )
    assert right.score == 1.0
    assert [verdict.status for verdict in verdicts[:2]] == ["gold_error"] * 2
    assert {str(verdict.status) for verdict in verdicts} == {"gold_error", "wrong"}
    assert all(verdict.score == (None if verdict.status == "gold_error" else 0.0) for verdict in verdicts)


def test_what_text_decides_about_hostile_strings_takes_no_time(monkeypatch):
    monkeypatch.setattr("redraft.rewards.library.math._pool", None)  # no worker is asked
    hostile = [text for text in LONG if len(text) > 10_000] * 10
    started = time.process_time()
    verdicts = math_verdicts(hostile, [rf"\boxed{{{text}}}" for text in hostile], ["42"] * len(hostile))
    assert [verdict.score for verdict in verdicts] == [0.0] * len(hostile)
    assert time.process_time() - started < 10  # 80 completions of 100 kB: under a second


def test_two_hanging_answers_among_a_thousand_hang_at_the_same_time_wherever_they_stand(monkeypatch):
    both, asked = threading.Barrier(2, timeout=30), []

    class PatientPool(WorkerPool):
        def call(self, target, args, timeout_s):
            hangs = HANGING[0] in args
            asked.append(hangs)
            if hangs:
                both.wait()  # until the other one is compared too; alone it would break
                raise WorkerTimeoutError
            return "ok"

    monkeypatch.setattr("redraft.rewards.library.math._pool", lambda _: PatientPool(1))
    for hanging in ({0, 1}, {0, 999}, {998, 999}):
        answers = [HANGING[0] if row in hanging else f"{row}+x" for row in range(1_000)]
        completions, golds = [rf"\boxed{{{answer}}}" for answer in answers], [f"x+{row}" for row in range(1_000)]
        verdicts = math_verdicts([""] * len(golds), completions, golds, num_workers=2)
        assert [v.status == "timeout" for v in verdicts] == [row in hanging for row in range(1_000)]
        assert asked[:2] == [True, True]  # before the others, so that these go on when the deadline has passed
        asked.clear()
