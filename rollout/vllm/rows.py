# pyright: reportMissingImports=false
"""From vLLM's view of the running requests to slots: who joins, who left, whose pages hold what."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from vllm.v1.core.sched.output import NewRequestData, SchedulerOutput

from redraft.rollout.decoding.slots import Ended, Slots
from redraft.rollout.request import Request
from redraft.rollout.trajectory import Completion
from redraft.rollout.vllm.options import WorkerOptions
from redraft.rollout.vllm.request import stops_of, to_request

NOTHING: Final = 0
"""In place of the weights that filled a page."""


@dataclass
class _Row:
    """A request that is not finished.

    Attributes:
        slot: Where it is decoded.
        request: What it asks for.
        stops: Tokens that end it: the model's and its own.
        log_probs: They are asked for.
        pages: Its table.
        final: Blocks from position 0 on that are final.
        filled: Pages from position 0 on that are noted as filled.
        version: Of the oldest weights that took part.
    """

    slot: int
    request: Request
    stops: tuple[int, ...]
    log_probs: bool
    pages: list[int]
    final: int
    filled: int
    version: int


@dataclass(frozen=True)
class Emission:
    """Tokens of a block that became final.

    Attributes:
        tokens: Of the completion; behind a stop token or the length limit vLLM cuts them itself.
        log_probs: Of each, raw, as its last action left it; empty if they are not asked for.
    """

    tokens: list[int]
    log_probs: list[float]


class Rows:
    """The unfinished requests of a vLLM engine, and the completions of those that are done.

    A page counts as filled if the present weights wrote it: what vLLM's prefix cache remembers of older weights is run
    again, into the same page.
    """

    def __init__(self, slots: Slots, options: WorkerOptions, num_pages: int, max_length: int) -> None:
        """Starts empty.

        Args:
            slots: Decode the requests.
            options: The engine's settings.
            num_pages: Pages are numbered from 0 to one below.
            max_length: Tokens of a request that there is room for.
        """
        self.slots, self.options, self.max_length = slots, options, max_length
        self.version = -1
        self._rows: dict[str, _Row] = {}
        self._traces: OrderedDict[str, Completion] = OrderedDict()
        self._weights = NOTHING + 1  # counts updates
        self._filled_by = np.full(num_pages, NOTHING, dtype=np.int64)

    def step(self, scheduled: SchedulerOutput) -> dict[str, Emission]:
        """Takes every scheduled request through one denoising step.

        Returns:
            What became final, by request.
        """
        self._follow(scheduled)
        rows = {request_id: self._rows[request_id] for request_id in scheduled.num_scheduled_tokens}
        for request_id, row in rows.items():
            if len(row.pages) <= row.final:
                raise RuntimeError(f"request {request_id!r} has no page for its block {row.final}: wrong vLLM settings")
        if not rows:
            return {}
        by_slot = {row.slot: request_id for request_id, row in rows.items()}
        ended = self.slots.step(list(by_slot))
        return {by_slot[block.slot]: self._end_block(by_slot[block.slot], block) for block in ended}

    def forget_keys(self) -> None:
        """Says that what the pages hold is of no use any more: new weights, or new pages."""
        self._weights += 1
        for row in self._rows.values():
            row.filled = 0
            self.slots.set_committed(row.slot, 0)

    def pop_traces(self, request_ids: Iterable[str]) -> dict[str, Completion]:
        """Hands out completions, under vLLM's internal ids, and forgets them.

        Args:
            request_ids: Internal ids, or the ids that requests were made with.
        """
        wanted = set(request_ids)
        found = [name for name in self._traces if not wanted.isdisjoint(_names(name))]
        return {name: self._traces.pop(name) for name in found}

    def _follow(self, scheduled: SchedulerOutput) -> None:
        """Takes over what the scheduler decided."""
        for request_id in scheduled.finished_req_ids:
            if (row := self._rows.pop(request_id, None)) is not None:  # it was aborted
                self.slots.release(row.slot)
        self._follow_pages(scheduled)
        # Only now: resumed rows may be older than rows that fill pages in this very step, and slots promise the
        # keys of such pages to younger rows only.
        for request_id in scheduled.num_scheduled_tokens:
            if request_id in self._rows:
                self._note_filled(self._rows[request_id])
        for new in scheduled.scheduled_new_reqs:
            if new.req_id not in self._rows:
                self._admit(new)

    def _follow_pages(self, scheduled: SchedulerOutput) -> None:
        """More pages for rows that go on, and other pages for rows that come back after a preemption."""
        for new in scheduled.scheduled_new_reqs:
            if new.req_id in self._rows:  # so say the schedulers for vLLM's newer model runner that it comes back
                self._resume(self._rows[new.req_id], new.block_ids[0], new.num_computed_tokens)
        cached = scheduled.scheduled_cached_reqs
        changes = zip(cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True)
        for request_id, pages, computed in changes:
            row = self._rows[request_id]
            if request_id in cached.resumed_req_ids:
                self._resume(row, pages[0] if pages else [], computed)
            elif pages:
                self._filled_by[pages[0]] = NOTHING
                row.pages += pages[0]
                self.slots.set_pages(row.slot, row.pages)

    def _admit(self, new: NewRequestData) -> None:
        if new.sampling_params is None or not new.prompt_token_ids:
            raise ValueError(f"request {new.req_id!r}: block diffusion takes token ids and SamplingParams only")
        params, pages = new.sampling_params, list(new.block_ids[0])
        request = to_request(new.req_id, new.prompt_token_ids, params, self.options, self.max_length)
        committed = self._trusted(pages, new.num_computed_tokens)
        slot = self.slots.admit(request, pages, committed)
        final = len(new.prompt_token_ids) // self.slots.block_length
        stops = stops_of(params, self.options)
        row = _Row(slot, request, stops, params.logprobs is not None, pages, final, 0, self.version)
        self._rows[new.req_id] = row
        self._note_filled(row)

    def _resume(self, row: _Row, pages: Sequence[int], computed: int) -> None:
        """Other pages for a row that had to give its own away; its canvas and its step are as they were."""
        row.pages, row.filled = list(pages), 0
        self.slots.set_pages(row.slot, row.pages)
        self.slots.set_committed(row.slot, self._trusted(row.pages, computed))

    def _trusted(self, pages: Sequence[int], computed: int) -> int:
        """Tokens at the beginning of a row whose pages vLLM found in its cache, and the present weights filled.

        The pages behind them are to be filled, so that what they held before counts no more.
        """
        found = self._filled_by[list(pages[: computed // self.slots.block_length])]
        stale = np.flatnonzero(found != self._weights)
        trusted = int(stale[0]) if len(stale) else len(found)
        self._filled_by[list(pages[trusted:])] = NOTHING
        return trusted * self.slots.block_length

    def _note_filled(self, row: _Row) -> None:
        """The coming pass runs every final block of the row whose keys are missing."""
        if row.filled < row.final:
            self._filled_by[row.pages[row.filled : row.final]] = self._weights
            row.filled = row.final

    def _end_block(self, request_id: str, block: Ended) -> Emission:
        """Notes a final block; a row that is done leaves its slot, and its completion waits to be fetched."""
        row = self._rows[request_id]
        row.final += 1
        done = block.done or not set(row.stops).isdisjoint(block.tokens)
        completion = self.slots.completion(block.slot) if done or row.log_probs else None
        log_probs = []
        if completion is not None and row.log_probs:
            log_probs = last_log_probs(completion)[-len(block.tokens) :]
        if completion is not None and done:
            limit = row.request.config.max_completion_length
            cut = Completion.cut(completion.prompt_id, completion.canvas_ids, limit, row.stops, completion.trace)
            self._keep(request_id, replace(cut, policy_version=row.version))
            self.slots.release(row.slot)
            del self._rows[request_id]
        return Emission(list(block.tokens), log_probs)

    def _keep(self, request_id: str, completion: Completion) -> None:
        self._traces[request_id] = completion
        while len(self._traces) > self.options.max_traces:
            self._traces.popitem(last=False)


def last_log_probs(completion: Completion) -> list[float]:
    """Per canvas slot: nats of the token that stands there, untempered, at the last action on the slot."""
    trace = completion.trace
    last = dict(zip(trace.position, trace.log_prob_raw, strict=True))
    return [last[position] for position in range(len(completion.canvas_ids))]


def _names(request_id: str) -> set[str]:
    """What a request may be asked for by: vLLM made `5-1a2b3c4d` of `5`, and `0_5-1a2b3c4d` of its first sample."""
    made_of, _, suffix = request_id.rpartition("-")
    stem = made_of if made_of and len(suffix) == 8 else request_id
    sample, _, rest = stem.partition("_")
    return {request_id, stem, rest if rest and sample.isdigit() else stem}
