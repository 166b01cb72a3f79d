"""The soak of `benchmarks/rewards/costs.py`: many scores, workers killed at random, every result known beforehand."""

import contextlib
import gzip
import json
import os
import random
import signal
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from redraft.rewards import RewardMixture, RewardTerm, Sample, SampleScore
from redraft.rewards.scoring.trial import gold_forms

PORTION = 100
CODE_SHARE = 0.02
EVERY_S = (0.5, 2.0)  # between two kills

OWN_REWARD = """
def length(completions, wanted):
    return [None if text.endswith("?") else float(len(text) == size) for text, size in zip(completions, wanted)]
"""


def soak(scores: int, data: Path) -> dict[str, float]:
    """Score `scores` completions under three rewards while a killer strikes.

    Returns:
        Scores a second, kills, results that were lost, doubled or wrong, and memory in the last tenth relative to the
        second tenth, of this process and of the mean worker (medians).
    """
    folder = Path("/tmp/redraft_soak")
    folder.mkdir(exist_ok=True)
    (folder / "own.py").write_text(OWN_REWARD)
    terms = [
        RewardTerm(fn="math_accuracy", name="math", when={"task": "math"}, kwargs={"num_workers": 2}),
        RewardTerm(fn="code_tests", name="code", when={"task": "code"}, kwargs={"num_workers": 2}),
        RewardTerm(fn=f"{folder}/own.py:length", name="own", weight=0.5),
    ]
    make = _Questions(data, random.Random(0))
    stopping, kills = threading.Event(), []
    killer = threading.Thread(target=_kill_at_random, args=(random.Random(1), stopping, kills), daemon=True)
    done = wrong = 0
    memory: list[tuple[float, float]] = []
    started = time.perf_counter()
    with contextlib.closing(RewardMixture(terms)) as mixture:
        mixture.start()
        killer.start()
        while done < scores:
            portion = [make.one() for _ in range(min(PORTION, scores - done))]
            scored = mixture.score([sample for sample, _ in portion])
            wrong += len(scored) != len(portion)
            wrong += sum(one.total != wanted for one, (_, wanted) in zip(scored, portion, strict=True))
            _report(scored, portion)
            done += len(portion)
            memory.append(_memory_mib())
            if done % (20 * PORTION) == 0:
                told = f"{memory[-1][0]:.0f} MiB here, {memory[-1][1]:.0f} in a worker"
                print(f"soak: {done}/{scores}, {len(kills)} kills, {told}", file=sys.stderr, flush=True)
        stopping.set()
        killer.join()
    return {
        "soak_scores": float(done),
        "soak_scores_per_s": done / (time.perf_counter() - started),
        "soak_kills": float(len(kills)),
        "soak_wrong_results": float(wrong),
        "soak_memory_growth": _growth([own for own, _ in memory]),
        "soak_worker_memory_growth": _growth([worker for _, worker in memory]),
        "soak_memory_mib": memory[-1][0],
    }


def _growth(readings: list[float]) -> float:
    tenth = max(1, len(readings) // 10)
    return statistics.median(readings[-tenth:]) / statistics.median(readings[tenth : 2 * tenth])


class _Questions:
    """Samples with the total that they must get."""

    def __init__(self, data: Path, rng: random.Random) -> None:
        self.rng, self.number = rng, 0
        with gzip.open(data / "humaneval/HumanEval.jsonl.gz", "rt") as file:
            self.problems = [json.loads(line) for line in file][:60]

    def one(self) -> tuple[Sample, float | None]:
        """The next sample; its total is None where `own` masks it and no other reward applies."""
        self.number += 1
        right = self.rng.random() < 0.5
        if self.rng.random() < CODE_SHARE:
            return self._code(right)
        n = self.rng.randint(2, 10_000)
        text = rf"\boxed{{{n if right else n + 1}/{n + 1}}}" + "?" * (self.number % 7 == 0)
        size = len(text) if self.number % 3 else -1
        columns = {"task": "math", "ground_truth": rf"\frac{{{n}}}{{{n + 1}}}", "wanted": size}
        own = 0.0 if text.endswith("?") else 0.5 * (size > 0)
        return Sample(f"q{self.number}", text, None, columns), float(right) + own

    def _code(self, right: bool) -> tuple[Sample, float | None]:
        row = self.rng.choice(self.problems)
        text = gold_forms(row)[-1] if right else f"```python\ndef {row['entry_point']}(*a):\n    return 'no'\n```"
        columns = {"task": "code", "test": row["test"], "entry_point": row["entry_point"], "wanted": len(text)}
        return Sample(row["prompt"], text, None, columns), float(right) + 0.5


def _report(scored: list[SampleScore], portion: list[tuple[Sample, Any]]) -> None:
    for one, (sample, wanted) in zip(scored, portion, strict=True):
        if one.total != wanted:
            print(f"soak: {sample.completion!r}: {one} instead of {wanted}", file=sys.stderr, flush=True)


def _kill_at_random(rng: random.Random, stopping: threading.Event, kills: list[int]) -> None:
    while not stopping.wait(rng.uniform(*EVERY_S)):
        workers = psutil.Process().children()  # checkers, comparers and the user's reward; not what they started
        if workers:
            victim = rng.choice(workers).pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                kills.append(victim)


def _memory_mib() -> tuple[float, float]:
    """Resident memory of this process, and the mean of its workers."""
    workers: list[int] = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            rss = process.memory_info().rss
            workers += [rss] * (rss > 0)  # one that was killed and not missed yet has none
    return psutil.Process().memory_info().rss / (1 << 20), statistics.fmean(workers or [0]) / (1 << 20)
