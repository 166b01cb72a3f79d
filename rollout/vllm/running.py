# pyright: reportMissingImports=false
"""From vLLM's view of the running requests to slots: which join, which left, and whose pages hold what.

vLLM's scheduler owns the pages and decides which requests run. The decoder owns the canvases. `RunningRequests`
follows the scheduler's decisions before every denoising step and reports the tokens of blocks that became final.

Guarantees:
    * A page counts as filled only if the present weights wrote it for the request that reads it or an earlier one.
      What vLLM's prefix cache remembers of older weights is run again, into the same page.
    * A request that was preempted goes on where it stood: its canvas stays here, only its keys are run again.
    * A completion is the one of the torch decoder, token for token; its `policy_version` is that of the oldest weights
      that took part.

Assumes:
    * vLLM never hands out page 0, and gives one page per block, in the order of positions.
    * A scheduled request has a page for its active block (`BlockScheduler` asks for it one token ahead).
    * Every finished or aborted request is named once in `finished_req_ids`.

Rejected alternatives:
    * To clear vLLM's prefix cache here after an update: the worker cannot, only the engine's process can.
    * To trust `num_computed_tokens` alone: it counts pages that older weights filled.
"""

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
"""The number of no update: the page holds nothing that may be read."""


@dataclass
class _Unfinished:
    """A request that is not finished.

    Attributes:
        slot: Of `Slots`, where it is decoded.
        request: What to complete.
        stops: Tokens that end it: the model's and its own.
        log_probs: True if it asked for log-probabilities.
        pages: In the order of positions.
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
        tokens: Of the completion; vLLM itself cuts those behind a stop token or the length limit.
        log_probs: Of each token, untempered, as its last action left it; empty if the request did not ask for them.
    """

    tokens: list[int]
    log_probs: list[float]


class RunningRequests:
    """The unfinished requests of a vLLM engine, and the completions of those that are done.

    Attributes:
        slots: Where the requests are decoded.
        version: Of the weights in place; the worker sets it.
    """

    def __init__(self, slots: Slots, options: WorkerOptions, num_pages: int, max_length: int) -> None:
        """Start empty.

        Args:
            slots: Decode the requests.
            options: The engine's settings.
            num_pages: Pages that vLLM knows, page 0 included.
            max_length: Most tokens of a request, prompt and completion.
        """
        self.slots, self.options, self.max_length = slots, options, max_length
        self.version = -1
        self._unfinished: dict[str, _Unfinished] = {}
        self._traces: OrderedDict[str, Completion] = OrderedDict()
        self._weights = NOTHING + 1  # counts updates
        self._filled_by = np.full(num_pages, NOTHING, dtype=np.int64)

    def step(self, scheduled: SchedulerOutput) -> dict[str, Emission]:
        """Take every scheduled request through one denoising step.

        Returns:
            What became final, by the request's id.
        """
        self._follow(scheduled)
        chosen = {request_id: self._unfinished[request_id] for request_id in scheduled.num_scheduled_tokens}
        for request_id, one in chosen.items():
            if len(one.pages) <= one.final:
                raise RuntimeError(f"request {request_id!r} has no page for its block {one.final}: wrong vLLM settings")
        if not chosen:
            return {}
        by_slot = {one.slot: request_id for request_id, one in chosen.items()}
        ended = self.slots.step(list(by_slot))
        return {by_slot[block.slot]: self._end_block(by_slot[block.slot], block) for block in ended}

    def forget_keys(self) -> None:
        """Forget what the pages hold: the weights are new, or the pages are."""
        self._weights += 1
        for one in self._unfinished.values():
            one.filled = 0
            self.slots.set_committed(one.slot, 0)

    def pop_traces(self, request_ids: Iterable[str]) -> dict[str, Completion]:
        """Hand out completions, under vLLM's internal ids, and forget them.

        Args:
            request_ids: Internal ids, or the ids that requests were made with.
        """
        wanted = set(request_ids)
        found = [name for name in self._traces if not wanted.isdisjoint(_names(name))]
        return {name: self._traces.pop(name) for name in found}

    def _follow(self, scheduled: SchedulerOutput) -> None:
        """Take over what the scheduler decided."""
        for request_id in scheduled.finished_req_ids:
            if (one := self._unfinished.pop(request_id, None)) is not None:  # it was aborted
                self.slots.release(one.slot)
        self._follow_pages(scheduled)
        # Only after the pages of all requests are known: a resumed request may be older than one that fills pages in
        # this very step, and slots promise the keys of such pages to younger requests only.
        for request_id in scheduled.num_scheduled_tokens:
            if request_id in self._unfinished:
                self._note_filled(self._unfinished[request_id])
        for new in scheduled.scheduled_new_reqs:
            if new.req_id not in self._unfinished:
                self._admit(new)

    def _follow_pages(self, scheduled: SchedulerOutput) -> None:
        """Give more pages to requests that go on, and other pages to those that come back after a preemption."""
        for new in scheduled.scheduled_new_reqs:
            # With vLLM's newer model runner, the scheduler lists a request that comes back among the new ones.
            if new.req_id in self._unfinished:
                self._resume(self._unfinished[new.req_id], new.block_ids[0], new.num_computed_tokens)
        cached = scheduled.scheduled_cached_reqs
        changes = zip(cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True)
        for request_id, pages, computed in changes:
            one = self._unfinished[request_id]
            if request_id in cached.resumed_req_ids:
                self._resume(one, pages[0] if pages else [], computed)
            elif pages:
                self._filled_by[pages[0]] = NOTHING
                one.pages += pages[0]
                self.slots.set_pages(one.slot, one.pages)

    def _admit(self, new: NewRequestData) -> None:
        if new.sampling_params is None or not new.prompt_token_ids:
            raise ValueError(f"request {new.req_id!r}: block diffusion takes token ids and SamplingParams only")
        params, pages = new.sampling_params, list(new.block_ids[0])
        request = to_request(new.req_id, new.prompt_token_ids, params, self.options, self.max_length)
        committed = self._trusted(pages, new.num_computed_tokens)
        slot = self.slots.admit(request, pages, committed)
        final = len(new.prompt_token_ids) // self.slots.block_length
        stops = stops_of(params, self.options)
        one = _Unfinished(slot, request, stops, params.logprobs is not None, pages, final, 0, self.version)
        self._unfinished[new.req_id] = one
        self._note_filled(one)

    def _resume(self, one: _Unfinished, pages: Sequence[int], computed: int) -> None:
        """Give other pages to a request that lost its own; its canvas and its denoising step are as they were."""
        one.pages, one.filled = list(pages), 0
        self.slots.set_pages(one.slot, one.pages)
        self.slots.set_committed(one.slot, self._trusted(one.pages, computed))

    def _trusted(self, pages: Sequence[int], computed: int) -> int:
        """Count the leading tokens whose pages vLLM found in its cache and the present weights filled.

        The pages behind them will be filled, so what they held before counts no more.
        """
        found = self._filled_by[list(pages[: computed // self.slots.block_length])]
        stale = np.flatnonzero(found != self._weights)
        trusted = int(stale[0]) if len(stale) else len(found)
        self._filled_by[list(pages[trusted:])] = NOTHING
        return trusted * self.slots.block_length

    def _note_filled(self, one: _Unfinished) -> None:
        """Note the pages that the coming pass fills: those of final blocks whose keys are missing."""
        if one.filled < one.final:
            self._filled_by[one.pages[one.filled : one.final]] = self._weights
            one.filled = one.final

    def _end_block(self, request_id: str, block: Ended) -> Emission:
        """Note a final block; a request that is done leaves its slot, and its completion waits to be fetched."""
        one = self._unfinished[request_id]
        one.final += 1
        done = block.done or not set(one.stops).isdisjoint(block.tokens)
        completion = self.slots.completion(block.slot) if done or one.log_probs else None
        log_probs = []
        if completion is not None and one.log_probs:
            log_probs = last_log_probs(completion)[-len(block.tokens) :]
        if completion is not None and done:
            limit = one.request.config.max_completion_length
            cut = Completion.cut(completion.prompt_id, completion.canvas_ids, limit, one.stops, completion.trace)
            self._keep(request_id, replace(cut, policy_version=one.version))
            self.slots.release(one.slot)
            del self._unfinished[request_id]
        return Emission(list(block.tokens), log_probs)

    def _keep(self, request_id: str, completion: Completion) -> None:
        self._traces[request_id] = completion
        while len(self._traces) > self.options.max_traces:
            self._traces.popitem(last=False)


def last_log_probs(completion: Completion) -> list[float]:
    """Return, per canvas position, nats of the token that stands there, untempered, at the last action on it."""
    trace = completion.trace
    last = dict(zip(trace.position, trace.log_prob_raw, strict=True))
    return [last[position] for position in range(len(completion.canvas_ids))]


def _names(request_id: str) -> set[str]:
    """List the names of a request: vLLM made `5-1a2b3c4d` of `5`, and `0_5-1a2b3c4d` of its first sample."""
    made_of, _, suffix = request_id.rpartition("-")
    stem = made_of if made_of and len(suffix) == 8 else request_id
    sample, _, rest = stem.partition("_")
    return {request_id, stem, rest if rest and sample.isdigit() else stem}
