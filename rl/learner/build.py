"""Make the networks of a learner, the policy and the reference policy: whole in one process, or spread over ranks."""

from collections.abc import Callable
from typing import Any

from torch import nn

from redraft.rl.config.by_device import compute_dtype
from redraft.rl.config.schema import RunConfig
from redraft.rl.learner.optim import freeze_router
from redraft.rl.models.registry import add_lora, init_lora, load_policy, resolve_device, resolve_dtype
from redraft.rl.parallel.layout import RankLayout
from redraft.rl.parallel.shard import Meshes, shard
from redraft.rl.parallel.together import Together
from redraft.rl.parallel.units import Shardable


def load_network(path: str, config: RunConfig, meshes: Meshes | None = None, trainable: bool = True) -> nn.Module:
    """Load the network of a policy folder for a learner.

    With meshes it is spread over their ranks before it has memory, and every rank reads its own part from the files.

    Args:
        path: The folder.
        config: The recipe.
        meshes: Of `make_meshes`; all of their ranks call. None loads the whole network into this process.
        trainable: False for the reference policy, which is frozen and has the type of the products alone.

    Raises:
        FileNotFoundError: A file is missing, for this rank or another; other errors are shared alike.
        ValueError: The folder does not hold a policy, or the ranks cannot share its experts equally.
    """
    adapted = trainable and config.model.lora is not None
    # Weights that do not learn, or have masters on the host, need no wider type than the products.
    narrow = not trainable or adapted or config.trainer.optimizer.offload == "all"
    dtype = (_compute_dtype(config) if narrow else None) or config.model.dtype
    if meshes is None:
        model = load_policy(path, dtype, config.model.device)
        _prepare(model, path, config, trainable)
    else:
        lockstep = Together(meshes.dense.get_group(), meshes.dense.device_type)
        spread = _spread(path, config, meshes, trainable)
        model = load_policy(path, dtype, config.model.device, spread, lockstep)
    if adapted:
        init_lora(model, config)
    return model


def _spread(path: str, config: RunConfig, meshes: Meshes, trainable: bool) -> Callable[[Any], None]:
    """Say how a network without memory gets ready for its ranks."""

    def spread(model: Any) -> None:
        _check_experts(model, meshes)
        _prepare(model, path, config, trainable)
        compute = _compute_dtype(config)
        shard(model, meshes, resolve_dtype(compute) if compute else None)

    return spread


def _prepare(model: Any, path: str, config: RunConfig, trainable: bool) -> None:
    """Set what a network has before it is sharded: which weights learn, and what is computed twice."""
    if not trainable:
        model.requires_grad_(False)
        return
    if config.model.lora is not None:
        add_lora(model, path, config)
    elif config.trainer.freeze_router:  # a router that learns is sharded by itself
        freeze_router(model)
    if config.trainer.activation_checkpointing == "layer":
        model.checkpoint_layers()


def _compute_dtype(config: RunConfig) -> str | None:
    """Name the type of the products; None if it is that of the weights."""
    asked = compute_dtype(config, on_gpu=resolve_device(config.model.device).type == "cuda")
    return None if asked == config.model.dtype else asked


def _check_experts(model: Shardable, meshes: Meshes) -> None:
    """Refuse experts that the ranks cannot share equally: their state could not be read by other ranks later."""
    layout = RankLayout(meshes.dense.size(), meshes.expert.size())
    stacks = [unit.modules[0] for unit in model.shard_units() if unit.kind == "experts"]
    for number in {next(stack.parameters()).shape[0] for stack in stacks}:
        layout.check_experts(number)
