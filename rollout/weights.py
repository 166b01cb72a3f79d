"""Weights on their way from the learner to a rollout engine: packed, carried, installed and checked.

`snapshot` is the sender's end, `install` the receiver's. In between an update is an object inside one process, a
reference in an object store, or a file between processes (`weights_file`, `PendingWeights`).

Guarantees:
    * What is installed is bit for bit what was sent, or `install` raises `WeightSyncError`.
    * An update holds all tensors of one version: parts of different versions are never mixed.

Assumes:
    * Sender and receiver build the same network, so their tensors have the same names and shapes. The sender rounds
      weights to the receiver's type (`rollout.dtype`).

Rejected alternatives:
    * A plain or weighted sum as the checksum: exchanged values and changes that cancel pass unseen.
    * A cryptographic hash of the bytes: large weights on a GPU would have to be copied to the host.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from redraft.rollout.sampling import mix

SHARED_MEMORY = Path("/dev/shm")


class WeightSyncError(RuntimeError):
    """The weights that arrived are not the weights that were sent."""


@dataclass(frozen=True)
class WeightUpdate:
    """One version of the policy's weights.

    Attributes:
        version: Policy version: the number of learner updates behind these weights.
        fingerprint: Of the sender's tensors, see `fingerprint`; compared after installation.
        tensors: Name -> tensor, or a reference to that dictionary in an object store.
    """

    version: int
    fingerprint: str
    tensors: Any


def snapshot(model: nn.Module, version: int, dtype: torch.dtype | None = None) -> WeightUpdate:
    """Copy all weights and buffers, so that later updates of the model do not change them.

    Args:
        model: The sender's network.
        version: Of its weights.
        dtype: The engine's type, which weights are rounded to, so that what is installed is what was sent. Buffers
            keep theirs. None sends weights as they are.
    """
    weights = {name for name, _ in model.named_parameters()}
    tensors = {
        name: tensor.detach().to(dtype if name in weights else None, copy=True)
        for name, tensor in model.state_dict().items()
    }
    return WeightUpdate(version, fingerprint(tensors), tensors)


def install(model: nn.Module, update: WeightUpdate) -> None:
    """Copy an update's weights into a model and check what arrived.

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
    """Hash names, types, shapes and a position-keyed checksum of every tensor's bits.

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


class PendingWeights:
    """Collect the parts of an update until it is complete."""

    def __init__(self) -> None:
        self._object: WeightUpdate | None = None
        self._tensors: dict[str, Tensor] = {}
        self._label: tuple[int, str] | None = None

    def add(self, info: Mapping[str, Any]) -> None:
        """Add a part.

        Args:
            info: `{"update": WeightUpdate}` with the whole update, inside one process; or `{"path": file}`,
                a safetensors file whose metadata holds `version` and `fingerprint` (of all parts together).

        Raises:
            ValueError: `info` is neither, or its part belongs to another update than the parts before.
        """
        if info.keys() == {"update"} and self._label is None and self._object is None:
            self._object = info["update"]
        elif info.keys() == {"path"} and self._object is None:
            self._read(info["path"])
        else:
            raise ValueError(
                f"update_info must be {{'update': ...}}, once, or {{'path': ...}}, a file; got the keys {sorted(info)}"
            )

    def update(self) -> WeightUpdate:
        """Return the update that the parts make up.

        Raises:
            RuntimeError: No part was added.
        """
        if self._object is not None:
            return self._object
        if self._label is None:
            raise RuntimeError("finish_weight_update: no weights came; call update_weights first")
        version, fingerprint = self._label
        return WeightUpdate(version, fingerprint, self._tensors)

    def _read(self, path: str) -> None:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if not metadata.keys() >= {"version", "fingerprint"}:
                raise ValueError(f"{path}: the file's metadata must hold version and fingerprint, got {metadata}")
            label = int(metadata["version"]), metadata["fingerprint"]
            if self._label not in (None, label):
                raise ValueError(f"{path} is of {label}, but what came before is of {self._label}")
            self._label = label
            self._tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


@contextmanager
def weights_file(update: WeightUpdate) -> Iterator[str]:
    """Write an update into a file, in shared memory where there is some, and delete the file at the end.

    Yields:
        The file's path, for `PendingWeights.add`.
    """
    folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="redraft-weights-", dir=folder) as made:
        path = Path(made) / "weights.safetensors"
        metadata = {"version": str(update.version), "fingerprint": update.fingerprint}
        save_file({name: tensor.contiguous() for name, tensor in update.tensors.items()}, path, metadata=metadata)
        yield str(path)
