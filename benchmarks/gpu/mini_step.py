"""A learner step at mini's widths as a run on one GPU makes it, and its peak of memory against `redraft plan`."""

import gc

import torch

from benchmarks.gpu.findings import Findings, Setting
from benchmarks.gpu.one_rank import one_rank
from benchmarks.likelihood.learner_step import step_flops
from benchmarks.likelihood.workload import TINY, Workload
from redraft.rl.config.parallel import LoRAConfig
from redraft.rl.config.schema import RunConfig
from redraft.rl.learner.learner import Learner
from redraft.rl.learner.optim import freeze_router
from redraft.rl.models.llada2 import LLADA2_MINI, LLaDA2Model
from redraft.rl.models.registry import add_lora, init_lora
from redraft.rl.models.shape import shape_of
from redraft.rl.parallel.shard import Meshes, shard
from redraft.rl.parallel.together import Together
from redraft.rl.plan.card import Line
from redraft.rl.plan.machine import FRAGMENTATION, GIB, Machine
from redraft.rl.plan.memory import learner_lines
from redraft.rl.plan.setup import Assumptions, settle_setup

TOKENS = 8192  # of a micro-batch
FULL_LAYERS = 2  # one dense, one routed: 1.5 billion parameters, 16 bytes each with AdamW
PROMPT, BLOCKS, ROWS = 128, 16, 14  # two micro-batches of 7 completions
AGREEMENT = 0.10


def run(setting: Setting, findings: Findings) -> None:
    """Adapters of the whole network, which is what one GPU can train; then all parameters of a few layers."""
    with one_rank(setting.device) as meshes:
        with findings.case("adapters of the whole network"):
            _measure("adapters", _work(setting, None, torch.bfloat16), LoRAConfig(targets="all"), meshes, findings)
        _free(setting)
        with findings.case("all parameters of a cut stack"):
            layers = 3 if setting.tiny else FULL_LAYERS
            _measure("all parameters", _work(setting, layers, torch.float32), None, meshes, findings)


def _work(setting: Setting, layers: int | None, dtype: torch.dtype) -> Workload:
    shape = TINY if setting.tiny else LLADA2_MINI
    if layers is not None:
        shape = shape.model_copy(update={"num_hidden_layers": layers})
    rows, blocks = (2, 4) if setting.tiny else (ROWS, BLOCKS)
    return Workload(shape, rows=rows, prompt_length=PROMPT, num_blocks=blocks, device=setting.device, dtype=dtype)


def _free(setting: Setting) -> None:
    """Hooks of a sharded network refer to it, so only the collector ends it."""
    gc.collect()
    if setting.on_gpu:
        torch.cuda.empty_cache()


def _measure(name: str, work: Workload, lora: LoRAConfig | None, meshes: Meshes, findings: Findings) -> None:
    """Two steps: the first compiles and makes what stays, the second is counted."""
    model, config = work.model(), work.config(1, TOKENS)
    rows = work.rollouts(model)
    trainer = config.trainer.model_copy(update={"activation_checkpointing": "layer"})
    policy = config.model.model_copy(update={"lora": lora})
    config = config.model_copy(update={"trainer": trainer, "model": policy})
    learner = _learner(model, config, work, meshes)
    on_gpu = work.device == "cuda"
    seconds, peak = [], None
    for _ in range(2):
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds.append(learner.update(rows)["time/update_s"])
    if on_gpu:
        peak = torch.cuda.max_memory_allocated()
    lines = _planned(config, work)
    planned = sum(line.size for line in lines)
    tokens = work.rows * (2 * work.num_blocks * 32 + PROMPT)
    flops = step_flops(work, 1, 0) / seconds[1] / 1e12
    findings.figure(name, {"seconds": seconds, "tokens": tokens, "tflops": flops, "peak": peak, "planned": planned})
    rows_of = [[line.name, f"{line.size / GIB:.2f}", line.why] for line in lines]
    measured = "not on a CPU" if peak is None else f"{peak / GIB:.2f}"
    rows_of += [["planned", f"{planned / GIB:.2f}", "all lines"], ["measured", measured, "largest sum of tensors"]]
    speed = f"{seconds[1]:.2f} s, {flops:.0f} Tflop/s; the first step, which compiles, {seconds[0]:.1f} s"
    note = f"{tokens} tokens in micro-batches of {TOKENS}: {speed}."
    findings.table(f"Memory of a step, {name}", note, ("line", "GiB", "what"), rows_of)
    findings.at_least(f"{name}: tokens per second", tokens / seconds[1], 1.0)
    if peak is not None:
        findings.at_most(f"{name}: measured peak off from plan", abs(peak / planned - 1), AGREEMENT)
        reserved = torch.cuda.max_memory_reserved()
        findings.at_most(f"{name}: what the allocator holds over the peak", reserved / peak, FRAGMENTATION)


def _learner(model: LLaDA2Model, config: RunConfig, work: Workload, meshes: Meshes) -> Learner:
    """Prepare the network as a learner's rank does."""
    if config.model.lora:
        add_lora(model, "random weights", config)
    else:
        freeze_router(model)
    model.checkpoint_layers()
    shard(model, meshes, torch.bfloat16)
    if config.model.lora:
        init_lora(model, config)
    return Learner(model, config, work.tokens, lockstep=Together(device=work.device))


def _planned(config: RunConfig, work: Workload) -> list[Line]:
    """The learner's lines of the plan, for one GPU whose rows are of the workload's length."""
    assumed = Assumptions(prompt_tokens=work.prompt_length, completion_tokens=work.num_blocks * 32)
    return learner_lines(settle_setup(config, shape_of(work.shape), Machine(1, 80 * GIB), assumed))
