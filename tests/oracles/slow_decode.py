"""Editing decoder of one row in plain loops: every forward recomputed from the canvas, nothing shared with `rollout`
but the config, the special tokens and the source of uniform numbers."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from redraft.rollout.config import DecodeConfig
from redraft.rollout.trajectory import Prompt, SpecialTokens

Action = tuple[int, int, int, int, float, float]
"""Forward, position from the prompt's end, old, new, log-probability tempered and untempered."""


@dataclass
class SlowCompletion:
    token_ids: list[int] = field(default_factory=list)
    canvas_ids: list[int] = field(default_factory=list)
    finish_reason: str = "length"
    num_forwards: int = 0
    actions: list[Action] = field(default_factory=list)


def softmax(logits: list[float]) -> list[float]:
    peak = max(logits)
    weights = [math.exp(logit - peak) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


def sampling_distribution(logits: list[float], config: DecodeConfig) -> list[float]:
    """Tempered, then the top k of it, then the nucleus of what is left."""
    p = softmax([logit / config.temperature for logit in logits])
    by_probability = sorted(range(len(p)), key=lambda token: (-p[token], token))
    if config.top_k:
        by_probability = by_probability[: config.top_k]
    total = sum(p[token] for token in by_probability)
    kept, reached = [], 0.0
    for token in by_probability:
        if kept and reached >= config.top_p:
            break
        kept.append(token)
        reached += p[token] / total
    total = sum(p[token] for token in kept)
    return [p[token] / total if token in kept else 0.0 for token in range(len(p))]


def choose(logits: list[float], u: float, config: DecodeConfig) -> tuple[int, float]:
    """The token of one draw and its log-probability under the distribution it came from."""
    if config.temperature == 0.0:
        return logits.index(max(logits)), 0.0
    p = sampling_distribution(logits, config)
    reached = 0.0
    for token, probability in enumerate(p):
        reached += probability
        if u < reached:
            return token, math.log(probability)
    raise AssertionError("probabilities do not reach u")


def slow_decode(
    block_logits: Callable[[list[int], int], list[list[float]]],
    uniform: Callable[[int, int], float],
    prompt: Prompt,
    config: DecodeConfig,
    tokens: SpecialTokens,
) -> SlowCompletion:
    """Decodes one prompt.

    Args:
        block_logits: Logits of the block that ends at a position, and sees all of a canvas.
        uniform: The uniform number of (forward, absolute position).
    """
    size, begin = config.block_length, len(prompt.token_ids)
    first, limit = begin // size * size, begin + config.max_completion_length
    canvas = [*prompt.token_ids]
    result = SlowCompletion()
    stopped = False
    while len(canvas) < limit and not stopped:
        start = len(canvas) // size * size
        canvas += [tokens.mask] * (start + size - len(canvas))
        opened = max(first, start - (config.editing_window - 1) * size)
        for open_block in [start, *range(opened, start, size)]:
            finish_block(block_logits, uniform, canvas, open_block, begin, config, tokens, result)
        stopped = any(canvas[i] in tokens.stops for i in range(max(opened, begin), start + size))
    result.canvas_ids = canvas[begin:]
    result.token_ids = canvas[begin:limit]
    for count, token in enumerate(result.token_ids, start=1):
        if token in tokens.stops:
            result.token_ids, result.finish_reason = result.token_ids[:count], "stop"
            break
    return result


def finish_block(
    block_logits: Callable[[list[int], int], list[list[float]]],
    uniform: Callable[[int, int], float],
    canvas: list[int],
    start: int,
    begin: int,
    config: DecodeConfig,
    tokens: SpecialTokens,
    result: SlowCompletion,
) -> None:
    """Denoises a block, in place, until it is final."""
    size, post = config.block_length, 0
    while True:
        masks_in_input = [i for i in range(max(start, begin), start + size) if canvas[i] == tokens.mask]
        logits = block_logits(canvas, start + size)
        actions = denoise_block(logits, canvas, start, begin, result.num_forwards, uniform, config, tokens)
        result.num_forwards += 1
        result.actions += [(action[0], action[1] - begin, *action[2:]) for action in actions]
        for _, where, _, new, _, _ in actions:
            canvas[where] = new
        changed = any(action[2] != action[3] for action in actions)
        full = all(canvas[i] != tokens.mask for i in range(max(start, begin), start + size))
        if not masks_in_input:
            post += 1
            if not changed:
                return
        budget = config.max_post_steps if config.editing_threshold < 1.0 else 0
        if full and post >= budget:
            return


def denoise_block(
    logits: list[list[float]],
    canvas: list[int],
    start: int,
    begin: int,
    forward: int,
    uniform: Callable[[int, int], float],
    config: DecodeConfig,
    tokens: SpecialTokens,
) -> list[Action]:
    """The actions of one step, by position, at absolute positions; the canvas is left as it is."""
    actions: list[Action] = []
    fills: dict[int, tuple[float, float, Action]] = {}
    for where in range(max(start, begin), start + config.block_length):
        row = [-math.inf if token == tokens.mask else logit for token, logit in enumerate(logits[where - start])]
        raw, old = softmax(row), canvas[where]
        best = row.index(max(row))
        if old == tokens.mask:
            new, log_prob = choose(row, uniform(forward, where), config)
            tested = raw[new] if config.unmask_confidence == "drawn" else raw[best]
            fills[where] = (tested, raw[best], (forward, where, old, new, log_prob, math.log(raw[new])))
        elif best != old and raw[best] > config.editing_threshold:
            new, log_prob = best, 0.0
            if config.edit_sampling == "sample":
                new, log_prob = choose(row, uniform(forward, where), config)
            actions.append((forward, where, old, new, log_prob, math.log(raw[new])))
    chosen = [where for where, (tested, _, _) in fills.items() if tested > config.threshold]
    if fills and not chosen:
        chosen = [max(fills, key=lambda where: (fills[where][1], -where))]
    actions += [fills[where][2] for where in chosen]
    return sorted(actions, key=lambda action: action[1])
