"""S active blocks decoded together: each row on its own block and its own denoising step.

Where rows are is known on the host, what they say is on the device; a step moves one small array each way. Rows do not
wait for each other: a row whose block is final is on its next block in the next forward, which also gives the final
block its keys, so no forward is spent on committing.
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
from redraft.rollout.decoding.recording import BlockActions, Recorder, RowRecord
from redraft.rollout.engine.pages import SPARE_PAGE
from redraft.rollout.engine.protocol import DecodeSession, Pass
from redraft.rollout.request import Request, name_requests
from redraft.rollout.sampling import seed_tensor, uniform
from redraft.rollout.trajectory import Completion, SpecialTokens

FUSED_BLOCKS: Final = 4  # most blocks that a row brings into a joint pass besides its active one; each reads all keys
PREFILL_BLOCKS: Final = 16  # blocks of one row in a pass of their own


@dataclass
class Work:
    """What was done.

    Attributes:
        passes: Joint forwards.
        row_steps: Denoising steps, summed over rows: a pass has as many as rows took part.
        prefills: Forwards that only filled pages.
    """

    passes: int = 0
    row_steps: int = 0
    prefills: int = 0

    def add(self, other: "Work") -> None:
        """Sums up."""
        self.passes += other.passes
        self.row_steps += other.row_steps
        self.prefills += other.prefills


class Ended(NamedTuple):
    """A block that became final.

    Attributes:
        slot: Of its row.
        tokens: What it holds of the completion.
        done: It is the row's last: a stop token is in it, or the length limit is reached.
    """

    slot: int
    tokens: tuple[int, ...]
    done: bool


@dataclass
class _Row:
    """What a step does not need of a row."""

    request: Request
    order: int
    record: RowRecord
    canvas: NDArray[np.int64]


class Slots:
    """Rows that are decoded together."""

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
        """Starts with empty slots.

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
        self.rows: dict[int, _Row] = {}
        self.work = Work()
        self._admitted = 0
        self._free = list(range(num_slots - 1, -1, -1))
        self._recorded = np.zeros(num_slots, dtype=np.bool_)
        # In the last column a row's spare page, see `lay_out`.
        self._tables = np.full((num_slots, num_blocks(length, block_length) + 1), SPARE_PAGE, dtype=np.int64)
        self._canvas = torch.full((num_slots, length), tokens.pad, device=device)
        self._seed = seed_tensor([0] * num_slots, device)
        self._stops = np.array(tokens.stops, dtype=np.int64)
        self._recorder = Recorder(num_slots, block_length)
        self._rules: tuple[list[int], StepRules] | None = None
        self.progress = Progress(num_slots, block_length)

    @property
    def num_free(self) -> int:
        """Slots without a row."""
        return len(self._free)

    @torch.inference_mode()
    def admit(self, request: Request, pages: Sequence[int], committed: int) -> int:
        """Gives a request a slot.

        Args:
            request: What to complete.
            pages: Its pages in the order of positions.
            committed: Tokens, in whole blocks, whose pages are filled, or will be by rows admitted earlier.
        """
        slot, config, prompt = self._free.pop(), request.config, request.prompt.token_ids
        canvas = np.full(request.length, self.tokens.mask, dtype=np.int64)
        canvas[: len(prompt)] = prompt
        self.rows[slot] = _Row(request, self._admitted, RowRecord(), canvas)
        self._admitted += 1
        self._canvas[slot, : len(canvas)] = torch.from_numpy(canvas).to(self.device)
        self._seed[slot] = seed_tensor([request.prompt.seed], self.device)[0]
        self.progress.start(slot, request, committed)
        self._recorded[slot] = config.record_routes
        self.set_pages(slot, pages)
        # With masks in its input every forward fills one; those without are counted.
        self._recorder.reserve(self.block_length + max(config.post_steps, 1))
        self._rules = None
        return slot

    def set_pages(self, slot: int, pages: Sequence[int]) -> None:
        """Changes the pages of a row: more of them, or others after it had to give its own away."""
        if self.rows[slot].request.config.editing_window > 1:
            *pages, self._tables[slot, -1] = pages
        self._tables[slot, : len(pages)] = pages

    def set_committed(self, slot: int, committed: int) -> None:
        """Says that only the pages of the first `committed` tokens of a row are filled; the others are run again."""
        self.progress.committed[slot] = committed

    @torch.inference_mode()
    def step(self, slots: Sequence[int] | None = None) -> list[Ended]:
        """Takes rows through one forward and one denoising step.

        Args:
            slots: Of the rows; all of them when None.

        Returns:
            The blocks that became final.
        """
        chosen = sorted(self.rows) if slots is None else sorted(slots)
        rows = np.array(chosen, dtype=np.int64)
        while self.prefill(chosen):
            pass
        self.work.add(Work(passes=1, row_steps=len(rows)))
        final = self.progress.take_step(rows, self._forward(rows, self._rules_of(chosen)))
        return self._end_blocks(rows[final].tolist())

    def names(self) -> str:
        """Names the requests in the slots, for errors."""
        return name_requests(row.request for row in self.rows.values())

    def completion(self, slot: int) -> Completion:
        """The completion of a row that is done."""
        row = self.rows[slot]
        prompt, config = row.request.prompt, row.request.config
        generated = tuple(row.canvas[len(prompt.token_ids) : self.progress.active[slot]].tolist())
        trace = row.record.trace(self.tokens.mask, int(self.progress.forwards[slot]))
        return Completion.cut(prompt.id, generated, config.max_completion_length, self.tokens.stops, trace)

    def release(self, slot: int) -> None:
        """Makes room for another request."""
        del self.rows[slot]
        self._free.append(slot)
        self._rules = None

    def _forward(self, rows: Numbers, rules: StepRules) -> StepFlags:
        """One pass and one step."""
        progress, layout = self.progress, lay_out(self.progress.place(rows), self._tables[rows], self.block_length)
        columns = [rows, progress.forwards[rows], progress.age[rows], progress.prompt[rows]]
        columns += [rows[layout.owner], layout.start, layout.reach, layout.write, layout.table]
        slots, forwards, ages, prompt_length, owner, start, reach, write, table = upload(columns, self.device)
        positions = start[:, None] + torch.arange(self.block_length, device=self.device)
        tokens = self._canvas[owner[:, None], positions]
        batch = Pass(tokens, positions, write[:, None], table, reach[:, None])
        outcome = self.session.forward(batch, len(rows), bool(self._recorded[rows].any()))

        before, positions = tokens[: len(rows)], positions[: len(rows)]
        prompt = positions < prompt_length[:, None]
        masked = (before == self.tokens.mask) & ~prompt
        noise = (
            uniform(self._seed[slots], forwards, positions) if rules.any_draw else torch.zeros_like(positions).double()
        )
        try:
            step = denoise(before, masked, prompt, outcome.scores, noise, rules)
        except FloatingPointError as error:
            error.add_note(f"in {self.names()}")
            raise
        self._canvas[slots[:, None], positions] = step.tokens
        self._recorder.note(slots, ages, before, step, outcome.routes)
        return _flags(before, masked, step)

    def _end_blocks(self, slots: list[int]) -> list[Ended]:
        """Takes the results of final blocks, and moves their rows on."""
        if not slots:
            return []
        ages, starts = self.progress.age[slots].tolist(), self.progress.active[slots]
        index, start = upload([np.array(slots, dtype=np.int64), starts], self.device)
        tokens = self._canvas[index[:, None], start[:, None] + torch.arange(self.block_length, device=self.device)]
        ended = []
        for slot, block, taken in zip(slots, tokens.cpu().numpy(), self._recorder.take(slots, ages), strict=True):
            self._keep(slot, block, *taken)
            if self.progress.end_block(slot, self.rows[slot].request.config.editing_window):
                ended.append(self._ended(slot))
        return ended

    def _keep(self, slot: int, block: Numbers, actions: BlockActions, routes: NDArray[np.int16] | None) -> None:
        """Adds a final block to what is known of its row."""
        row, progress, start = self.rows[slot], self.progress, int(self.progress.active[slot])
        row.canvas[start : start + self.block_length] = block
        before = int(progress.forwards[slot] - progress.age[slot])
        row.record.add(actions, routes if self._recorded[slot] else None, before, start - int(progress.prompt[slot]))

    def _ended(self, slot: int) -> Ended:
        """The newest block; its window may have been edited, so stop tokens are looked for in all of it."""
        row, end, begin = self.rows[slot], int(self.progress.frontier[slot]), int(self.progress.prompt[slot])
        newest = max(begin, end - self.block_length)
        window = max(begin, end - row.request.config.editing_window * self.block_length)
        stopped = bool(np.isin(row.canvas[window:end], self._stops).any())
        return Ended(slot, tuple(row.canvas[newest:end].tolist()), stopped or end >= int(self.progress.end[slot]))

    @torch.inference_mode()
    def prefill(self, slots: Sequence[int] | None = None) -> bool:
        """Runs blocks without final keys in a pass of their own, if a row has many of them: longer runs at a time.

        Rows may wait for pages that rows admitted before them fill, so that those come first. False if there is no
        such row: the next step takes the rest along.

        Args:
            slots: Of the rows; all of them when None.
        """
        rows = np.array(sorted(self.rows) if slots is None else slots, dtype=np.int64)
        begin, end = self.progress.place(rows).pending(self.block_length)
        if ((end - begin) <= FUSED_BLOCKS * self.block_length).all():
            return False
        waiting = np.flatnonzero(end > begin).tolist()
        first = min(waiting, key=lambda index: self.rows[int(rows[index])].order)
        slot, start = int(rows[first]), int(begin[first])
        stop = min(start + PREFILL_BLOCKS * self.block_length, int(end[first]))
        batch = run_of_blocks(self._canvas[slot], start, stop, self._tables[slot], self.block_length)
        self.session.prefill(batch)
        self.work.prefills += 1
        self.progress.committed[slot] = stop
        return True

    def _rules_of(self, slots: list[int]) -> StepRules:
        if self._rules is None or self._rules[0] != slots:
            configs = [self.rows[slot].request.config for slot in slots]
            self._rules = slots, StepRules.from_configs(configs, self.device)
        return self._rules[1]


def _flags(before: Int[Tensor, "rows block"], masked: Bool[Tensor, "rows block"], step: Step) -> StepFlags:
    """What the host must know of a step, in one transfer."""
    changed = (step.tokens != before).any(dim=-1)
    flags = torch.stack([changed, ~masked.any(dim=-1), (masked & ~step.unmasked).any(dim=-1)])
    return StepFlags(*flags.cpu().numpy())
