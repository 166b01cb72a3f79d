"""Weights on their way from the learner to the rollout actors, with a version and a fingerprint."""

import hashlib

import torch
from torch import Tensor, nn

from redraft.rollout.sampling import mix
from redraft.rollout.weights import WeightUpdate

__all__ = ["WeightSyncError", "WeightUpdate", "fingerprint", "install", "snapshot"]


class WeightSyncError(RuntimeError):
    """The weights that arrived are not the weights that were sent."""


def snapshot(model: nn.Module, version: int) -> WeightUpdate:
    """A copy of all weights and buffers; later updates of the model do not change it."""
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return WeightUpdate(version, fingerprint(tensors), tensors)


def install(model: nn.Module, update: WeightUpdate) -> None:
    """Put an update's weights into a model and check what arrived.

    Raises:
        WeightSyncError: A tensor is missing, unknown or misshapen, or the fingerprints differ.
    """
    own = model.state_dict()
    wrong = sorted(own.keys() ^ update.tensors.keys())
    wrong += [name for name in own.keys() & update.tensors.keys() if own[name].shape != update.tensors[name].shape]
    if wrong:
        raise WeightSyncError(f"weights of version {update.version} do not fit the policy: {', '.join(wrong[:5])}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(update.tensors[name])
    found = fingerprint(own)
    if found != update.fingerprint:
        raise WeightSyncError(f"weights of version {update.version}: sent {update.fingerprint}, installed {found}")


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """Hash of names, types, shapes and a position-keyed checksum of every tensor's bits.

    The checksum is computed where the tensor lives, so large weights on a GPU need no copy to the host.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:{_checksum(tensor)}".encode())
    return digest.hexdigest()


def _checksum(tensor: Tensor, chunk: int = 1 << 24) -> int:
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    bits = tensor.detach().contiguous().view(-1).view(integers)
    total = 0
    for start in range(0, len(bits), chunk):
        part = bits[start : start + chunk].to(torch.int64)
        # Every value is hashed together with its place before the (wrapping) sum: a plain or weighted sum would miss
        # exchanged values and small changes that cancel.
        place = torch.arange(start, start + len(part), device=part.device)
        total = (total + int(mix(part ^ mix(place)).sum())) & (2**64 - 1)
    return total
