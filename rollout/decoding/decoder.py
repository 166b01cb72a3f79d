"""The editing decoder: a queue of requests, and slots that are filled again as soon as a completion is done.

Guarantees:
    * Every prompt gets exactly one completion, the same whatever else is decoded beside it.
    * After memory ran out once, decoding goes on with half as many slots; what was unfinished starts again.
    * Keys of other weights are never read: pages are kept between calls, what is in them only for equal versions.
    * A reader may leave a stream before its end; pages and slots are given back.

Assumes:
    * The policy is seen through `rollout.engine.protocol.Engine` only, and does not change during a call.
    * `version` names the weights: equal versions mean equal weights.

Rejected alternatives:
    * Batches that start and end together: the longest completion of a batch would hold up all slots.
    * Keeping half-finished requests after a failed forward: its pages may hold anything, and seeds make a second run
      the same.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

import torch

from redraft.rollout.blocks import num_blocks
from redraft.rollout.config import DecodeConfig
from redraft.rollout.decoding.slots import Slots, Work
from redraft.rollout.engine.pages import Lease, Pages
from redraft.rollout.engine.protocol import DecodeSession, Engine
from redraft.rollout.request import Request, make_requests
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens
from redraft.rollout.watchdog import Watchdog

logger = logging.getLogger(__name__)

_SHARED_FIELDS = ("block_length", "record_routes")


Waiting = deque[tuple[int, Request]]


@dataclass(frozen=True)
class _Memory:
    """Pages, and the version of the weights that filled them; None if the caller named no version."""

    version: int | None
    session: DecodeSession
    pages: Pages


class Decoder:
    """Decode any number of requests, some of them at a time.

    Attributes:
        slots: Requests at a time; halved when memory runs out.
        work: What was done, over all calls.
    """

    def __init__(
        self, engine: Engine, tokens: SpecialTokens, slots: int = 64, step_timeout_s: float | None = None
    ) -> None:
        """Take no memory yet.

        Args:
            engine: The policy.
            tokens: Mask, pad and stop ids.
            slots: Requests decoded at a time.
            step_timeout_s: Longest wait for one forward. None waits without a deadline.

        Raises:
            ValueError: `slots` is less than 1, or a token is not in the policy's vocabulary.
        """
        if slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        for name, token in [("mask", tokens.mask), ("pad", tokens.pad), *(("stop", stop) for stop in tokens.stops)]:
            if not 0 <= token < engine.vocab_size:
                raise ValueError(f"{name} token id must be in 0 to {engine.vocab_size - 1}, got {token}")
        self.engine, self.tokens, self.slots = engine, tokens, slots
        self.work = Work()
        self._watchdog = Watchdog(step_timeout_s)
        self._memory: _Memory | None = None
        self._halved = False
        self._in_use = slots  # of the last call

    def stream(
        self, prompts: Sequence[Prompt], config: DecodeConfig | Sequence[DecodeConfig], version: int | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """Complete every prompt; a completion depends neither on which prompts share its batch nor on their order.

        Args:
            prompts: Requests, of any lengths.
            config: One for all, or one per prompt; these may differ in all but `block_length` and `record_routes`.
            version: Of the policy's weights. With a version, keys are kept for later calls that name the same one.

        Yields:
            The index of a prompt and its completion, as soon as that one is done.

        Raises:
            ValueError: A request does not fit the policy, or the configs do not go together.
            TypeError: Routes are asked of a policy that has none to record.
            FloatingPointError: The policy's logits are not finite.
            StepTimeout: A forward does not end.
        """
        waiting: Waiting = deque(enumerate(_requests(prompts, config)))
        for _, request in waiting:
            self._check(request)
        while waiting:
            try:
                yield from self._run(waiting, version)
                continue
            except (RuntimeError, MemoryError) as error:
                self._halve(error)
            # Outside of the handler the error is gone, and with it the memory that its traceback held.
            if self.engine.device.type == "cuda":
                torch.cuda.empty_cache()

    def give_back(self) -> None:
        """Give pages and graphs back; the next call takes new ones. No stream may be open."""
        self._memory = None

    def close(self) -> None:
        """Give the memory back."""
        self.give_back()
        self._watchdog.close()

    def _run(self, waiting: Waiting, version: int | None) -> Iterator[tuple[int, Completion]]:
        """Decode until nothing waits. What is unfinished when a forward fails waits again: seeds make it the same."""
        memory = self._take_memory(waiting, version)
        slots = self._make_slots(waiting, memory.session)
        running: dict[int, tuple[int, Request, Lease]] = {}
        # False while a forward runs: one that fails may leave anything in the pages, which are then not kept.
        sound = True
        try:
            while waiting or running:
                sound = False
                while waiting and slots.num_free and (lease := _lease(memory.pages, waiting[0][1])):
                    index, request = waiting[0]
                    slot = slots.admit(request, lease.pages, lease.cached * slots.block_length)
                    running[slot] = index, request, lease
                    waiting.popleft()
                while self._watchdog.run(slots.prefill, lambda: f"a forward of {slots.names()}"):
                    pass
                ended = self._watchdog.run(slots.step, lambda: f"a forward of {slots.names()}")
                sound = True
                for slot in [block.slot for block in ended if block.done]:
                    index, _, lease = running.pop(slot)
                    completion = slots.completion(slot)
                    slots.release(slot)
                    memory.pages.release(lease)
                    yield index, completion
        finally:  # reached too when the reader leaves before the end
            self.work.add(slots.work)
            waiting.extendleft(
                (index, request) for index, request, _ in sorted(running.values(), key=itemgetter(0), reverse=True)
            )
            if sound:
                for _, _, lease in running.values():
                    memory.pages.release(lease)
                self._memory = memory

    def _take_memory(self, waiting: Waiting, version: int | None) -> _Memory:
        """Return pages: those of an earlier call if they suffice, with their keys if the weights are the same."""
        block_length = waiting[0][1].config.block_length
        rooms = sorted((request.room for _, request in waiting), reverse=True)
        wanted = sum(num_blocks(room, block_length) for room in rooms[: self.slots])
        most = self.engine.max_pages(block_length)
        num_pages = wanted if most is None else min(wanted, most)
        kept, self._memory = self._memory, None
        if kept is None or kept.pages.block_length != block_length or kept.pages.num_pages < num_pages:
            kept = None  # frees its memory before more is taken
            session = self.engine.open(num_pages, block_length, self.tokens.mask)
        elif kept.version == version is not None:
            return kept
        else:
            session, num_pages = kept.session, kept.pages.num_pages
        return _Memory(version, session, Pages(num_pages, block_length))

    def _make_slots(self, waiting: Waiting, session: DecodeSession) -> Slots:
        length = max(request.length for _, request in waiting)
        self._in_use = min(self.slots, len(waiting))
        block_length = waiting[0][1].config.block_length
        return Slots(
            session,
            self.engine.device,
            self.tokens,
            block_length=block_length,
            num_slots=self._in_use,
            length=length,
        )

    def _halve(self, error: RuntimeError | MemoryError) -> None:
        """Go on with half the slots after memory ran out for the first time.

        Raises:
            RuntimeError: The error is another one, or memory ran out before.
        """
        if not _is_out_of_memory(error):
            raise error
        if self._halved or self._in_use == 1:
            error.add_note(f"decoding ran out of memory with {self._in_use} requests at a time; use fewer slots")
            raise error
        self._halved, self.slots = True, self._in_use // 2
        logger.warning("out of memory; going on with %d slots instead of %d", self.slots, self._in_use)

    def _check(self, request: Request) -> None:
        request.check(self.engine.max_length, self.engine.vocab_size)
        size = request.config.block_length
        most = self.engine.max_pages(size)
        if most is not None and num_blocks(request.room, size) > most:
            raise ValueError(
                f"{request}; it needs {request.room} tokens of cache, but there is memory for {most * size}: set more"
                " memory aside for keys and values"
            )


def _lease(pages: Pages, request: Request) -> Lease | None:
    return pages.acquire(request.prompt.token_ids, request.room)


def _requests(prompts: Sequence[Prompt], config: DecodeConfig | Sequence[DecodeConfig]) -> list[Request]:
    requests = make_requests(prompts, config)
    for name in _SHARED_FIELDS:
        values = sorted({getattr(request.config, name) for request in requests})
        if len(values) > 1:
            raise ValueError(f"{name} must be the same for all prompts of one decode, got {values}")
    return requests


def _is_out_of_memory(error: BaseException) -> bool:
    """Recognise it on the CPU too, where torch raises a plain RuntimeError."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
