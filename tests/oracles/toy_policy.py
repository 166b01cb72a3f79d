"""A policy that is no network: block-causal logits by a closed formula, with a cache that can go stale.

The session keeps, for every row, the tokens that were in the canvas when a position was last run, and computes
committed positions from those. A decoder that commits a block too early, or never runs a block again after its last
edit, therefore gets other logits than a recomputation from the canvas does.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


class ToyPolicy:
    """Logits of a block as a smooth function of all tokens up to its end; implements `rollout.engine.Engine`."""

    device = torch.device("cpu")

    def __init__(self, vocab_size: int, max_length: int, sharpness: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.vocab_size, self.max_length, self.sharpness = vocab_size, max_length, sharpness
        self.tokens = torch.randn(vocab_size, 8, dtype=torch.float64, generator=generator)
        self.positions = torch.randn(max_length, 8, dtype=torch.float64, generator=generator)
        self.readout = torch.randn(8, vocab_size, dtype=torch.float64, generator=generator)
        self.rows_per_pass: list[int] = []
        self.blocks_per_pass: list[int] = []

    def block_logits(self, tokens: Int[Tensor, " n"], block_length: int) -> Float[Tensor, "block vocab"]:
        """Logits of the last block of a canvas that ends with it."""
        here = self.positions[: len(tokens)]
        context = (self.tokens[tokens] * here).mean(dim=0)
        hidden = torch.sin(3.0 * context + self.tokens[tokens[-block_length:]] + here[-block_length:])
        return self.sharpness * hidden @ self.readout

    def open(self, num_rows: int, length: int, block_length: int) -> "ToySession":
        return ToySession(self, num_rows, length, block_length)


class ToySession:
    """One decode on a toy policy."""

    def __init__(self, policy: ToyPolicy, num_rows: int, length: int, block_length: int) -> None:
        self.policy, self.block_length = policy, block_length
        self.last_run = torch.full((num_rows, length), -1)

    def forward(
        self,
        canvas: Int[Tensor, "rows length"],
        rows: Int[Tensor, " live"],
        committed: Int[Tensor, " live"],
        active: Int[Tensor, " live"],
    ) -> Float[Tensor, "live block vocab"]:
        blocks = []
        self.policy.rows_per_pass.append(len(rows))
        self.policy.blocks_per_pass.append(int(((active - committed) // self.block_length + 1).sum()))
        for row, begin, start in zip(rows.tolist(), committed.tolist(), active.tolist(), strict=True):
            assert begin % self.block_length == 0
            assert start % self.block_length == 0
            end = start + self.block_length
            self.last_run[row, begin:end] = canvas[row, begin:end]
            assert (self.last_run[row, :end] >= 0).all(), "a block was committed that no forward ran"
            blocks.append(self.policy.block_logits(self.last_run[row, :end], self.block_length))
        return torch.stack(blocks)
