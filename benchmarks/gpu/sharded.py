"""`fully_shard` on one rank: the sharded learner's update against that of a plain network, exact and in bf16."""

import time
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu.findings import Findings, Setting
from benchmarks.gpu.learning import COLUMNS, LAYERS, row_of
from benchmarks.gpu.likelihoods import exact_model, move, workloads
from benchmarks.gpu.one_rank import one_rank
from benchmarks.likelihood.learner_step import measure_learner_step
from benchmarks.likelihood.workload import MINI_STACK, TINY, Workload
from redraft.rl.models.llada2 import LLaDA2Model
from redraft.rl.parallel.lockstep import Alone, Lockstep
from redraft.rl.parallel.pieces import whole
from redraft.rl.parallel.shard import Meshes, shard
from redraft.rl.parallel.together import Together
from redraft.rl.protocols import Experience

VIEWS = 2
LIMITS = {"float32": 1e-4, "bfloat16": 3e-2}
"""Norm of the gradient's difference over its norm. float32: sums into shared places have no fixed order on a GPU.
bfloat16: a plain bf16 network adds the views' gradients up in bf16, a sharded one in fp32."""


class Updated(NamedTuple):
    """What an update left behind, on the CPU."""

    gradients: dict[str, Tensor]
    loss: float
    seconds: float


def run(setting: Setting, findings: Findings) -> None:
    """Equality at a small size, then speed and memory at mini's widths."""
    work = workloads(setting)["long"]
    model = exact_model(work)
    rows = work.rollouts(model)
    with one_rank(setting.device) as meshes:
        for name, compute in (("float32", None), ("bfloat16", torch.bfloat16)):
            with findings.case(f"sharded on one rank, {name}"):
                ours = _sharded(model, work, rows, meshes, compute)
                plain = move(model, compute or torch.float32, meshes.dense.device_type)
                _compare(ours, _update(plain, work, rows, Alone()), name, findings)
        with findings.case("learner step, sharded"):
            _measure(setting, meshes, findings)


def _sharded(
    model: LLaDA2Model, work: Workload, rows: list[Experience], meshes: Meshes, compute: torch.dtype | None
) -> Updated:
    moved = move(model, torch.float32, meshes.dense.device_type)
    shard(moved, meshes, compute)
    return _update(moved, work, rows, Together(device=meshes.dense.device_type))


def _update(model: LLaDA2Model, work: Workload, rows: list[Experience], lockstep: Lockstep) -> Updated:
    """One `Learner.update`; the gradients are those of its optimizer step."""
    learner = work.learner(model, VIEWS, lockstep=lockstep)
    began = time.perf_counter()
    metrics = learner.update(rows)
    seconds = time.perf_counter() - began
    gradients = {name: whole(p.grad).cpu() for name, p in model.named_parameters() if p.grad is not None}
    return Updated(gradients, metrics["objective/loss"], seconds)


def _compare(ours: Updated, plain: Updated, name: str, findings: Findings) -> None:
    odd = sorted(ours.gradients.keys() ^ plain.gradients.keys())
    findings.equal(f"{name}: tensors with a gradient in one of both only", odd, [])
    types = {str(gradient.dtype).removeprefix("torch.") for gradient in ours.gradients.values()}
    findings.equal(f"{name}: types of the sharded gradients", types, {"float32"})
    one, two = (
        torch.cat([found.gradients[key].double().flatten() for key in plain.gradients]) for found in (ours, plain)
    )
    findings.at_most(
        f"{name}: difference from the plain gradient", float((one - two).norm() / two.norm()), LIMITS[name]
    )
    findings.at_most(f"{name}: difference from the plain loss", abs(ours.loss - plain.loss), LIMITS[name])
    findings.figure(f"{name}_seconds", {"sharded": ours.seconds, "plain": plain.seconds})


def _measure(setting: Setting, meshes: Meshes, findings: Findings) -> None:
    """The step that a run on one GPU makes: float32 weights, bf16 products."""

    def prepare(model: LLaDA2Model) -> Lockstep:
        shard(model, meshes, torch.bfloat16)
        return Together(device=setting.device)

    shape = TINY if setting.tiny else MINI_STACK.model_copy(update={"num_hidden_layers": LAYERS})
    prompt, blocks = (64, 8) if setting.tiny else (128, 16)
    work = Workload(
        shape, rows=2 if setting.tiny else 32, prompt_length=prompt, num_blocks=blocks, device=setting.device
    )
    found = measure_learner_step(work, 20_000, 1 if setting.tiny else 3, prepare, products=torch.bfloat16)
    findings.figure("learner_step", found)
    note = (
        f"{LAYERS} layers of mini's shape, float32 weights and Adam, products in bfloat16; compare with part `learner`."
    )
    findings.table("A learner step, sharded on one rank", note, COLUMNS, [row_of("bf16 products", found)])
    findings.at_least("tokens per second, bf16 products", found["tokens_per_second"], 1.0)
