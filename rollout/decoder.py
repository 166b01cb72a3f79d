"""The editing decoder: denoises the active block of every row until all rows are done.

Each row moves at its own pace, on its own block and step, and leaves the batch, as a completion, when it is done.
The decoder sees the policy only through `rollout.engine.Engine`.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rollout.blocks import padded_length
from rollout.config import DecodeConfig
from rollout.editing import StepRules, denoise
from rollout.engine import DecodeSession, Engine, RecordingEngine
from rollout.recording import Actions, Recording
from rollout.sampling import seed_tensor, uniform
from rollout.scores import DenseScores
from rollout.trajectory import Completion, DecodeTrace, Prompt, SpecialTokens, in_order

__all__ = ["SpecialTokens", "decode", "stream"]

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


def decode(
    engine: Engine,
    prompts: Sequence[Prompt],
    config: DecodeConfig | Sequence[DecodeConfig],
    tokens: SpecialTokens,
    max_rows: int | None = None,
) -> list[Completion]:
    """Completes every prompt: what `stream` yields, in the order of the prompts."""
    return in_order(stream(engine, prompts, config, tokens, max_rows))


@torch.inference_mode()
def stream(
    engine: Engine,
    prompts: Sequence[Prompt],
    config: DecodeConfig | Sequence[DecodeConfig],
    tokens: SpecialTokens,
    max_rows: int | None = None,
) -> Iterator[tuple[int, Completion]]:
    """Completes every prompt; a completion does not depend on which prompts share its batch.

    Args:
        engine: The policy.
        prompts: Requests, of any lengths.
        config: One for all, or one per prompt; these may differ in thresholds, `max_post_steps` and
            `max_completion_length` only.
        tokens: Mask, pad and stop ids.
        max_rows: Rows decoded at a time; None decodes all at once.

    Yields:
        The index of a prompt and its completion, as soon as that one is done.

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
    for begin in range(0, len(prompts), size):
        batch = _Batch(engine.device, prompts[begin : begin + size], configs[begin : begin + size], tokens)
        for row, completion in batch.run(engine):
            yield begin + row, completion


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
        self.recording = Recording(len(prompts))

    def run(self, engine: Engine) -> Iterator[tuple[int, Completion]]:
        """Decodes all rows to their ends; yields each with its completion when it is done."""
        size = len(self.prompts), self.canvas.shape[1], self.block_length
        routed = _recording(engine).open_recording(*size) if self.configs[0].record_routes else None
        session = routed or engine.open(*size)
        live = torch.arange(len(self.prompts), device=self.canvas.device)
        while len(live):
            ended = self._advance(session, live)
            if routed is not None:
                self.recording.add_routes(live, routed.routes())
            if len(done := live[ended]):
                live = live[~ended]
                yield from self._completions(done)

    def _advance(self, session: DecodeSession, rows: Int[Tensor, " live"]) -> Bool[Tensor, " live"]:
        """Takes the given rows through one forward and one denoising step; True where a row is done."""
        start = self.active[rows]
        positions = start[:, None] + self.slots
        scores = DenseScores(session.forward(self.canvas, rows, self.committed[rows], start), self.tokens.mask)
        before = self.canvas[rows[:, None], positions]
        prompt = positions < self.prompt_length[rows, None]
        masked = (before == self.tokens.mask) & ~prompt
        noise = uniform(self.seed[rows], self.num_forwards[rows], positions)
        step = denoise(before, masked, prompt, scores, noise, self.rules.of(rows))
        offsets = positions - self.prompt_length[rows, None]
        self.recording.add_actions(Actions.of(step, before, rows, self.num_forwards[rows], offsets))
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

    def _completions(self, done: Int[Tensor, " done"]) -> Iterator[tuple[int, Completion]]:
        """Assembles the results of rows that are done."""
        actions, canvas = self.recording.take_actions(done), self.canvas[done].tolist()
        active, num_forwards = self.active[done].tolist(), self.num_forwards[done].tolist()
        for entry, row in enumerate(done.tolist()):
            prompt, config = self.prompts[row], self.configs[row]
            routes = self.recording.take_routes(row)
            trace = DecodeTrace(self.tokens.mask, num_forwards[entry], *actions[entry], routes=routes)
            generated = tuple(canvas[entry][len(prompt.token_ids) : active[entry]])
            yield row, _complete(prompt.id, generated, config.max_completion_length, self.tokens.stops, trace)


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
