"""The collectives of a weight sync on one rank: gathers of sharded weights, broadcasts of buckets, a checksum."""

import time
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.gpu.findings import Findings, Setting
from benchmarks.gpu.learning import LAYERS
from benchmarks.gpu.one_rank import one_rank, whole
from benchmarks.likelihood.workload import MINI_STACK, TINY, Workload
from redraft.rl.models.llada2 import LLaDA2Model
from redraft.rl.parallel.shard import shard

MIB = 2**20
COLUMNS = ("carried by", "buckets", "GiB", "s", "GiB/s")


def run(setting: Setting, findings: Findings) -> None:
    """Float32 weights of a sharded learner, rounded to bf16 on the way to an engine's network."""
    shape = TINY if setting.tiny else MINI_STACK.model_copy(update={"num_hidden_layers": LAYERS})
    work = Workload(shape, rows=1, prompt_length=32, num_blocks=1, device=setting.device)
    with one_rank(setting.device) as meshes, findings.case("weight sync on one rank"):
        learner = work.model()
        wanted = {name: tensor.detach().bfloat16() for name, tensor in learner.named_parameters()}
        shard(learner, meshes, torch.bfloat16)
        engine = LLaDA2Model(shape, dtype=torch.bfloat16, device=setting.device)
        with torch.no_grad():
            for parameter in engine.parameters():
                parameter.fill_(torch.nan)
        rows = []
        for run_name in ("first", "second"):
            count, size, seconds = _send(learner, engine, _bucket_bytes(setting), setting)
            rate = f"{size / 2**30 / seconds:.1f}"
            rows.append(
                [
                    f"NCCL, {run_name}" if setting.on_gpu else f"gloo, {run_name}",
                    str(count),
                    f"{size / 2**30:.2f}",
                    f"{seconds:.3f}",
                    rate,
                ]
            )
        findings.table(
            "Weight sync on one rank",
            "Gather, round, broadcast, copy; the first makes the communicator.",
            COLUMNS,
            rows,
        )
        wrong = [name for name, tensor in engine.named_parameters() if not torch.equal(tensor, wanted[name])]
        findings.equal("tensors that did not arrive as they were rounded", wrong, [])
        checksum = torch.arange(1 << 16, device=setting.device, dtype=torch.int64).mul(-7919).sum()
        added = checksum.clone()
        dist.all_reduce(added)
        findings.equal("a checksum of 64 bits, added up over the ranks", int(added), int(checksum))


def _bucket_bytes(setting: Setting) -> int:
    return MIB // 4 if setting.tiny else 512 * MIB


def _send(learner: LLaDA2Model, engine: LLaDA2Model, size: int, setting: Setting) -> tuple[int, int, float]:
    """One sync; the number of buckets, bytes and seconds."""
    places, count, total = dict(engine.named_parameters()), 0, 0
    began = time.perf_counter()
    with torch.no_grad():
        for bucket in _buckets(learner, size):
            # All gathers of a bucket come before its broadcast: in between, other ranks would wait for each other.
            flat = torch.cat([tensor.flatten() for tensor in bucket.values()])
            dist.broadcast(flat, src=0)
            for (name, tensor), part in zip(
                bucket.items(), flat.split([t.numel() for t in bucket.values()]), strict=True
            ):
                places[name].copy_(part.view_as(tensor))
            count, total = count + 1, total + flat.nbytes
    if setting.on_gpu:
        torch.cuda.synchronize()
    return count, total, time.perf_counter() - began


def _buckets(learner: LLaDA2Model, size: int) -> Iterator[dict[str, Tensor]]:
    """Rounded tensors, as many as fit into a bucket; one that is larger has a bucket to itself."""
    bucket: dict[str, Tensor] = {}
    for name, parameter in sorted(learner.named_parameters()):
        rounded = whole(parameter.detach()).bfloat16()
        if bucket and sum(tensor.nbytes for tensor in bucket.values()) + rounded.nbytes > size:
            yield bucket
            bucket = {}
        bucket[name] = rounded
    yield bucket
