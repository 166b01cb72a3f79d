"""The tiny policy of the official code: its logits, and its six decodes token for token."""

import time
from typing import Any

import torch

from benchmarks.decode.measure import decode_golden
from benchmarks.decode.workload import golden_cases
from benchmarks.gpu.findings import Findings, Setting
from redraft.rollout.engine.torch_engine import TorchEngine

LOGITS_LIMITS = {"float64": 1e-4, "float32": 1e-3}  # the golden file holds float32 values
BF16_ARGMAX = 0.85
"""Of the positions, at least: 0.94 on a CPU, where sums are rounded otherwise than on a GPU."""


def run(setting: Setting, findings: Findings) -> None:
    """Logits and decodes, in float64 first."""
    for dtype in ("float64", "float32", "bfloat16"):
        with findings.case(f"golden logits, {dtype}"):
            _logits(setting.device, dtype, findings)
    for dtype in ("float64", "bfloat16") if setting.tiny else ("float64", "float32", "bfloat16"):
        with findings.case(f"golden decodes, {dtype}"):
            _decodes(setting.device, dtype, findings)


def _load(kind: str, dtype: str, device: str) -> Any:
    found = golden_cases(kind, dtype, device)
    if found is None:
        raise FileNotFoundError("no golden data (shared/golden/llada2_tiny): pack them, or set REDRAFT_GOLDEN")
    return found


def _logits(device: str, dtype: str, findings: Findings) -> None:
    model, _, cases = _load("logits", dtype, device)
    errors, normalisers, same, count = [], [], 0, 0
    for case in cases:
        with torch.no_grad():
            logits = model(torch.tensor([case["input_ids"]], device=device))[0].double().cpu()
        errors.append((logits[:, :8] - torch.tensor(case["logits_first8"], dtype=torch.float64)).abs().max())
        normalisers.append((logits.logsumexp(-1) - torch.tensor(case["logsumexp"], dtype=torch.float64)).abs().max())
        same += int((logits.argmax(-1) == torch.tensor(case["argmax"])).sum())
        count += len(logits)
    worst, normaliser = float(torch.stack(errors).max()), float(torch.stack(normalisers).max())
    if dtype in LOGITS_LIMITS:
        findings.at_most(f"largest error of a logit, {dtype}", worst, LOGITS_LIMITS[dtype])
        findings.at_most(f"largest error of a log-normaliser, {dtype}", normaliser, LOGITS_LIMITS[dtype])
        findings.equal(f"positions with the golden argmax, {dtype}", same, count)
    else:
        findings.figure(f"logit_error_{dtype}", worst)
        findings.figure(f"log_normaliser_error_{dtype}", normaliser)
        findings.at_least(f"share of positions with the golden argmax, {dtype}", same / count, BF16_ARGMAX)


def _decodes(device: str, dtype: str, findings: Findings) -> None:
    model, tokens, cases = _load("decode", dtype, device)
    engine, rows = TorchEngine(model), []
    for index, case in enumerate(cases):
        began = time.perf_counter()
        one = decode_golden(engine, tokens, index, case)
        seconds, wanted = time.perf_counter() - began, case["tokens"]
        same = sum(mine == theirs for mine, theirs in zip(one.token_ids, wanted, strict=False))
        found = (list(one.token_ids) == wanted, one.num_forwards, one.trace.num_edits)
        counts = [f"{one.num_forwards}/{case['num_forwards']}", f"{one.trace.num_edits}/{case['num_edits']}"]
        rows.append([str(index), f"{same}/{len(wanted)}", *counts, f"{seconds:.2f}"])
        if dtype == "float64":
            canvas = case["prompt"] + list(one.canvas_ids) == case["canvas"]
            findings.equal(
                f"golden decode {index}, {dtype}: same tokens, same canvas, forwards, edits",
                (found[0], canvas, *found[1:]),
                (True, True, case["num_forwards"], case["num_edits"]),
            )
    findings.table(
        f"Golden decodes, {dtype}",
        "Ours / golden. Outside float64 rounding parts them: one other token changes all that follows.",
        ("case", "equal tokens", "forwards", "edits", "s"),
        rows,
    )
