"""Experts that no token visited: their gradient is exactly 0, whatever lay in the memory before.

`grouped_mm`'s backward is reported to leave such gradients unwritten on some GPUs (pytorch/pytorch#172439); a fresh
allocation is often zero by chance, so memory is filled with NaN first.
"""

from copy import deepcopy

import torch
from torch import Tensor

from benchmarks.gpu.findings import Findings, Setting
from benchmarks.likelihood.workload import TINY
from redraft.rl.models.llada2 import LLADA2_MINI, LLaDA2Config
from redraft.rl.models.llada2.moe import Experts

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
TOKENS = 512
ROUNDS = 3


def run(setting: Setting, findings: Findings) -> None:
    """Several patterns of visits at mini's widths, against a loop over experts in float64."""
    config = TINY if setting.tiny else LLADA2_MINI
    last, k = config.num_experts - 1, config.num_experts_per_tok
    patterns = {
        "the first k": list(range(k)),
        "the last k": list(range(last - k + 1, last + 1)),
        "every other one": list(range(0, config.num_experts, 2)),
        "all but the last": list(range(last)),
    }
    for dtype in (torch.float32, torch.bfloat16):
        short = str(dtype).removeprefix("torch.")
        with findings.case(f"experts in {short}"):
            source = torch.Generator(setting.device).manual_seed(0)
            experts = _experts(config, dtype, source)
            for name, visited in patterns.items():
                inputs = _inputs(config, visited, dtype, source)
                _check(experts, inputs, f"{short}, visits to {name}", findings)
                if len(visited) == last:  # once: the loop in float64 takes its time
                    error = _error(experts, *inputs)
                    findings.at_most(f"{short}, visits to {name}: error of the other gradients", error, LIMITS[dtype])


def _experts(config: LLaDA2Config, dtype: torch.dtype, source: torch.Generator) -> Experts:
    """One layer's experts with random weights, made where they run."""
    with torch.device(source.device):
        experts = Experts(config).to(dtype)
    for parameter in experts.parameters():
        parameter.data.normal_(0.0, config.hidden_size**-0.5, generator=source)
    return experts


def _inputs(
    config: LLaDA2Config, visited: list[int], dtype: torch.dtype, source: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, and k different experts out of some for each of them, with weights."""
    device = source.device
    hidden = torch.randn(TOKENS, config.hidden_size, generator=source, device=device).to(dtype)
    ranks = torch.rand(TOKENS, len(visited), generator=source, device=device).argsort(dim=-1)
    index = torch.tensor(visited, device=device)[ranks[:, : config.num_experts_per_tok]]
    return hidden, index, torch.rand(index.shape, generator=source, device=device)


def _check(experts: Experts, inputs: tuple[Tensor, Tensor, Tensor], what: str, findings: Findings) -> None:
    hidden, index, weight = inputs
    untouched = torch.ones(len(experts.down_proj), dtype=torch.bool, device=index.device)
    untouched[experts.config.expert_place(index).flatten()] = False
    worst = 0.0
    for _ in range(ROUNDS):
        experts.zero_grad(set_to_none=True)
        _dirty(experts)
        experts(hidden, index, weight).float().square().sum().backward()
        for parameter in experts.parameters():
            assert parameter.grad is not None
            left = parameter.grad[untouched]
            worst = max(worst, float("inf") if left.isnan().any() else float(left.abs().max()))
    findings.equal(f"{what}: largest gradient of {int(untouched.sum())} experts without tokens", worst, 0.0)


def _dirty(experts: Experts) -> None:
    """Leaves NaN in the memory that gradients of these sizes are likely to get."""
    junk = [torch.full_like(p, torch.nan) for p in experts.parameters() for _ in range(2)]
    del junk


def _error(experts: Experts, hidden: Tensor, index: Tensor, weight: Tensor) -> float:
    """Norm of the gradients' error over their norm, against an expert by expert computation in float64."""
    copy = deepcopy(experts).double()
    copy.zero_grad(set_to_none=True)
    copy(hidden.double(), index, weight.double()).square().sum().backward()
    ours = torch.cat([p.grad.double().flatten() for p in experts.parameters() if p.grad is not None])
    theirs = torch.cat([p.grad.flatten() for p in (copy.gate_up_proj, copy.down_proj) if p.grad is not None])
    return float((ours - theirs).norm() / theirs.norm())
