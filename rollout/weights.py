"""Weights on their way from the learner to a rollout engine: an object, or a file between processes."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class WeightUpdate:
    """One version of the policy's weights.

    Attributes:
        version: Policy version: the number of learner updates behind these weights.
        fingerprint: Of the sender's tensors, compared after installation.
        tensors: Name -> tensor, or a reference to that dictionary in an object store.
    """

    version: int
    fingerprint: str
    tensors: Any


class PendingWeights:
    """What has come of an update that is not finished."""

    def __init__(self) -> None:
        self._object: WeightUpdate | None = None
        self._tensors: dict[str, Tensor] = {}
        self._label: tuple[int, str] | None = None

    def add(self, info: Mapping[str, Any]) -> None:
        """Takes a part.

        Args:
            info: `{"update": WeightUpdate}` with all of it, inside one process; or `{"path": file}`,
                a safetensors file whose metadata holds `version` and `fingerprint` (of all parts together).

        Raises:
            ValueError: It is neither, or parts of different updates are mixed.
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
        """All of it.

        Raises:
            RuntimeError: Nothing has come.
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
    """A file with an update that lasts as long as the context.

    Yields:
        Its path, for `PendingWeights.add`.
    """
    folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="redraft-weights-", dir=folder) as made:
        path = Path(made) / "weights.safetensors"
        metadata = {"version": str(update.version), "fingerprint": update.fingerprint}
        save_file({name: tensor.contiguous() for name, tensor in update.tensors.items()}, path, metadata=metadata)
        yield str(path)
