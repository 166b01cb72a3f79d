"""The receiver's end of a weight sync: buckets into a network, each checked when it is in place.

**Guarantees**
    * What is installed is bit for bit what was sent, or `WeightSyncError` is raised.
    * Parts of different versions are never mixed: an update holds each of its buckets once, all of one version.

**Assumes**
    * The caller decodes nothing between the first bucket and the end: the weights in place are then of no version.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from redraft.rollout.weights.bucket import flat_bytes, unpack
from redraft.rollout.weights.carry import BroadcastGroup, Carrier, open_payload
from redraft.rollout.weights.manifest import Header, Wanted, WeightSyncError


@runtime_checkable
class Sender(Protocol):
    """One version of the learner's weights, ready to be sent."""

    def open(self, wanted: Sequence[Wanted], carrier: Carrier) -> Header:
        """Agree with receivers on what is sent and how."""
        ...

    def send(self, number: int) -> Any:
        """Return what brings a bucket to a receiver; see `rollout.weights.carry.open_payload`."""
        ...

    def close(self) -> None:
        """Give the memory of the last buckets back."""
        ...


@runtime_checkable
class Receiver(Protocol):
    """A rollout engine that takes weights."""

    def wanted(self) -> Sequence[Wanted]:
        """List the tensors of its policy."""
        ...

    def start_update(self, header: Header) -> None:
        """Begin an update. From here to its end the weights in place are of no version."""
        ...

    def take(self, number: int, *payloads: Any) -> None:
        """Install a bucket."""
        ...

    def finish_update(self) -> int:
        """End the update; return the version that is now in place."""
        ...


def transfer(sender: Sender, receiver: Receiver, carrier: Carrier = "direct") -> int:
    """Send one version to one receiver, inside one process or to one that it started.

    Returns:
        The version that is in place.

    Raises:
        WeightSyncError: What arrives is not what was sent.
    """
    header = sender.open(receiver.wanted(), carrier)
    try:
        receiver.start_update(header)
        for number in header.numbers:
            receiver.take(number, sender.send(number))
        return receiver.finish_update()
    finally:
        sender.close()


class Incoming:
    """One update of a network.

    Args:
        model: The network, whose weights change in place.
        header: Of the update.
        version: Of the weights before; -1 if they are of none.
        group: Where broadcast buckets come from, if they come so.

    Raises:
        WeightSyncError: The network has other tensors, or lacks the weights that a part of an update needs.
    """

    def __init__(self, model: nn.Module, header: Header, version: int, group: BroadcastGroup | None) -> None:
        self.header, self._group = header, group
        self._own: dict[str, Tensor] = model.state_dict()
        self._missing = list(header.numbers)
        if tuple(sorted(wanted_tensors(model))) != header.manifest.tensors:
            raise WeightSyncError(f"weights of version {header.version} are cut for another policy than this one")
        complete = len(header.numbers) == len(header.manifest.buckets)
        if not complete and version != header.base:
            raise WeightSyncError(
                f"a part of the weights of version {header.version} changes those of version {header.base}, but"
                f" version {version} is in place; send a complete update"
            )

    def take(self, number: int, payload: Any) -> None:
        """Install a bucket.

        Raises:
            WeightSyncError: It came before, is not of this update, or is not what was sent.
        """
        if number not in self._missing:
            raise WeightSyncError(f"weights of version {self.header.version}: bucket {number} is not expected now")
        bucket, device = self.header.manifest.buckets[number], next(iter(self._own.values())).device
        with torch.no_grad():
            if self._group is not None:
                flat = torch.empty(flat_bytes(bucket), dtype=torch.uint8, device=device)
                self._group.broadcast(flat, bucket.owner)
            else:
                flat = open_payload(payload, flat_bytes(bucket), device)
            unpack(flat, self.header, number, self._own)
        if device.type == "cuda":  # the sender may write its next bucket where this one was read
            torch.cuda.synchronize(device)
        self._missing.remove(number)

    def finish(self) -> int:
        """Return the version that is complete now.

        Raises:
            WeightSyncError: A bucket never came.
        """
        if self._missing:
            raise WeightSyncError(
                f"weights of version {self.header.version}: {len(self._missing)} of {len(self.header.numbers)} buckets"
                f" never came, the first is {self._missing[0]}"
            )
        return self.header.version


def wanted_tensors(model: nn.Module) -> list[Wanted]:
    """List a network's weights and buffers, as a receiver wants them."""
    return [Wanted.of(name, tensor) for name, tensor in model.state_dict().items()]
