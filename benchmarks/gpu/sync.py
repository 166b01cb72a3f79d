"""A weight sync from a sharded learner of one rank: into an engine here, by broadcast, and into another process."""

import io
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.gpu.findings import Findings, Setting
from benchmarks.gpu.learning import LAYERS
from benchmarks.gpu.one_rank import one_rank
from benchmarks.likelihood.workload import MINI_STACK, SMALL, TINY, Workload
from redraft.rl.models.llada2 import LLaDA2Config, LLaDA2Model
from redraft.rl.parallel.shard import Meshes, shard
from redraft.rl.weight_sync.outbox import Outbox
from redraft.rollout.weights.carry import Meeting
from redraft.rollout.weights.manifest import Header
from redraft.rollout.worker import RolloutPolicy

MIB = 2**20
PATIENCE_S = 30.0
COLUMNS = ("carried", "buckets", "GiB", "s", "GiB/s")
_NOTE = "Gather, round and pack, then install, or broadcast in a group of one. The first of each makes what stays."


def run(setting: Setting, findings: Findings) -> None:
    """Float32 weights, rounded on the way to engines that compute in bfloat16."""
    with one_rank(setting.device) as meshes:
        with findings.case("weight sync into an engine of this process, and by broadcast"):
            _here(setting, meshes, findings)
        with findings.case("weight sync into another process"):
            shape = TINY if setting.tiny else SMALL
            outbox, expected = _sender(shape, MIB, setting, meshes)
            found = _to_process(outbox, shape, setting.device)
            wrong = [
                name for name, tensor in expected.state_dict().items() if not torch.equal(tensor.cpu(), found[name])
            ]
            findings.equal("tensors that arrived otherwise in another process", wrong, [])


def _here(setting: Setting, meshes: Meshes, findings: Findings) -> None:
    shape = TINY if setting.tiny else MINI_STACK.model_copy(update={"num_hidden_layers": LAYERS})
    outbox, expected = _sender(shape, MIB // 4 if setting.tiny else 512 * MIB, setting, meshes)
    policy, rows = _engine(shape, setting.device), []
    for turn in ("first", "second"):
        rows.append(_timed(f"into an engine, {turn}", partial(_install, outbox, policy), setting))
    wanted = expected.state_dict()
    wrong = [name for name, tensor in policy.model.state_dict().items() if not torch.equal(tensor, wanted[name])]
    findings.equal("tensors that did not arrive as they were rounded", wrong, [])
    outbox.join(Meeting(*outbox.meet("127.0.0.1", PATIENCE_S), 1, "check", PATIENCE_S))
    for turn in ("first", "second"):
        rows.append(_timed(f"broadcast, {turn}", partial(_broadcast, outbox, policy), setting))
    findings.table("Weight sync on one rank", _NOTE, COLUMNS, rows)


def _sender(shape: LLaDA2Config, bucket: int, setting: Setting, meshes: Meshes) -> tuple[Outbox, LLaDA2Model]:
    """The outbox of a sharded learner, and the network that an engine should have in the end."""
    learner = Workload(shape, rows=1, prompt_length=32, num_blocks=1, device=setting.device).model()
    expected = LLaDA2Model(shape, dtype=torch.bfloat16, device=setting.device)
    expected.load_state_dict(learner.state_dict())
    shard(learner, meshes, torch.bfloat16)
    return Outbox(learner, bucket), expected


def _engine(shape: LLaDA2Config, device: str) -> RolloutPolicy:
    """A policy whose weights are all wrong."""
    model = LLaDA2Model(shape, dtype=torch.bfloat16, device=device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    return RolloutPolicy(model)


def _install(outbox: Outbox, policy: RolloutPolicy) -> Header:
    header = outbox.of_version(1).open(policy.wanted(), "direct")
    policy.start_update(header)
    for number in header.numbers:
        policy.take(number, outbox.send(number))
    policy.finish_update()
    outbox.close()
    return header


def _broadcast(outbox: Outbox, policy: RolloutPolicy) -> Header:
    header = outbox.of_version(1).open(policy.wanted(), "collective")
    for number in header.numbers:
        outbox.send(number)
    outbox.close()
    return header


def _timed(name: str, send: Callable[[], Header], setting: Setting) -> list[str]:
    began = time.perf_counter()
    header = send()
    if setting.on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    gib = sum(bucket.nbytes for bucket in header.manifest.buckets) / 2**30
    return [name, str(len(header.numbers)), f"{gib:.2f}", f"{seconds:.3f}", f"{gib / seconds:.1f}"]


def _to_process(outbox: Outbox, shape: LLaDA2Config, device: str) -> dict[str, torch.Tensor]:
    """Send through memory that both processes see; return what the other one has installed."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_receive, args=(theirs, shape, device), daemon=True)
    process.start()
    theirs.close()  # so that its end is noticed
    try:
        header = outbox.of_version(1).open(_answer(ours), "shared_memory")
        ours.send(header)
        for number in header.numbers:
            ours.send((number, outbox.send(number)))
            _answer(ours)
        outbox.close()
        return torch.load(io.BytesIO(_answer(ours)))
    finally:
        process.kill()


def _answer(connection: Connection) -> Any:
    if not connection.poll(PATIENCE_S):
        raise TimeoutError(f"the other process gave no answer in {PATIENCE_S:g} s")
    return connection.recv()


def _receive(connection: Connection, shape: LLaDA2Config, device: str) -> None:
    """The other process: an engine that takes buckets as they come."""
    policy = _engine(shape, device)
    connection.send(policy.wanted())
    header = connection.recv()
    policy.start_update(header)
    for _ in header.numbers:
        number, payload = connection.recv()
        policy.take(number, payload)
        connection.send(number)
    policy.finish_update()
    found = io.BytesIO()
    torch.save({name: tensor.cpu() for name, tensor in policy.model.state_dict().items()}, found)
    connection.send(found.getvalue())
