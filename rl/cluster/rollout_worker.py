"""The rollout worker that a recipe asks for, with the engine that it names."""

from functools import partial

from redraft.rl.config.schema import RunConfig
from redraft.rl.models.registry import load_policy, resolve_rollout_dtype
from redraft.rollout.trajectory import SpecialTokens
from redraft.rollout.vllm.engine import VLLMRolloutWorker, require_vllm
from redraft.rollout.vllm.options import WorkerOptions
from redraft.rollout.worker import RolloutPolicy, RolloutWorker, load_rollout_policy


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
    limits = config.rollout.limits
    if config.rollout.engine == "torch":
        return partial(RolloutWorker, partial(_load, path, config), tokens, limits, threads)
    require_vllm()
    return partial(VLLMRolloutWorker, partial(_options, path, config, tokens), limits, threads)


# These two run in the worker's own process, because the type of the weights depends on the device that is there.


def _load(path: str, config: RunConfig) -> RolloutPolicy:
    """Load the policy of a torch engine."""
    return load_rollout_policy(load_policy, path, resolve_rollout_dtype(config), config.model.device)


def _options(path: str, config: RunConfig, tokens: SpecialTokens) -> WorkerOptions:
    """Say how the worker inside vLLM makes and decodes its policy."""
    return WorkerOptions(
        load_model=f"{load_policy.__module__}:{load_policy.__name__}",
        path=path,
        dtype=resolve_rollout_dtype(config),
        device=config.model.device,
        tokens=tokens,
        decode=config.rollout.decode,
        weights_by_sync=True,
    )
