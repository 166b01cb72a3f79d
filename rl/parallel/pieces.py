"""What this rank holds of a tensor that is spread over ranks.

Importing this loads nothing of torch.distributed.tensor, which takes most of a second: rollout actors need none of it.
"""

import sys
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class Rows(NamedTuple):
    """Some neighbouring entries of a tensor's first dimension.

    Attributes:
        first: Place of the first of them in the whole tensor.
        tensor: A view: writing into it changes the whole.
    """

    first: int
    tensor: Tensor


def is_spread(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Tell whether a tensor is spread over ranks; there is none where its class was never imported."""
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def own_rows(tensor: Tensor) -> Rows:
    """Return the entries of a tensor's first dimension that this rank holds; a plain tensor is held whole.

    Raises:
        ValueError: The tensor is spread along another dimension.
    """
    if not is_spread(tensor):
        return Rows(0, tensor)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    if tuple(shape[1:]) != tuple(tensor.shape[1:]):
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} is spread as {tensor.placements}, not along rows")
    return Rows(offset[0], tensor.to_local())


def whole(tensor: Tensor) -> Tensor:
    """Gather a spread tensor on every rank, which all ranks must call for; a plain tensor is returned as it is."""
    return tensor.full_tensor() if is_spread(tensor) else tensor
