"""The editing decoder: denoises the active block of every row until all rows are done.

Each row moves at its own pace, on its own block and step, and leaves the batch when it is done. The decoder sees the
policy only through `rollout.engine.Engine`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from rollout.blocks import padded_length
from rollout.config import DecodeConfig
from rollout.editing import Step, StepRules, denoise, suppress_mask_
from rollout.engine import DecodeSession, Engine, RecordingEngine
from rollout.sampling import seed_tensor, uniform
from rollout.trajectory import Completion, DecodeTrace, Prompt, SpecialTokens

__all__ = ["SpecialTokens", "decode"]

_SHARED_FIELDS = (
    "block_length",
    "temperature",
    "top_k",
    "top_p",
    "edit_sampling",
    "unmask_confidence",
    "unmask_fallback",
    "record_routes",
)


@torch.inference_mode()
def decode(
    engine: Engine,
    prompts: Sequence[Prompt],
    config: DecodeConfig | Sequence[DecodeConfig],
    tokens: SpecialTokens,
    max_rows: int | None = None,
) -> list[Completion]:
    """Completes every prompt; a completion does not depend on which prompts share its batch.

    Args:
        engine: The policy.
        prompts: Requests, of any lengths.
        config: One for all, or one per prompt; these may differ in thresholds, `max_post_steps` and
            `max_completion_length` only.
        tokens: Mask, pad and stop ids.
        max_rows: Rows decoded at a time; None decodes all at once.

    Returns:
        The completions, in the order of the prompts.

    Raises:
        ValueError: If a request does not fit the policy, or the configs do not go together.
        TypeError: If routes are asked of a policy that has none to record.
        FloatingPointError: If the policy's logits are not finite.
    """
    configs = _one_config_per_prompt(prompts, config)
    _check_vocabulary(engine, tokens)
    for prompt, own in zip(prompts, configs, strict=True):
        _check_prompt(engine, prompt, own)
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows must be at least 1, got {max_rows}; use None for no limit")
    size = max_rows or max(len(prompts), 1)
    completions: list[Completion] = []
    for begin in range(0, len(prompts), size):
        batch = _Batch(engine.device, prompts[begin : begin + size], configs[begin : begin + size], tokens)
        completions += batch.run(engine)
    return completions


def _one_config_per_prompt(
    prompts: Sequence[Prompt], config: DecodeConfig | Sequence[DecodeConfig]
) -> Sequence[DecodeConfig]:
    if isinstance(config, DecodeConfig):
        return [config] * len(prompts)
    if len(config) != len(prompts):
        raise ValueError(f"got {len(config)} decode configs for {len(prompts)} prompts; give one, or one per prompt")
    for name in _SHARED_FIELDS:
        values = sorted({getattr(own, name) for own in config})
        if len(values) > 1:
            raise ValueError(f"{name} must be the same for all prompts of one decode, got {values}")
    return config


def _check_vocabulary(engine: Engine, tokens: SpecialTokens) -> None:
    for name, token in [("mask", tokens.mask), ("pad", tokens.pad), *(("stop", stop) for stop in tokens.stops)]:
        if not 0 <= token < engine.vocab_size:
            raise ValueError(f"{name} token id must be in 0 to {engine.vocab_size - 1}, got {token}")


def _check_prompt(engine: Engine, prompt: Prompt, config: DecodeConfig) -> None:
    length = padded_length(len(prompt.token_ids) + config.max_completion_length, config.block_length)
    if length > engine.max_length:
        raise ValueError(
            f"prompt {prompt.id!r} has {len(prompt.token_ids)} tokens; with max_completion_length "
            f"{config.max_completion_length}, in whole blocks of {config.block_length}, it needs {length} positions, "
            f"but the policy has {engine.max_length}"
        )
    for token in prompt.token_ids:
        if not 0 <= token < engine.vocab_size:
            raise ValueError(f"prompt {prompt.id!r} holds token id {token}; valid: 0 to {engine.vocab_size - 1}")


class _Actions(NamedTuple):
    """Actions as parallel columns: those of `DecodeTrace`, and the row of each."""

    row: Int[Tensor, " actions"]
    forward: Int[Tensor, " actions"]
    position: Int[Tensor, " actions"]
    old: Int[Tensor, " actions"]
    new: Int[Tensor, " actions"]
    log_prob: Float[Tensor, " actions"]
    log_prob_raw: Float[Tensor, " actions"]


class _Batch:
    """Rows that are decoded together: one entry per row in every tensor, one canvas row each."""

    def __init__(
        self, device: torch.device, prompts: Sequence[Prompt], configs: Sequence[DecodeConfig], tokens: SpecialTokens
    ) -> None:
        """Lays out the canvas: prompt, masks up to the end of the row's last block, padding."""
        self.prompts, self.configs, self.tokens = prompts, configs, tokens
        self.block_length = configs[0].block_length
        sizes = [len(prompt.token_ids) for prompt in prompts]
        ends = [
            padded_length(n + c.max_completion_length, self.block_length) for n, c in zip(sizes, configs, strict=True)
        ]
        canvas = torch.full((len(prompts), max(ends)), tokens.pad)
        for row, (prompt, size, end) in enumerate(zip(prompts, sizes, ends, strict=True)):
            canvas[row, :end] = tokens.mask
            canvas[row, :size] = torch.tensor(prompt.token_ids, dtype=torch.int64)
        self.canvas = canvas.to(device)
        self.prompt_length = torch.tensor(sizes, device=device)
        self.end = torch.tensor(ends, device=device)
        self.seed = seed_tensor([prompt.seed for prompt in prompts], device)
        self.post_steps = torch.tensor([config.post_steps for config in configs], device=device)
        self.rules = StepRules.from_configs(configs, device)
        self.stops = torch.tensor(tokens.stops, dtype=torch.int64, device=device)
        self.slots = torch.arange(self.block_length, device=device)

        self.active = self.prompt_length // self.block_length * self.block_length
        self.committed = torch.zeros_like(self.active)
        self.num_forwards = torch.zeros_like(self.active)
        self.num_post = torch.zeros_like(self.active)
        self.actions: list[_Actions] = []
        self.routes: list[tuple[Int[Tensor, " live"], Tensor]] = []  # of each forward: its rows and their routes

    def run(self, engine: Engine) -> Iterator[Completion]:
        """Decodes all rows to their ends."""
        size = len(self.prompts), self.canvas.shape[1], self.block_length
        recording = _recording(engine).open_recording(*size) if self.configs[0].record_routes else None
        session = recording or engine.open(*size)
        live = torch.arange(len(self.prompts), device=self.canvas.device)
        while len(live):
            done = self._advance(session, live)
            if recording is not None:
                self.routes.append((live, recording.routes()))
            live = live[~done]
        return self._completions()

    def _advance(self, session: DecodeSession, rows: Int[Tensor, " live"]) -> Bool[Tensor, " live"]:
        """Takes the given rows through one forward and one denoising step; True where a row is done."""
        start = self.active[rows]
        positions = start[:, None] + self.slots
        logits = suppress_mask_(session.forward(self.canvas, rows, self.committed[rows], start), self.tokens.mask)
        before = self.canvas[rows[:, None], positions]
        prompt = positions < self.prompt_length[rows, None]
        masked = (before == self.tokens.mask) & ~prompt
        noise = uniform(self.seed[rows], self.num_forwards[rows], positions)
        step = denoise(before, masked, prompt, logits, noise, self.rules.of(rows))
        self._record(rows, positions, before, step)
        self.canvas[rows[:, None], positions] = step.tokens
        self.num_forwards[rows] += 1
        changed = (step.tokens != before).any(dim=-1)
        stopped = (torch.isin(step.tokens, self.stops) & ~prompt).any(dim=-1)
        ended = self._end_blocks(rows, ~masked.any(dim=-1), (masked & ~step.unmasked).any(dim=-1), changed)
        return ended & (stopped | (self.active[rows] >= self.end[rows]))

    def _end_blocks(
        self,
        rows: Int[Tensor, " live"],
        was_full: Bool[Tensor, " live"],
        has_masks: Bool[Tensor, " live"],
        changed: Bool[Tensor, " live"],
    ) -> Bool[Tensor, " live"]:
        """Moves rows whose block is final on to their next block; True where it was.

        Args:
            rows: Rows that took the forward.
            was_full: The forward's input held no mask.
            has_masks: A mask is left after it.
            changed: The step changed a token, so the keys and values of the block are stale.
        """
        self.num_post[rows] += was_full
        spent = self.num_post[rows] >= self.post_steps[rows]
        ended = ~has_masks & ((was_full & ~changed) | spent)
        start = self.active[rows]
        self.active[rows] = start + ended * self.block_length
        # The forward ran every block before the active one with its final tokens, and the active one too if the
        # step left it as it was. A stale final block is run again in the next block's first forward.
        self.committed[rows] = start + (ended & ~changed) * self.block_length
        self.num_post[rows] *= ~ended
        return ended

    def _record(
        self,
        rows: Int[Tensor, " live"],
        positions: Int[Tensor, "live block"],
        before: Int[Tensor, "live block"],
        step: Step,
    ) -> None:
        entry, slot = (step.unmasked | step.edited).nonzero(as_tuple=True)
        row = rows[entry]
        self.actions.append(
            _Actions(
                row=row,
                forward=self.num_forwards[row],
                position=positions[entry, slot] - self.prompt_length[row],
                old=before[entry, slot],
                new=step.tokens[entry, slot],
                log_prob=step.proposal.log_prob[entry, slot],
                log_prob_raw=step.proposal.log_prob_raw[entry, slot],
            )
        )

    def _completions(self) -> Iterator[Completion]:
        """Assembles the results; the one transfer of actions from the device."""
        columns = [torch.cat(column) for column in zip(*self.actions, strict=True)]
        order = columns[0].argsort(stable=True)
        sizes = columns[0].bincount(minlength=len(self.prompts)).tolist()
        lists = [column[order].tolist() for column in columns[1:]]
        canvas, active, num_forwards = self.canvas.tolist(), self.active.tolist(), self.num_forwards.tolist()
        routes, begin = self._routes_by_row(), 0
        for row, (prompt, config) in enumerate(zip(self.prompts, self.configs, strict=True)):
            span = slice(begin, begin := begin + sizes[row])
            actions = (tuple(column[span]) for column in lists)
            trace = DecodeTrace(self.tokens.mask, num_forwards[row], *actions, routes=routes[row])
            generated = tuple(canvas[row][len(prompt.token_ids) : active[row]])
            yield _complete(prompt.id, generated, config.max_completion_length, self.tokens.stops, trace)

    def _routes_by_row(self) -> Sequence[NDArray[np.int16] | None]:
        """Routes of every row's own forwards, in order; an array of its own for each, so that rows part cheaply."""
        if not self.routes:
            return [None] * len(self.prompts)
        rows, routes = (torch.cat(column).cpu() for column in zip(*self.routes, strict=True))
        return [routes[rows == row].numpy() for row in range(len(self.prompts))]


def _recording(engine: Engine) -> RecordingEngine:
    if not isinstance(engine, RecordingEngine):
        raise TypeError(f"{type(engine).__name__} has no open_recording; use record_routes: false")
    return engine


def _complete(
    prompt_id: str, generated: tuple[int, ...], limit: int, stops: tuple[int, ...], trace: DecodeTrace
) -> Completion:
    """Cuts what was generated at the length limit, and after the first stop token within it."""
    for size, token in enumerate(generated[:limit], start=1):
        if token in stops:
            return Completion(prompt_id, generated[:size], generated, "stop", trace)
    return Completion(prompt_id, generated[:limit], generated, "length", trace)
