"""The rollout worker that a recipe asks for, with the engine that it names."""

from functools import partial

from redraft.rl.config.schema import RunConfig
from redraft.rl.models.registry import load_policy
from redraft.rollout.trajectory import SpecialTokens
from redraft.rollout.vllm.engine import VLLMRolloutWorker, require_vllm
from redraft.rollout.vllm.options import WorkerOptions
from redraft.rollout.worker import RolloutWorker, load_rollout_policy


def rollout_worker(
    path: str, config: RunConfig, tokens: SpecialTokens, threads: int | None
) -> "partial[RolloutWorker] | partial[VLLMRolloutWorker]":
    """Bind a worker class to its arguments, to be called here or handed to Ray.

    Args:
        path: Folder of the policy.
        config: The recipe.
        tokens: Special ids.
        threads: Torch threads of the worker; None leaves them as they are.

    Raises:
        ImportError: vLLM is asked for and not installed.
    """
    model, rollout = config.model, config.rollout
    if rollout.engine == "torch":
        make_policy = partial(load_rollout_policy, load_policy, path, model.dtype, model.device)
        return partial(RolloutWorker, make_policy, tokens, rollout.limits, threads)
    require_vllm()
    options = WorkerOptions(
        load_model=f"{load_policy.__module__}:{load_policy.__name__}",
        path=path,
        dtype=model.dtype,
        device=model.device,
        tokens=tokens,
        decode=rollout.decode,
    )
    return partial(VLLMRolloutWorker, options, rollout.limits, threads)
