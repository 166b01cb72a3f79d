# pyright: reportMissingImports=false
"""The vLLM engine as one of the ways of `python -m benchmarks decode`, where vLLM is installed."""

import tempfile
from collections.abc import Sequence
from importlib.util import find_spec

from benchmarks.common.policies import in_order
from benchmarks.decode.meter import Meter, clock_of, metered_session
from benchmarks.decode.naive import Row
from benchmarks.decode.run import Run, Way
from benchmarks.decode.workload import Workload
from redraft.rl.models.registry import save_policy
from redraft.rollout.blocks import padded_length
from redraft.rollout.config import Limits
from redraft.rollout.trajectory import Prompt


def vllm_way(slots: int) -> Way | str:
    """Our worker inside vLLM, with so many sequences at a time; or why it cannot be measured."""
    if find_spec("vllm") is None:
        return "vllm not installed"

    def way(workload: Workload, prompts: Sequence[Prompt]) -> Run:
        with tempfile.TemporaryDirectory() as folder:
            save_policy(workload.model, folder, None)
            return _decode(workload, prompts, folder, slots)

    return way


def _decode(workload: Workload, prompts: Sequence[Prompt], folder: str, slots: int) -> Run:
    """One decode of an engine that was started and warmed up before; vLLM's scheduler counts as policy."""
    from redraft.rollout.vllm.engine import VLLMEngine
    from redraft.rollout.vllm.options import WorkerOptions

    config, parameter = workload.config, next(workload.model.parameters())
    longest = max(len(prompt.token_ids) for prompt in prompts) + config.max_completion_length
    options = WorkerOptions(
        load_model="redraft.rl.models.registry:load_policy",
        path=folder,
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=str(parameter.device),
        tokens=workload.tokens,
        decode=config,
    )
    engine = VLLMEngine(options, Limits(slots=slots), padded_length(longest, config.block_length))
    try:
        short = config.model_copy(update={"max_completion_length": config.block_length})
        in_order(engine.stream(prompts[:2], short))
        engine.llm.reset_prefix_cache()
        clock, meter = clock_of(parameter.device), Meter()
        rows = engine.llm.llm_engine.model_executor.driver_worker.worker.running
        rows.slots.session = metered_session(rows.slots.session, meter, clock)
        started = clock()
        completions = in_order(engine.stream(prompts, config))
        seconds = clock() - started
    finally:
        engine.close()
    return Run(tuple(map(Row.of, completions)), seconds, meter, seconds)
