"""The norm of gradients that lie on several meshes: dense weights on all ranks, experts on theirs."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DeviceMesh, DTensor

from redraft.rl.parallel.lockstep import Lockstep


def clip_grad_norm(parameters: Iterable[nn.Parameter], largest: float, lockstep: Lockstep) -> Tensor:
    """Scale all gradients down together if their total norm is above `largest`.

    torch's own function stacks the norms of all gradients, which it refuses for gradients of several meshes
    (pytorch/pytorch#180346). Every entry of a gradient lies on exactly one rank, whatever its mesh, so the norm of all
    is that of the ranks' own norms.

    Returns:
        The total norm before, with the same bits on every rank; not finite if any gradient on any rank is not.
    """
    meshes: dict[DeviceMesh | None, list[nn.Parameter]] = {}
    own: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None:
            spread = isinstance(parameter.grad, DTensor)
            meshes.setdefault(parameter.grad.device_mesh if spread else None, []).append(parameter)
            gradient = parameter.grad.to_local() if spread else parameter.grad
            # Of 16-bit gradients (adamw_bf16_sr) the norm is taken in fp32: 8 bits of it would be in the clip.
            narrow = gradient.dtype.itemsize < 4
            own.append(torch.linalg.vector_norm(gradient, dtype=torch.float32) if narrow else gradient)
    total = lockstep.norm(nn.utils.get_total_norm(own))
    for some in meshes.values():
        nn.utils.clip_grads_with_norm_(some, largest, total)
    return total
