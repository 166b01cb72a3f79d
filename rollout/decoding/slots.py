"""Requests that are decoded together: each in a slot, on its own active block and its own denoising step.

A slot is a place in the batch: an index into the canvas, the page tables and the counters. Where every request stands
is known on the host (`Progress`), what its canvas holds is known on the device. A denoising step moves one small array
up (`upload`) and one down (`_flags`).

Guarantees:
    * A completion depends on its request alone: not on which requests share the batch, nor on their order.
    * Requests do not wait for each other. A request whose block is final is on its next block in the next forward.
    * No forward is spent on committing: the forward that opens the next block also writes the final keys of the block
      before it.
    * Prompt positions are never written. No mask is left in a block that is final.

Assumes:
    * The session keeps what a pass wrote into a page until another pass writes the same page.
    * A page that two requests share is filled by the one that was admitted first.
    * The caller leases enough pages for `Request.room` tokens, or calls `set_pages` before they are needed.

Rejected alternatives:
    * All requests on the same block number: the slowest block of a batch would hold up all others.
    * A commit forward of its own per final block: one forward more per block, for keys that the next forward can write.
    * Progress on the device: every decision of the host (who ends, who joins) would wait for a transfer of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from redraft.rollout.blocks import num_blocks
from redraft.rollout.decoding.editing import Step, StepRules, denoise
from redraft.rollout.decoding.layout import Numbers, lay_out, run_of_blocks, upload
from redraft.rollout.decoding.progress import Progress, StepFlags
from redraft.rollout.decoding.recording import ActionRecorder, BlockActions, SequenceRecord
from redraft.rollout.engine.pages import SPARE_PAGE
from redraft.rollout.engine.protocol import DecodeSession, Pass
from redraft.rollout.request import Request, name_requests
from redraft.rollout.sampling import seed_tensor, uniform
from redraft.rollout.trajectory import Completion, SpecialTokens

FUSED_BLOCKS: Final = 4
"""Most blocks that a request brings into a joint pass besides its active one. Each of them reads all keys again."""
PREFILL_BLOCKS: Final = 16
"""Blocks of one request in a pass of their own."""


@dataclass
class Work:
    """What was done.

    Attributes:
        passes: Joint forwards.
        sequence_steps: Denoising steps, summed over requests: a pass has as many as requests took part.
        prefills: Forwards that only filled pages.
    """

    passes: int = 0
    sequence_steps: int = 0
    prefills: int = 0

    def add(self, other: "Work") -> None:
        """Add what was done elsewhere."""
        self.passes += other.passes
        self.sequence_steps += other.sequence_steps
        self.prefills += other.prefills


class Ended(NamedTuple):
    """A block that became final.

    Attributes:
        slot: Of its request.
        tokens: What it holds of the completion.
        done: It is the request's last block: a stop token is in it, or the length limit is reached.
    """

    slot: int
    tokens: tuple[int, ...]
    done: bool


@dataclass
class _Running:
    """The part of an admitted request that no denoising step needs.

    Attributes:
        request: What to complete.
        order: How many requests were admitted before it.
        record: Its actions in final blocks.
        canvas: Prompt and final blocks; masks behind them.
    """

    request: Request
    order: int
    record: SequenceRecord
    canvas: NDArray[np.int64]


class Slots:
    """The slots of one decoder, and the requests in them.

    Attributes:
        running: The admitted requests by slot.
        progress: Where they stand.
        work: What was done for them so far.
    """

    def __init__(
        self,
        session: DecodeSession,
        device: torch.device,
        tokens: SpecialTokens,
        *,
        block_length: int,
        num_slots: int,
        length: int,
    ) -> None:
        """Start with empty slots.

        Args:
            session: Runs the passes.
            device: Of the session.
            tokens: Mask, pad and stop ids.
            block_length: Tokens per block.
            num_slots: Requests at a time.
            length: Tokens of the longest request, prompt and completion, in whole blocks.
        """
        self.session, self.device, self.tokens = session, device, tokens
        self.block_length = block_length
        self.running: dict[int, _Running] = {}
        self.work = Work()
        self.progress = Progress(num_slots, block_length)
        self._admitted = 0
        self._free = list(range(num_slots - 1, -1, -1))
        self._recorded = np.zeros(num_slots, dtype=np.bool_)
        # The last column holds the spare page of a request with an editing window, see `lay_out`.
        self._tables = np.full((num_slots, num_blocks(length, block_length) + 1), SPARE_PAGE, dtype=np.int64)
        self._canvas = torch.full((num_slots, length), tokens.pad, device=device)
        self._seed = seed_tensor([0] * num_slots, device)
        self._stops = np.array(tokens.stops, dtype=np.int64)
        self._recorder = ActionRecorder(num_slots, block_length)
        self._rules: tuple[list[int], StepRules] | None = None  # those of the last step, and its slots

    @property
    def num_free(self) -> int:
        """Slots without a request."""
        return len(self._free)

    @torch.inference_mode()
    def admit(self, request: Request, pages: Sequence[int], committed: int) -> int:
        """Give a request a slot.

        Args:
            request: What to complete.
            pages: Its pages in the order of positions.
            committed: Tokens, in whole blocks, whose pages are filled, or will be by requests admitted earlier.

        Returns:
            The slot.
        """
        slot, config, prompt = self._free.pop(), request.config, request.prompt.token_ids
        canvas = np.full(request.length, self.tokens.mask, dtype=np.int64)
        canvas[: len(prompt)] = prompt
        self.running[slot] = _Running(request, self._admitted, SequenceRecord(), canvas)
        self._admitted += 1
        self._canvas[slot, : len(canvas)] = torch.from_numpy(canvas).to(self.device)
        self._seed[slot] = seed_tensor([request.prompt.seed], self.device)[0]
        self.progress.start(slot, request, committed)
        self._recorded[slot] = config.record_routes
        self.set_pages(slot, pages)
        # A forward with masks in its input fills at least one, so a block takes at most `block_length` of those. Those
        # without are limited by `post_steps`; a block that has no mask at all takes one.
        self._recorder.reserve(self.block_length + max(config.post_steps, 1))
        self._rules = None
        return slot

    def set_pages(self, slot: int, pages: Sequence[int]) -> None:
        """Change the pages of a request: more of them, or others after it had to give its own away."""
        if self.running[slot].request.config.editing_window > 1:
            *pages, self._tables[slot, -1] = pages
        self._tables[slot, : len(pages)] = pages

    def set_committed(self, slot: int, committed: int) -> None:
        """Trust only the pages of the first `committed` tokens of a request; the blocks behind them are run again."""
        self.progress.committed[slot] = committed

    @torch.inference_mode()
    def step(self, slots: Sequence[int] | None = None) -> list[Ended]:
        """Take requests through one forward and one denoising step.

        Args:
            slots: Of the requests; all of them when None.

        Returns:
            The blocks that became final.
        """
        chosen = sorted(self.running) if slots is None else sorted(slots)
        index = np.array(chosen, dtype=np.int64)
        while self.prefill(chosen):
            pass
        self.work.add(Work(passes=1, sequence_steps=len(index)))
        flags = self._forward(index, self._rules_of(chosen))
        final = self.progress.take_step(index, flags)
        return self._end_blocks(index[final].tolist())

    @torch.inference_mode()
    def prefill(self, slots: Sequence[int] | None = None) -> bool:
        """Run blocks without final keys in a pass of their own, if a request has many of them.

        A request may wait for pages that an earlier one fills, so the earliest goes first. What is left, up to
        `FUSED_BLOCKS` blocks per request, joins the next step.

        Args:
            slots: Of the requests; all of them when None.

        Returns:
            False if no request has that many, so that nothing was run.
        """
        index = np.array(sorted(self.running) if slots is None else slots, dtype=np.int64)
        begin, end = self.progress.place(index).pending(self.block_length)
        if ((end - begin) <= FUSED_BLOCKS * self.block_length).all():
            return False
        waiting = np.flatnonzero(end > begin).tolist()
        first = min(waiting, key=lambda entry: self.running[int(index[entry])].order)
        slot, start = int(index[first]), int(begin[first])
        stop = min(start + PREFILL_BLOCKS * self.block_length, int(end[first]))
        batch = run_of_blocks(self._canvas[slot], start, stop, self._tables[slot], self.block_length)
        self.session.prefill(batch)
        self.work.prefills += 1
        self.progress.committed[slot] = stop
        return True

    def names(self) -> str:
        """Name the requests in the slots, for errors."""
        return name_requests(one.request for one in self.running.values())

    def completion(self, slot: int) -> Completion:
        """Return what a request has completed, up to its last final block."""
        one = self.running[slot]
        prompt, config = one.request.prompt, one.request.config
        generated = tuple(one.canvas[len(prompt.token_ids) : self.progress.active[slot]].tolist())
        trace = one.record.trace(self.tokens.mask, int(self.progress.forwards[slot]))
        return Completion.cut(prompt.id, generated, config.max_completion_length, self.tokens.stops, trace)

    def release(self, slot: int) -> None:
        """Make room for another request."""
        del self.running[slot]
        self._free.append(slot)
        self._rules = None

    def _forward(self, index: Numbers, rules: StepRules) -> StepFlags:
        """Run one pass over the requests in some slots, and take one denoising step in each active block."""
        progress, layout = self.progress, lay_out(self.progress.place(index), self._tables[index], self.block_length)
        columns = [index, progress.forwards[index], progress.age[index], progress.prompt[index]]
        columns += [index[layout.owner], layout.start, layout.reach, layout.write, layout.table]
        slots, forwards, ages, prompt_length, owner, start, reach, write, table = upload(columns, self.device)
        positions = start[:, None] + torch.arange(self.block_length, device=self.device)
        tokens = self._canvas[owner[:, None], positions]
        batch = Pass(tokens, positions, write[:, None], table, reach[:, None])
        outcome = self.session.forward(batch, len(index), bool(self._recorded[index].any()))

        # The first entries of the pass are the active blocks, one per request.
        before, positions = tokens[: len(index)], positions[: len(index)]
        prompt = positions < prompt_length[:, None]
        masked = (before == self.tokens.mask) & ~prompt
        if rules.any_draw:
            noise = uniform(self._seed[slots], forwards, positions)
        else:
            noise = torch.zeros_like(positions).double()
        try:
            step = denoise(before, masked, prompt, outcome.scores, noise, rules)
        except FloatingPointError as error:
            error.add_note(f"in {self.names()}")
            raise
        self._canvas[slots[:, None], positions] = step.tokens
        self._recorder.note(slots, ages, before, step, outcome.routes)
        return _flags(before, masked, step)

    def _end_blocks(self, slots: list[int]) -> list[Ended]:
        """Take the results of final blocks, and move their requests on."""
        if not slots:
            return []
        ages, starts = self.progress.age[slots].tolist(), self.progress.active[slots]
        index, start = upload([np.array(slots, dtype=np.int64), starts], self.device)
        tokens = self._canvas[index[:, None], start[:, None] + torch.arange(self.block_length, device=self.device)]
        ended = []
        for slot, block, taken in zip(slots, tokens.cpu().numpy(), self._recorder.take(slots, ages), strict=True):
            self._keep(slot, block, *taken)
            if self.progress.end_block(slot, self.running[slot].request.config.editing_window):
                ended.append(self._ended(slot))
        return ended

    def _keep(self, slot: int, block: Numbers, actions: BlockActions, routes: NDArray[np.int16] | None) -> None:
        """Add a final block to the canvas and the record of its request."""
        one, progress, start = self.running[slot], self.progress, int(self.progress.active[slot])
        one.canvas[start : start + self.block_length] = block
        before = int(progress.forwards[slot] - progress.age[slot])
        one.record.add(actions, routes if self._recorded[slot] else None, before, start - int(progress.prompt[slot]))

    def _ended(self, slot: int) -> Ended:
        """Describe the newest block.

        Its whole window may have been edited, so stop tokens are looked for in all of the window.
        """
        one, end, begin = self.running[slot], int(self.progress.frontier[slot]), int(self.progress.prompt[slot])
        newest = max(begin, end - self.block_length)
        window = max(begin, end - one.request.config.editing_window * self.block_length)
        stopped = bool(np.isin(one.canvas[window:end], self._stops).any())
        return Ended(slot, tuple(one.canvas[newest:end].tolist()), stopped or end >= int(self.progress.end[slot]))

    def _rules_of(self, slots: list[int]) -> StepRules:
        """Return the decision rules of some requests; they are made again only when the requests change."""
        if self._rules is None or self._rules[0] != slots:
            configs = [self.running[slot].request.config for slot in slots]
            self._rules = slots, StepRules.from_configs(configs, self.device)
        return self._rules[1]


def _flags(before: Int[Tensor, "sequences block"], masked: Bool[Tensor, "sequences block"], step: Step) -> StepFlags:
    """Reduce a step to what the host must know of it, in one transfer."""
    changed = (step.tokens != before).any(dim=-1)
    flags = torch.stack([changed, ~masked.any(dim=-1), (masked & ~step.unmasked).any(dim=-1)])
    return StepFlags(*flags.cpu().numpy())
