"""The parts of `check`, most telling first."""

import importlib
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.gpu.findings import Findings, Setting


class Part(NamedTuple):
    """One process.

    Attributes:
        name: What `--parts` calls it.
        title: What it says, for readers.
        limit_s: Seconds after which it is ended.
        least_s: With fewer seconds left it is not even started.
        module: Of this folder.
        function: In it, taking a setting and findings.
    """

    name: str
    title: str
    limit_s: float
    least_s: float
    module: str
    function: str = "run"

    def load(self) -> Callable[[Setting, Findings], None]:
        """Its function; only here is torch imported."""
        return getattr(importlib.import_module(f"benchmarks.gpu.{self.module}"), self.function)


PARTS = (
    Part("golden", "The official model's logits and decodes", 100, 20, "golden"),
    Part("mini_step", "A learner step at mini's widths, its memory against the plan", 150, 45, "mini_step"),
    Part("decode_64", "Decoding at mini shape, 64 rows, against memory bandwidth", 120, 40, "decoding", "run_64"),
    Part("colocated", "An engine and a learner that take turns on one device", 75, 25, "colocated"),
    Part("sharded", "fully_shard on one rank: equality, products in bf16, speed", 110, 30, "sharded"),
    Part("sync", "A weight sync from a sharded learner, by every carrier", 75, 25, "sync"),
    Part("learner", "A learner step of a mini-shaped stack", 110, 30, "learning"),
    Part("likelihood", "Composite likelihood and gradient against float64", 75, 20, "likelihoods"),
    Part("compiled", "FlexAttention and CUDA graphs are really used", 75, 25, "compiled"),
    Part("experts", "Gradients of experts without tokens are exactly 0", 40, 15, "experts"),
    Part("train", "A training run in one process, and its resume", 75, 20, "training"),
    Part("decode_more", "Decoding with 8 and 256 rows", 120, 40, "decoding", "run_more"),
)
"""Those that no machine has measured yet come before those that repeat a comparison at another size."""
