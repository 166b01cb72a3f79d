"""A checksum of weights that adds up: pieces of a tensor, wherever they lie, sum to the checksum of the whole.

``sum over words of mix(word XOR mix(place + key))``, wrapping at 64 bits. The place counts words from the beginning of
the whole tensor, and the key comes from its name, type and shape. So any cut along rows, over ranks or over buckets,
gives parts whose sums add up to that of the whole, while exchanged, moved or changed values give another sum.

**Rejected alternatives**
    * A plain or weighted sum: exchanged values and changes that cancel pass unseen.
    * A cryptographic hash of the bytes: large weights on a GPU would have to be copied to the host.
"""

import hashlib
import math
from collections.abc import Mapping

import torch
from jaxtyping import Int64
from torch import Tensor

from redraft.rollout.sampling import mix
from redraft.rollout.weights.manifest import ALIGNED, Wanted

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def part_sum(rows: Tensor, wanted: Wanted, first: int, chunk: int = 1 << 20) -> Int64[Tensor, ""]:
    """Compute the sum of some rows, where they lie; no value goes to the host.

    Args:
        rows: The rows, in the tensor's type.
        wanted: The whole tensor.
        first: Place of the first row.
        chunk: Words that are hashed at a time, which bounds the memory.
    """
    # The widest word of which a row holds a whole number: fewer words, and rows never share one.
    size = math.gcd(ALIGNED, wanted.row_bytes) or ALIGNED
    words = rows.detach().contiguous().view(-1).view(_WORDS[size])
    start, key = first * (wanted.row_bytes // size), _key(wanted)
    total = torch.zeros((), dtype=torch.int64, device=rows.device)
    for done in range(0, len(words), chunk):
        part = words[done : done + chunk].to(torch.int64)
        place = torch.arange(start + done, start + done + len(part), device=part.device)
        total += mix(part ^ mix(place + key)).sum()
    return total


def fingerprint(tensors: Mapping[str, Tensor]) -> int:
    """Compute the sum of all words of some tensors; equal for equal weights, however they are cut."""
    return sum(int(part_sum(tensor, Wanted.of(name, tensor), 0)) for name, tensor in tensors.items()) % 2**64


def _key(wanted: Wanted) -> int:
    """Draw a number below 2^62 from name, shape and type, so that a place of one tensor is no place of another."""
    return int.from_bytes(hashlib.blake2b(repr(wanted).encode(), digest_size=8).digest(), "little") >> 2
