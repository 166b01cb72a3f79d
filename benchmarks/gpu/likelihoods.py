"""The composite likelihood and its gradient on the device against float64 on the CPU.

Routes are replayed from the reference: else a tie between two experts, broken the other way by rounding, would hide
every other error. Weights are ones that bfloat16 holds exactly, so that only arithmetic differs.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu.findings import Findings, Setting
from benchmarks.likelihood.workload import BLOCK, SMALL, TINY, Workload, elbo
from redraft.rl.likelihood.composite import FLEX_LEAST_ROWS
from redraft.rl.likelihood.score import composite_layout, score_view
from redraft.rl.models.llada2 import LLaDA2Model
from redraft.rl.protocols import Experience
from redraft.rl.views import View, make_views
from redraft.rl.views.canvas import CanvasBatch, collate

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
LIMITS = {"float64": (1e-9, 1e-9), "float32": (1e-3, 1e-3), "bfloat16": (0.5, 0.1)}
"""Largest error of a log-probability in nats, and norm of the gradient's error over its norm."""
COLUMNS = ("layout", "dtype", "largest error, nats", "mean error, nats", "gradient's error", "other routes")


class Scored(NamedTuple):
    """What is compared; all on the CPU in float64."""

    log_prob: Tensor
    gradient: Tensor
    routes: Tensor
    other_routes: float  # share that a router would have chosen otherwise than the reference


def run(setting: Setting, findings: Findings) -> None:
    """A short layout, which SDPA computes under a dense mask, and a long one, which FlexAttention does on a GPU."""
    rows: list[list[str]] = []
    for layout, work in workloads(setting).items():
        model = exact_model(work)
        experiences = work.rollouts(model)
        reference = score(model, experiences, "cpu", None)
        for name, dtype in DTYPES.items():
            if layout == "long" and name == "float64" and setting.on_gpu:
                continue  # FlexAttention's kernels are not for it
            with findings.case(f"likelihood, {layout} layout, {name}"):
                moved = move(model, dtype, setting.device)
                found = score(moved, experiences, setting.device, reference.routes)
                rows.append([layout, name, *_compare(found, reference, f"{layout} layout, {name}", name, findings)])
                findings.table("Composite likelihood against float64 on the CPU", _NOTE, COLUMNS, rows)


_NOTE = (
    f"Routes are replayed. Composite inputs of {FLEX_LEAST_ROWS} rows or more are long. Gradient's error: norm of the"
    " difference over the norm, all weights together. Other routes: what routers would have chosen otherwise."
)


def workloads(setting: Setting) -> dict[str, Workload]:
    """By layout."""
    shape, prompt, blocks = (TINY, 64, 8) if setting.tiny else (SMALL, 128, 16)
    return {
        "short": Workload(shape, rows=2, prompt_length=prompt, num_blocks=4),
        "long": Workload(shape, rows=2, prompt_length=prompt, num_blocks=blocks),
    }


def exact_model(work: Workload) -> LLaDA2Model:
    """A float64 policy on the CPU whose weights bfloat16 holds exactly, wide enough for uneven probabilities."""
    wide = replace(work, dtype=torch.bfloat16, shape=work.shape.model_copy(update={"initializer_range": 0.06}))
    return wide.model().to(torch.float64)


def move(model: LLaDA2Model, dtype: torch.dtype, device: str) -> LLaDA2Model:
    """A copy."""
    copy = LLaDA2Model(model.config, dtype=dtype, device=device)
    copy.load_state_dict(model.state_dict())
    return copy


def first_view(experiences: list[Experience], mask_id: int, device: str) -> tuple[CanvasBatch, View]:
    """The batch on a device, and its first ELBO view: the draws are counted, so they are the same everywhere."""
    batch = collate(experiences, BLOCK, 0, device)
    return batch, make_views(batch, elbo(1), mask_id, score_edits=False)[0]


def score(model: LLaDA2Model, experiences: list[Experience], device: str, routes: Tensor | None) -> Scored:
    """One forward and backward; the loss weighs positions unevenly, so that no error cancels."""
    mask_id = model.config.vocab_size - 1
    batch, view = first_view(experiences, mask_id, device)
    tape = model.route_tape(None if routes is None else routes.to(device))
    scores = score_view(model, batch, view, mask_id, 1.0, tape)
    factor = torch.linspace(-1, 1, len(scores.log_prob), dtype=torch.float64, device=device)
    (scores.log_prob * factor).sum().backward()
    gradients = [p.grad.double().cpu().flatten() for p in model.parameters() if p.grad is not None]
    agreement = tape.agreement()
    model.zero_grad(set_to_none=True)
    return Scored(
        scores.log_prob.detach().double().cpu(),
        torch.cat(gradients),
        tape.routes.cpu(),
        1 - agreement.live / agreement.known if agreement.known else 0.0,
    )


def _compare(found: Scored, reference: Scored, what: str, dtype: str, findings: Findings) -> list[str]:
    error = (found.log_prob - reference.log_prob).abs()
    gradient = float((found.gradient - reference.gradient).norm() / reference.gradient.norm())
    most, norm = LIMITS[dtype]
    findings.at_most(f"{what}: largest error of a log-probability, nats", float(error.max()), most)
    findings.at_most(f"{what}: gradient's error", gradient, norm)
    return [f"{error.max():.2e}", f"{error.mean():.2e}", f"{gradient:.2e}", f"{found.other_routes:.2%}"]


def is_long(batch: CanvasBatch) -> bool:
    """The composite input is FlexAttention's on a GPU."""
    return composite_layout(batch).num_rows >= FLEX_LEAST_ROWS
