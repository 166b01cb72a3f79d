"""Shard a network over the ranks of a learner with torch's `fully_shard`, and its experts over expert-parallel ranks.

Every rank has rows of its own. Dense weights are sharded over all ranks; the experts of a layer over the `ep` ranks of
a node, and each of these parts over what is left of the ranks. A forward gathers one layer at a time.

**Guarantees**
    * Gradients are sums over all ranks, as if one process had all rows: no mean is taken anywhere.

**Assumes**
    * The network names its parts (`shard_units`), and all ranks call the same parts in the same order (`Lockstep`).

Source: torch.distributed.fsdp.fully_shard; data-parallel ranks as expert-parallel ranks as in torchtitan.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_module, distribute_tensor

from redraft.rl.parallel.units import Shardable


class Meshes(NamedTuple):
    """The ranks as they share weights.

    Attributes:
        dense: All ranks.
        expert: Ranks that hold different experts.
        replica: Ranks that hold parts of the same experts.
    """

    dense: DeviceMesh
    expert: DeviceMesh
    replica: DeviceMesh


def make_meshes(device: str, expert_parallel: int) -> Meshes:
    """Arrange all ranks of the default process group; neighbours hold different experts."""
    world = dist.get_world_size()
    dense = init_device_mesh(device, (world,), mesh_dim_names=("dp",))
    grid = init_device_mesh(device, (world // expert_parallel, expert_parallel), mesh_dim_names=("efsdp", "ep"))
    return Meshes(dense, grid["ep"], grid["efsdp"])


def shard(model: Shardable, meshes: Meshes, compute: torch.dtype | None = None) -> None:
    """Shard a network in place.

    Args:
        model: A `Shardable` network; it may lie on the meta device.
        meshes: Of `make_meshes`.
        compute: Type of gathered weights and of products; None computes in the type of the weights. Gradients are
            reduced in fp32 at least.
    """
    widest = torch.promote_types(compute or next(model.parameters()).dtype, torch.float32)
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=widest, cast_forward_inputs=False)
    uncast = MixedPrecisionPolicy(reduce_dtype=widest, cast_forward_inputs=False)
    learns = any(parameter.requires_grad for parameter in model.parameters())
    for unit in model.shard_units():
        mesh = meshes.dense
        if unit.kind == "experts":
            mesh = meshes.replica
            for experts in unit.modules:
                distribute_module(experts, meshes.expert, _spread_stack)
                experts.ranks = meshes.expert.get_group()
        modules = list(unit.modules)
        fully_shard(
            modules if len(modules) > 1 else modules[0],
            mesh=mesh,
            mp_policy=uncast if unit.kind == "router" else policy,
            reshard_after_forward=unit.kind != "head" or not learns,  # no backward pass would give it back
        )
    fully_shard(model, mesh=meshes.dense, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo cannot scale while it sums
    for name in model.forward_methods:
        register_fsdp_forward_method(model, name)


def late_modules(model: Shardable, meshes: Meshes) -> list[FSDPModule]:
    """List the modules whose gradients may be added up once per optimizer step, and lie whole on each rank until then.

    Experts that are cut into pieces are none of them: their whole gradients would be those of all the pieces.
    """
    units = model.shard_units() if meshes.replica.size() > 1 else ()
    cut = {module for unit in units if unit.kind == "experts" for module in unit.modules}
    return [module for module in model.modules() if isinstance(module, FSDPModule) and module not in cut]


def _spread_stack(name: str, module: nn.Module, mesh: DeviceMesh) -> None:
    """Give each expert-parallel rank an equal part of every stacked parameter, unless it has it already."""
    for key, parameter in module.named_parameters(recurse=False):
        if isinstance(parameter, DTensor):  # of an adapter inside the experts, which is a unit of its own
            continue
        placed = nn.Parameter(distribute_tensor(parameter, mesh, [Shard(0)]), requires_grad=parameter.requires_grad)
        module.register_parameter(key, placed)
