"""Which page holds which block: a pool of pages of whole blocks, shared by requests whose prompts begin alike.

Host-side bookkeeping only; the keys and values themselves are in `rollout.engine.torch_engine`.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from redraft.rollout.blocks import num_blocks

SPARE_PAGE: Final = 0
"""The page that takes what is never read; it is not handed out."""


class _Prefix(NamedTuple):
    """A whole prompt block and everything before it: the page of the block before it, and the block's own tokens."""

    parent: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Lease:
    """Pages of one request.

    Attributes:
        pages: In the order of positions, from position 0 on.
        cached: Leading pages that an earlier request filled, or will fill before they are read.
    """

    pages: tuple[int, ...]
    cached: int


class Pages:
    """A pool of pages with reference counts.

    Pages of whole prompt blocks are found again by the tokens of all blocks up to theirs. They stay after their last
    request is gone, until the page is needed. The longest unused goes first; of one prompt, the last block goes first.
    """

    def __init__(self, num_pages: int, block_length: int) -> None:
        """Start with `num_pages` free pages, `SPARE_PAGE` not counted.

        Args:
            num_pages: Pages that can be handed out.
            block_length: Tokens per page.
        """
        self.num_pages, self.block_length = num_pages, block_length
        self._free = list(range(num_pages, SPARE_PAGE, -1))
        self._users = [0] * (num_pages + 1)
        self._page_of: dict[_Prefix, int] = {}
        self._prefix_of: dict[int, _Prefix] = {}
        self._unused: OrderedDict[int, None] = OrderedDict()  # shared pages without a user, the next to go first

    def acquire(self, prompt: Sequence[int], length: int) -> Lease | None:
        """Lease pages for a prompt and what follows it, `length` tokens in all; None if too few are free."""
        shared = self._shareable(prompt)
        cached = self._find(shared)
        wanted = num_blocks(length, self.block_length) - len(cached)
        idle = sum(1 for page in cached if not self._users[page])
        if wanted > len(self._free) + len(self._unused) - idle:
            return None
        for page in cached:
            self._use(page)
        fresh = [self._take() for _ in range(wanted)]
        pages = [*cached, *fresh]
        for index in range(len(cached), len(shared)):
            self._register(pages[index], _Prefix(pages[index - 1] if index else SPARE_PAGE, shared[index]))
        return Lease(tuple(pages), len(cached))

    def release(self, lease: Lease) -> None:
        """Give the pages of a request back."""
        # The last block first, so that it is the first to go: pages behind a missing block cannot be found again.
        for page in reversed(lease.pages):
            self._users[page] -= 1
            if self._users[page]:
                continue
            if page in self._prefix_of:
                self._unused[page] = None
            else:
                self._free.append(page)

    def _shareable(self, prompt: Sequence[int]) -> list[tuple[int, ...]]:
        """Cut a prompt into its whole blocks; the tokens behind them share a block with the completion."""
        size = self.block_length
        return [tuple(prompt[start : start + size]) for start in range(0, len(prompt) // size * size, size)]

    def _find(self, blocks: Sequence[tuple[int, ...]]) -> list[int]:
        found: list[int] = []
        for tokens in blocks:
            page = self._page_of.get(_Prefix(found[-1] if found else SPARE_PAGE, tokens))
            if page is None:
                break
            found.append(page)
        return found

    def _use(self, page: int) -> None:
        self._unused.pop(page, None)
        self._users[page] += 1

    def _take(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._unused.popitem(last=False)
            del self._page_of[self._prefix_of.pop(page)]
        self._users[page] = 1
        return page

    def _register(self, page: int, prefix: _Prefix) -> None:
        self._page_of[prefix] = page
        self._prefix_of[page] = prefix
