"""Keys and values of whole blocks in pages, per layer; a pass writes and reads many sequences at once."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class CacheShape(NamedTuple):
    """Sizes of the keys and values that a network keeps of every token."""

    layers: int
    heads: int
    head_dim: int

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        """Count the bytes of keys and values of a token in all layers."""
        return 2 * self.layers * self.heads * self.head_dim * dtype.itemsize


class PagedCache:
    """The pages of one decode session; page 0 takes what is never read."""

    def __init__(
        self, shape: CacheShape, num_pages: int, block_length: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Set memory aside for `num_pages` pages and page 0."""
        size = (shape.layers, num_pages + 1, block_length, 2, shape.heads, shape.head_dim)
        # Keys and values side by side, so that one copy moves both. Zeros, not empty memory: keys behind the mask still
        # enter the attention product, and 0 * nan is nan.
        self._pages = torch.zeros(size, dtype=dtype, device=device)
        self._write = self._table = torch.empty(0, dtype=torch.int64)

    def aim(self, write: Int[Tensor, "entries blocks"], table: Int[Tensor, "entries pages"]) -> None:
        """Set where the coming pass writes, and what each of its entries reads."""
        self._write, self._table = write, table

    def update(
        self, layer: int, key: Float[Tensor, "entries heads query dim"], value: Float[Tensor, "entries heads query dim"]
    ) -> tuple[Float[Tensor, "entries heads key dim"], Float[Tensor, "entries heads key dim"]]:
        """Write the pass's keys and values to their pages; return those of every entry's table, in order."""
        pages = self._pages[layer]
        fresh = torch.stack([key.transpose(1, 2), value.transpose(1, 2)], dim=2)
        pages.index_copy_(0, self._write.flatten(), fresh.view(-1, *pages.shape[1:]))
        read = pages.index_select(0, self._table.flatten()).view(len(self._table), -1, *pages.shape[2:])
        return read[:, :, 0].transpose(1, 2), read[:, :, 1].transpose(1, 2)
