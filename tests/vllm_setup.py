"""What the tests of the vLLM engine share. They run where vLLM is installed: see `.ci/vllm`."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.common.policies import decode, in_order
from oracles.small_moe import SAMPLED, SHAPE, TOKENS
from redraft.rollout.config import DecodeConfig, Limits
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens
from redraft.rollout.vllm.engine import VLLMEngine
from redraft.rollout.vllm.options import WorkerOptions

MARKS = [
    pytest.mark.filterwarnings("ignore:`torch.distributed.reduce_op` is deprecated:FutureWarning"),
    pytest.mark.timeout(300),
]
"""Marks of every test that starts vLLM: its own warnings, by their text."""

LIMITS = Limits(slots=8)


def import_vllm() -> None:
    """Imports vLLM, whose imports warn; skips the test file where it is not installed."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed; .ci/vllm installs it", allow_module_level=True)
    os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import redraft.rollout.vllm.scheduler
        import redraft.rollout.vllm.worker  # noqa: F401


def make_policy(folder: Path, seed: int = 0) -> str:
    """A random policy in float64 that leaves its blocks in doubt, so that edits happen."""
    from redraft.rl.models.registry import save_policy
    from tiny import build_bare_policy

    save_policy(build_bare_policy(SHAPE, "float64", "cpu", seed), folder, None)
    return str(folder)


def options_for(path: str, decode: DecodeConfig = SAMPLED, tokens: SpecialTokens = TOKENS) -> WorkerOptions:
    return WorkerOptions(
        load_model="redraft.rl.models.registry:load_policy",
        path=path,
        dtype="float64",
        device="cpu",
        tokens=tokens,
        decode=decode,
    )


def start(path: str, limits: Limits = LIMITS, **changes: Any) -> VLLMEngine:
    """An engine in this process; `changes` go to vLLM."""
    return VLLMEngine(options_for(path), limits, changes=changes)


def ragged_prompts(sizes: Sequence[int] = (1, 3, 4, 7, 8, 13, 22), seed: int = 3) -> list[Prompt]:
    """Prompts that begin alike: long ones share whole blocks with each other."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 24, (max(sizes),), generator=generator).tolist()
    return [Prompt(f"p{index}", tuple(tokens[:size]), seed=index) for index, size in enumerate(sizes)]


def by_torch(path: str, prompts: Sequence[Prompt], config: Any, tokens: SpecialTokens = TOKENS) -> list[Completion]:
    """What the torch engine makes of the prompts, with the policy in a folder."""
    from redraft.rl.models.registry import load_policy

    return decode(TorchEngine(load_policy(path, "float64", "cpu")), prompts, config, tokens)


def by_vllm(engine: VLLMEngine, prompts: Sequence[Prompt], config: Any) -> list[Completion]:
    return in_order(engine.stream(prompts, config))


def unversioned(completions: Sequence[Completion]) -> list[Completion]:
    """Without the version of the weights, which a torch engine alone does not know."""
    return [replace(completion, policy_version=0) for completion in completions]


def worker_of(engine: VLLMEngine) -> Any:
    """Our worker inside an engine of this process."""
    return engine.llm.llm_engine.model_executor.driver_worker.worker


def scheduler_of(engine: VLLMEngine) -> Any:
    return engine.llm.llm_engine.engine_core.engine_core.scheduler


def count_preemptions(engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that will hold the ids of requests that vLLM preempts."""
    scheduler, seen = scheduler_of(engine), []
    plain = scheduler._preempt_request

    def noted(request: Any, *rest: Any, **more: Any) -> None:
        seen.append(request.request_id)
        plain(request, *rest, **more)

    monkeypatch.setattr(scheduler, "_preempt_request", noted)
    return seen
