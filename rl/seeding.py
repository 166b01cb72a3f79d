"""Named random streams: every draw is a pure function of (run seed, purpose, indices).

Nothing here touches a global generator and nothing has to be saved: a resumed run, a replaced actor and a re-issued
prompt all derive the same seeds again.
"""

import hashlib

import torch

SEED_BITS = 62  # fits a signed 64-bit tensor with room for arithmetic


def derive_seed(seed: int, purpose: str, *indices: int) -> int:
    """Derive the seed of one named stream.

    Args:
        seed: The run's seed.
        purpose: What the stream is for, e.g. `rollout` or `noise`.
        *indices: Counters inside the purpose, e.g. batch and completion.

    Returns:
        An integer in [0, 2**62), stable across processes and Python versions.
    """
    text = ":".join([str(seed), purpose, *map(str, indices)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - SEED_BITS)


def make_generator(seed: int, purpose: str, *indices: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Make a `torch.Generator` that stands at the start of a named stream."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, purpose, *indices))
