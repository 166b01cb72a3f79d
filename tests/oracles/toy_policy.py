"""A policy that is no network: block-causal logits by a closed formula, with a cache that can go stale.

The session keeps in every page the tokens that were written to it last, and computes a block from the pages in its
entry's table. A decoder that commits a block too early, never runs a block again after its last edit, or mixes up
pages, therefore gets other logits than a recomputation from the canvas does.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.common.dense import DenseScores
from redraft.rollout.engine.protocol import Outcome, Pass


class ToyPolicy:
    """Logits of a block as a smooth function of all tokens up to its end; an `engine.protocol.Engine`."""

    device = torch.device("cpu")

    def __init__(self, vocab_size: int, max_length: int, sharpness: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.vocab_size, self.max_length, self.sharpness = vocab_size, max_length, sharpness
        self.tokens = torch.randn(vocab_size, 8, dtype=torch.float64, generator=generator)
        self.positions = torch.randn(max_length, 8, dtype=torch.float64, generator=generator)
        self.readout = torch.randn(8, vocab_size, dtype=torch.float64, generator=generator)
        self.rows_per_pass: list[int] = []
        self.blocks_per_pass: list[int] = []
        self.prefilled: list[int] = []  # blocks of each prefill pass
        self.pages: int | None = None

    def block_logits(
        self, tokens: Int[Tensor, " n"], block_length: int, end: int | None = None
    ) -> Float[Tensor, "block vocab"]:
        """Logits of the block that ends at `end` (default: the canvas does), which sees the whole canvas."""
        end = len(tokens) if end is None else end
        here, own = self.positions[: len(tokens)], slice(end - block_length, end)
        context = (self.tokens[tokens] * here).mean(dim=0)
        hidden = torch.sin(3.0 * context + self.tokens[tokens[own]] + here[own])
        return self.sharpness * hidden @ self.readout

    def max_pages(self, block_length: int) -> int | None:
        return self.pages

    def open(self, num_pages: int, block_length: int, mask: int) -> "ToySession":
        return ToySession(self, num_pages, block_length, mask)


class ToySession:
    """Pages of one decode on a toy policy."""

    def __init__(self, policy: ToyPolicy, num_pages: int, block_length: int, mask: int) -> None:
        self.policy, self.block_length, self.mask = policy, block_length, mask
        self.pages = torch.full((num_pages + 1, block_length), -1)

    def forward(self, batch: Pass, num_active: int, record: bool) -> Outcome:
        if record:
            raise TypeError("ToyPolicy has no route_tape: its routes cannot be recorded")
        self.policy.rows_per_pass.append(num_active)
        self.policy.blocks_per_pass.append(len(batch.tokens))
        self._write(batch)
        blocks = []
        for entry in range(num_active):
            reach, end = int(batch.reach[entry, 0]), int(batch.positions[entry, -1]) + 1
            seen = self.pages[batch.table[entry, : reach // self.block_length]].flatten()
            assert (seen >= 0).all(), "a page is read that no forward filled"
            assert (seen[end - self.block_length : end] == batch.tokens[entry]).all()
            blocks.append(self.policy.block_logits(seen, self.block_length, end))
        return Outcome(DenseScores(torch.stack(blocks), self.mask), None)

    def prefill(self, batch: Pass) -> None:
        self.policy.prefilled.append(batch.write.numel())
        self._write(batch)

    def _write(self, batch: Pass) -> None:
        assert (batch.write > 0).all()
        assert len(set(batch.write.flatten().tolist())) == batch.write.numel(), "two entries write one page"
        assert (batch.positions[:, 0] % self.block_length == 0).all()
        self.pages[batch.write.flatten()] = batch.tokens.reshape(-1, self.block_length)
        for entry, (table, write) in enumerate(zip(batch.table, batch.write, strict=True)):
            first = int(batch.positions[entry, 0]) // self.block_length
            assert (table[first : first + len(write)] == write).all(), "an entry does not see its own keys"
