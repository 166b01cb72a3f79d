"""FlexAttention and CUDA graphs: really used, and equal to what they stand for."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

from benchmarks.common.policies import decode
from benchmarks.decode.profile import costs_of
from benchmarks.decode.workload import build_workload, golden_cases, random_prompts
from benchmarks.gpu.findings import Findings, Setting
from benchmarks.gpu.likelihoods import exact_model, first_view, is_long, move, score, workloads
from redraft.rl.likelihood import score as likelihood
from redraft.rl.likelihood.composite import dense_mask
from redraft.rl.likelihood.score import score_view
from redraft.rollout.config import DecodeConfig
from redraft.rollout.engine.graphs import CudaCapture
from redraft.rollout.engine.torch_engine import TorchEngine, TorchSession

FLEX_KERNELS = ("flex_attention", "triton_tem")
"""Parts of the names that Inductor gives to kernels of its templates; nothing else is compiled in this process."""
GREEDY = DecodeConfig(threshold=0.3, editing_threshold=0.6, max_post_steps=4, max_completion_length=64)


def run(setting: Setting, findings: Findings) -> None:
    """Attention first: it is compiled once for all that follows."""
    with findings.case("FlexAttention against a dense mask"):
        _flex(setting, findings)
    with findings.case("decoding from graphs against plain forwards"):
        _graphs(setting, findings)


# --- FlexAttention ------------------------------------------------------------------------------------------------


def _flex(setting: Setting, findings: Findings) -> None:
    """The same composite mask as tiles or a compiled kernel, and densely through SDPA."""
    work = workloads(setting)["long"]
    model = exact_model(work)
    experiences = work.rollouts(model)
    batch, view = first_view(experiences, work.tokens.mask, setting.device)
    findings.equal("the composite input is long enough for FlexAttention", is_long(batch), True)
    moved = move(model, torch.float32, setting.device)
    ours = score(moved, experiences, setting.device, None)
    with mock.patch.object(likelihood, "composite_mask", dense_mask):
        dense = score(moved, experiences, setting.device, ours.routes)
    findings.at_most(
        "largest difference from a dense mask, nats", float((ours.log_prob - dense.log_prob).abs().max()), 1e-4
    )
    difference = float((ours.gradient - dense.gradient).norm() / dense.gradient.norm())
    findings.at_most("difference of the gradients", difference, 1e-4)

    def step() -> None:
        score_view(moved, batch, view, work.tokens.mask, 1.0).log_prob.sum().backward()

    names = [cost.name for cost in costs_of(step, torch.device(setting.device))]
    compiled = sorted({name for name in names if any(word in name for word in FLEX_KERNELS)})
    findings.figure("flex_kernels", compiled)
    if setting.on_gpu:
        findings.at_least("compiled FlexAttention kernels, forward and backward", len(compiled), 2)
    else:
        findings.equal("compiled FlexAttention kernels, of which a CPU has none", compiled, [])


# --- CUDA graphs --------------------------------------------------------------------------------------------------


class _Sessions(TorchEngine):
    """Passes padded to the sizes of graphs, made repeatable in a given way."""

    def __init__(self, model: Any, capture: Callable) -> None:
        super().__init__(model, cuda_graphs=False)
        self._own_capture, self.last = capture, None

    def open(self, num_pages: int, block_length: int, mask: int) -> TorchSession:
        session = super().open(num_pages, block_length, mask)
        session.use_graphs(self._own_capture)
        self.last = session
        return session


def _again(function: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """In place of a capture: the same forwards on the same fixed memory, launched one by one."""
    return function


def _graphs(setting: Setting, findings: Findings) -> None:
    """Three ways: from graphs; the same padded passes without a graph; passes as they are."""
    dtype = "bfloat16" if setting.on_gpu else "float32"
    model, tokens, prompts = _policy(setting, dtype)
    graphed = _Sessions(model, CudaCapture(torch.device("cuda")) if setting.on_gpu else _again)
    rows = {}
    ways = {"graphs": graphed, "padded": _Sessions(model, _again), "plain": TorchEngine(model, cuda_graphs=False)}
    for name, engine in ways.items():
        with findings.case(f"decode, {name}"):
            rows[name] = [one.token_ids for one in decode(engine, prompts, GREEDY, tokens, 4)]
    assert graphed.last is not None
    use = graphed.last.graphs
    assert use is not None
    findings.equal("why a capture failed", use.broken, None)
    findings.at_least("graphs captured", use.captured, 3)
    findings.at_least("passes replayed", use.replayed, 2 * use.captured)
    # The same kernels on the same shapes: equal to the last bit, so equal in every token.
    findings.equal("rows from graphs as padded passes write them", _same(rows, "padded"), len(prompts))
    findings.figure("rows_as_unpadded_passes_write_them", f"{_same(rows, 'plain')} of {len(prompts)}")
    if not setting.on_gpu:  # float32: padding changes no token
        findings.equal("rows from graphs as plain passes write them", _same(rows, "plain"), len(prompts))


def _policy(setting: Setting, dtype: str) -> tuple[Any, Any, Any]:
    """The golden policy, else one with random weights; prompts of many lengths, more than slots."""
    found = golden_cases("decode", dtype, setting.device)
    if found is not None:
        model, tokens, _ = found
    else:
        workload = build_workload("tiny", dtype, setting.device, 1, 32)
        model, tokens = workload.model, workload.tokens
    return model, tokens, random_prompts(7, tokens.mask, 0, (1, 120))


def _same(rows: dict[str, list[tuple[int, ...]]], other: str) -> int:
    return sum(one == two for one, two in zip(rows["graphs"], rows[other], strict=True))
