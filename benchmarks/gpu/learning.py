"""Tokens per second, share of peak and memory of a learner step."""

from typing import Any

import torch

from benchmarks.gpu.findings import Findings, Setting
from benchmarks.likelihood.learner_step import measure_learner_step
from benchmarks.likelihood.workload import MINI_STACK, TINY, Workload

LAYERS = 3  # one dense and two routed ones: in float32, with Adam's state, 45 GB
COLUMNS = ("", "s/step", "tokens/s", "TFLOP/s", "of peak", "share of peak", "peak memory, GiB", "first step, s")


def run(setting: Setting, findings: Findings) -> None:
    """In bfloat16, which a GPU is made for, and in float32, in which it runs on a CPU."""
    rows: list[list[str]] = []
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        with findings.case(f"learner step, {name}"):
            found = measure_learner_step(*_workload(setting, dtype), repeats=1 if setting.tiny else 3)
            findings.figure(name, found)
            rows.append(row_of(name, found))
            findings.table(_TITLE, _note(found), COLUMNS, rows)
            findings.at_least(f"tokens per second, {name}", found["tokens_per_second"], 1.0)
        if setting.on_gpu:
            torch.cuda.empty_cache()


_TITLE = "A learner step"


def _workload(setting: Setting, dtype: torch.dtype) -> tuple[Workload, int]:
    if setting.tiny:
        return Workload(TINY, rows=2, prompt_length=64, num_blocks=8, device=setting.device, dtype=dtype), 1 << 20
    shape = MINI_STACK.model_copy(update={"num_hidden_layers": LAYERS})
    return Workload(shape, rows=32, prompt_length=128, num_blocks=16, device=setting.device, dtype=dtype), 20_000


def _note(found: dict[str, Any]) -> str:
    return (
        f"{found['layers']} layers of width {found['hidden_size']}, {found['rows']} rows, {found['views']} ELBO views,"
        f" {found['composite_tokens']:,} composite positions, optimizer step included. Operations are those of the"
        " mathematics; the peak is that of one large product, measured. The first step compiles."
    )


def row_of(name: str, found: dict[str, Any]) -> list[str]:
    """A line of the table for what `measure_learner_step` found."""
    memory = found["peak_memory_gib"]
    cells = [f"{found['seconds']:.3f}", f"{found['tokens_per_second']:.0f}", f"{found['tflops']:.1f}"]
    cells += [f"{found['measured_peak_tflops']:.0f}", f"{found['share_of_peak']:.1%}"]
    return [name, *cells, "" if memory is None else f"{memory:.1f}", f"{found['first_seconds']:.1f}"]
