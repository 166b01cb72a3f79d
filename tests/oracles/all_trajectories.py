"""Every trajectory of the editing decoder on a tiny policy, with its probability as a differentiable number.

Plain loops over states: the rule is written out again, nothing is shared with `rollout` but the trace's fields.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oracles.plain_forward import block_log_probs
from redraft.rollout.config import DecodeConfig
from redraft.rollout.trajectory import DecodeTrace


@dataclass(frozen=True)
class Trajectory:
    """One way a decode can go, or its beginning."""

    canvas: tuple[int, ...]  # prompt and generated tokens
    start: int  # of the active block
    forward: int = 0
    post: int = 0  # forwards of the active block that began without masks
    actions: tuple[tuple[int, int, int, int], ...] = ()  # forward, position from the prompt's end, old, new
    parts: tuple[Tensor, ...] = ()  # nats, per action, with graph

    def log_prob(self) -> Tensor:
        """Nats, of all draws together."""
        return torch.stack(self.parts).sum()

    def trace(self, mask: int) -> DecodeTrace:
        """As the decoder records it."""
        log_probs = tuple(part.item() for part in self.parts)
        return DecodeTrace(mask, self.forward, *zip(*self.actions, strict=True), log_probs, log_probs)


class Sampler:
    """The decoder with `unmask_confidence` top, sampled edits and no stop token, as a Markov chain over canvases."""

    def __init__(self, model: nn.Module, prompt: tuple[int, ...], config: DecodeConfig, mask: int) -> None:
        assert len(prompt) % config.block_length == 0
        self.model, self.prompt, self.config, self.mask = model, prompt, config, mask
        self.seen: dict[tuple, Tensor] = {}

    def trajectories(self, num_blocks: int) -> list[Trajectory]:
        """All trajectories of positive probability."""
        blank = (*self.prompt, *[self.mask] * (self.config.block_length * num_blocks))
        pending, finished = [Trajectory(blank, len(self.prompt))], []
        while pending:
            state = pending.pop()
            if state.start == len(state.canvas):
                finished.append(state)
            else:
                pending += self.after(state)
        return finished

    def after(self, state: Trajectory) -> Iterator[Trajectory]:
        """What one forward can lead to."""
        slots = range(state.start, state.start + self.config.block_length)
        where = self.acting(state.canvas, slots)
        table = self.log_probs(state.canvas, slots, self.config.temperature)
        was_full = all(state.canvas[i] != self.mask for i in slots)
        vocabulary = [token for token in range(table.shape[-1]) if token != self.mask]
        for drawn in itertools.product(vocabulary, repeat=len(where)):
            canvas = list(state.canvas)
            for i, token in zip(where, drawn, strict=True):
                canvas[i] = token
            full = all(canvas[i] != self.mask for i in slots)
            post = state.post + was_full
            budget = self.config.max_post_steps if self.config.editing_threshold < 1 else 0
            ended = full and ((was_full and tuple(canvas) == state.canvas) or post >= budget)
            begin = len(self.prompt)
            yield Trajectory(
                canvas=tuple(canvas),
                start=slots.stop if ended else slots.start,
                forward=state.forward + 1,
                post=0 if ended else post,
                actions=state.actions + tuple((state.forward, i - begin, state.canvas[i], canvas[i]) for i in where),
                parts=state.parts + tuple(table[i - slots.start, canvas[i]] for i in where),
            )

    def acting(self, canvas: tuple[int, ...], slots: range) -> list[int]:
        """Slots that the rule fills or redraws: a function of the state alone, so no part of the likelihood."""
        filled, edited = [], []
        probability = self.log_probs(canvas, slots, 1.0).detach().exp().tolist()
        best = {i: max(probability[i - slots.start]) for i in slots}
        masked = [i for i in slots if canvas[i] == self.mask]
        for i in slots:
            top = probability[i - slots.start].index(best[i])
            if i in masked and best[i] > self.config.threshold:
                filled.append(i)
            if i not in masked and top != canvas[i] and best[i] > self.config.editing_threshold:
                edited.append(i)
        if masked and not filled:
            leftmost = self.config.unmask_fallback == "leftmost"
            filled = [masked[0] if leftmost else max(masked, key=lambda i: (best[i], -i))]
        return sorted(filled + edited)

    def log_probs(self, canvas: tuple[int, ...], slots: range, temperature: float) -> Tensor:
        """Token log-probabilities of the active block."""
        key = (canvas[: slots.stop], slots.start, temperature)
        if key not in self.seen:
            earlier, block = canvas[: slots.start], canvas[slots.start : slots.stop]
            self.seen[key] = block_log_probs(self.model, earlier, block, self.mask, temperature)
        return self.seen[key]
