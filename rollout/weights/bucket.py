"""A bucket as it travels: the bytes of its rows, then a trailer that says what they are.

The trailer holds four int64: the manifest's digest, the policy version, the bucket's number, and the checksum of its
rows. So bytes of another version or bucket are refused, whatever brought them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import torch
from jaxtyping import UInt8
from torch import Tensor

from redraft.rollout.weights.checksum import part_sum
from redraft.rollout.weights.manifest import Bucket, Header, Manifest, Part, Wanted, WeightSyncError

Flat = UInt8[Tensor, " bytes"]

TRAILER_BYTES: Final = 32


def flat_bytes(bucket: Bucket) -> int:
    """Count the bytes of a bucket with its trailer."""
    return bucket.nbytes + TRAILER_BYTES


def pack(flat: Flat, header: Header, number: int, read: Callable[[str, int, int], Tensor]) -> None:
    """Write a bucket, rounded to the receivers' types.

    Args:
        flat: Where to, of `flat_bytes`.
        header: Of the update.
        number: Of the bucket.
        read: Returns rows of the sender's tensor: by name, first row and number of rows.
    """
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for part, wanted, place in _places(flat, header.manifest, number):
        place.copy_(read(wanted.name, part.first, part.rows))
        total += part_sum(place, wanted, part.first)
    known = torch.tensor(_label(header, number), device=flat.device)
    flat[-TRAILER_BYTES:].view(torch.int64).copy_(torch.cat([known, total[None]]))


def unpack(flat: Flat, header: Header, number: int, own: Mapping[str, Tensor]) -> None:
    """Install a bucket, and check what is in place then.

    Raises:
        WeightSyncError: It is another bucket, or its rows are not those that were sent.
    """
    *label, sent = flat[-TRAILER_BYTES:].view(torch.int64).tolist()
    if label != _label(header, number):
        raise WeightSyncError(
            f"weights of version {header.version}: bucket {number} was expected, and bucket {label[2]} of version"
            f" {label[1]} came{'' if label[0] == header.manifest.digest else ', of another network or cut otherwise'}"
        )
    found = torch.zeros((), dtype=torch.int64, device=next(iter(own.values())).device)
    names = []
    for part, wanted, place in _places(flat, header.manifest, number):
        rows = some_rows(own[wanted.name], part.first, part.rows)
        rows.copy_(place)
        found += part_sum(rows, wanted, part.first)
        names.append(wanted.name)
    if int(found) != sent:
        raise WeightSyncError(
            f"weights of version {header.version}: bucket {number} ({', '.join(names[:3])}"
            f"{' and more' if len(names) > 3 else ''}): sent {sent % 2**64:016x}, installed {int(found) % 2**64:016x}"
        )


def some_rows(tensor: Tensor, first: int, rows: int) -> Tensor:
    """Return rows of a tensor as a view; a number without dimensions is its own row."""
    return tensor[first : first + rows] if tensor.dim() else tensor


def _label(header: Header, number: int) -> list[int]:
    return [header.manifest.digest, header.version, number]


def _places(flat: Flat, manifest: Manifest, number: int) -> Iterator[tuple[Part, Wanted, Tensor]]:
    """Yield each part of a bucket with the view of its bytes."""
    for part in manifest.buckets[number].parts:
        wanted = manifest.tensors[part.tensor]
        size = part.rows * wanted.row_bytes
        shape = (part.rows, *wanted.shape[1:]) if wanted.shape else ()
        yield part, wanted, flat[part.offset : part.offset + size].view(wanted.torch_dtype).view(shape)
