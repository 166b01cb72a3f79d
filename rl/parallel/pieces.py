"""What this rank holds of a tensor that is spread over ranks."""

from typing import NamedTuple

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


class Rows(NamedTuple):
    """Some neighbouring entries of a tensor's first dimension.

    Attributes:
        first: Place of the first of them in the whole tensor.
        tensor: A view: writing into it changes the whole.
    """

    first: int
    tensor: Tensor


def own_rows(tensor: Tensor) -> Rows:
    """Return the entries of a tensor's first dimension that this rank holds; a plain tensor is held whole.

    Raises:
        ValueError: The tensor is spread along another dimension.
    """
    if not isinstance(tensor, DTensor):
        return Rows(0, tensor)
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    if tuple(shape[1:]) != tuple(tensor.shape[1:]):
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} is spread as {tensor.placements}, not along rows")
    return Rows(offset[0], tensor.to_local())


def whole(tensor: Tensor) -> Tensor:
    """Gather a spread tensor on every rank, which all ranks must call for; a plain tensor is returned as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
