"""What a weight sync sends and in which order: the tensors of a receiver, cut into buckets of bounded size.

The receiver says which tensors it wants, in which types; each rank of the learner says which rows of them it holds.
Sender and receivers then hold one and the same manifest, and a bucket needs no description of its own.

**Guarantees**
    * Every row of every wanted tensor is in exactly one bucket, and a bucket has one owner, who holds all of it.
    * The order depends on names, shapes and owners alone, so it is the same on every rank and for every version.

**Assumes**
    * Sender and receivers build the same network. The sender may be spread over ranks along the rows of its tensors.

**Rejected alternatives**
    * Gather a tensor on its owner before it is sent: a collective of the learner inside a send deadlocks as soon as
      two ranks send in another order, and the gathered tensor takes memory. A receiver can place rows by itself.

Example: buckets of 64 bytes, one tensor `w` of 5 rows of 16 bytes, of which rank 0 holds rows 0 to 2 and rank 1 rows 3
and 4. There are two buckets: one of rank 0 with 48 bytes, then one of rank 1 with 32.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

ALIGNED = 8
"""Parts of a bucket begin at a multiple of so many bytes, the size of the widest word that is read from them."""


class WeightSyncError(RuntimeError):
    """The weights that arrived are not the weights that were sent."""


class Wanted(NamedTuple):
    """A tensor of a receiver."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> "Wanted":
        """Describe a tensor."""
        return cls(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))

    @property
    def torch_dtype(self) -> torch.dtype:
        """Type of the entries."""
        return getattr(torch, self.dtype)

    @property
    def rows(self) -> int:
        """Count the entries of the first dimension; a number without dimensions is one row."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Count the bytes of a row."""
        return math.prod(self.shape[1:]) * self.torch_dtype.itemsize


class Part(NamedTuple):
    """Some rows of a tensor inside a bucket.

    Attributes:
        tensor: Place of the tensor in `Manifest.tensors`.
        first: Its first row in the bucket.
        rows: How many.
        offset: Bytes of the bucket before them.
    """

    tensor: int
    first: int
    rows: int
    offset: int


class Bucket(NamedTuple):
    """Rows that travel together.

    Attributes:
        owner: Rank of the learner that holds and sends them.
        parts: The rows.
        nbytes: Their size, a multiple of `ALIGNED`.
    """

    owner: int
    parts: tuple[Part, ...]
    nbytes: int


class Manifest:
    """All buckets of a version, in the order in which they are sent.

    Args:
        tensors: What the receivers want, sorted by name.
        buckets: What is sent.
    """

    def __init__(self, tensors: tuple[Wanted, ...], buckets: tuple[Bucket, ...]) -> None:
        self.tensors, self.buckets = tensors, buckets

    @cached_property
    def digest(self) -> int:
        """Identify the manifest: an int64 that differs where anything of it does."""
        digest = hashlib.blake2b(repr((self.tensors, self.buckets)).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little", signed=True)


class Header(NamedTuple):
    """What a receiver must know before the first bucket.

    Attributes:
        version: Policy version: the number of learner updates behind these weights.
        manifest: Of the whole policy.
        numbers: Buckets that are sent, by their place in the manifest.
        base: Version of the weights that a receiver must have if not all buckets are sent; else None.
    """

    version: int
    manifest: Manifest
    numbers: tuple[int, ...]
    base: int | None = None


def make_manifest(
    tensors: Sequence[Wanted], held: Sequence[Mapping[str, tuple[int, int]]], bucket_bytes: int
) -> Manifest:
    """Cut tensors into buckets.

    Args:
        tensors: What the receivers want.
        held: By rank of the learner: name -> first row and number of rows that it holds.
        bucket_bytes: Most bytes of a bucket; a single row may be larger.

    Raises:
        WeightSyncError: The learner lacks rows, or holds a tensor that the receivers do not know.
    """
    ordered = tuple(sorted(tensors))
    if unknown := sorted({name for rank in held for name in rank} - {one.name for one in ordered}):
        raise WeightSyncError(f"the rollout engine's policy has no {', '.join(unknown[:5])}, which the learner sends")
    queues: list[list[tuple[int, int, int]]] = [[] for _ in held]
    for number, wanted in enumerate(ordered):
        for owner, first, rows in _owners(wanted, held):
            queues[owner].append((number, first, rows))
    filled = [_fill(owner, queue, ordered, bucket_bytes) for owner, queue in enumerate(queues)]
    # The owners take turns, so that the links of all of them are used.
    turns = zip_longest(*filled)
    return Manifest(ordered, tuple(bucket for turn in turns for bucket in turn if bucket is not None))


def _owners(wanted: Wanted, held: Sequence[Mapping[str, tuple[int, int]]]) -> list[tuple[int, int, int]]:
    """Choose the rank that sends each row of a tensor, as (rank, first row, rows); rows held twice are sent once."""
    ranges = sorted((*rank[wanted.name], number) for number, rank in enumerate(held) if wanted.name in rank)
    chosen, sent = [], 0
    for first, rows, number in ranges:
        if first > sent:
            break
        if first + rows > sent:
            chosen.append((number, sent, first + rows - sent))
            sent = first + rows
    if sent != wanted.rows:
        lacking = f"row {sent} of {wanted.name} ({wanted.rows} rows)" if ranges else wanted.name
        raise WeightSyncError(f"weights do not fit the rollout engine's policy: the learner holds no {lacking}")
    return chosen


def _fill(
    owner: int, queue: Sequence[tuple[int, int, int]], tensors: Sequence[Wanted], bucket_bytes: int
) -> list[Bucket]:
    """Pack the rows of one owner into buckets, in order."""
    buckets: list[Bucket] = []
    parts: list[Part] = []
    used, limit = 0, bucket_bytes // ALIGNED * ALIGNED
    for number, start, count in queue:
        row, end = max(1, tensors[number].row_bytes), start + count
        while start < end:
            if parts and used + row > limit:
                buckets.append(Bucket(owner, tuple(parts), used))
                parts, used = [], 0
            rows = min(end - start, max(1, (limit - used) // row))
            parts.append(Part(number, start, rows, used))
            used += -(-rows * row // ALIGNED) * ALIGNED
            start += rows
    return [*buckets, Bucket(owner, tuple(parts), used)] if parts else buckets
