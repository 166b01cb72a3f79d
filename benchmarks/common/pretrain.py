"""Supervised training of a benchmark's small fixture: token ids in, no tokenizer, no trainer, seconds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.optim import AdamW

from benchmarks.common.batches import take_rows
from redraft.rl.likelihood.score import score_view
from redraft.rl.seeding import derive_seed, make_generator
from redraft.rl.views import supervised_view
from redraft.rl.views.canvas import CanvasBatch, pad_to_grid
from redraft.rollout.blocks import padded_length
from redraft.rollout.trajectory import SpecialTokens

Rows = Sequence[tuple[Sequence[int], Sequence[int]]]


@dataclass(frozen=True)
class PretrainConfig:
    """How a fixture is trained.

    Attributes:
        steps: Optimizer steps.
        batch_size: Rows per step, drawn with replacement.
        learning_rate: Peak, after a linear warm-up over a twentieth of the steps; it falls to 0 over the last fifth.
        seed: Of batches and noise.
        block_length: Tokens per block.
        mask_ratio: Lowest and highest noise level of a block.
        edit_ratio: Share of visible tokens replaced by wrong ones (T2T).
        t2t_weight: Weight of T2T terms beside M2T terms.
    """

    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    block_length: int
    mask_ratio: tuple[float, float] = (0.0, 1.0)
    edit_ratio: float = 0.1
    t2t_weight: float = 0.3


def pretrain(model: nn.Module, rows: Rows, tokens: SpecialTokens, config: PretrainConfig) -> float:
    """Train a policy in place on the M2T + T2T mixture.

    Args:
        model: The policy.
        rows: Prompts and completions; one that ends inside a block is followed by stop tokens up to its end, one that
            ends with its block should end with a stop token itself.
        tokens: Special ids.
        config: Settings.

    Returns:
        Mean loss of the last tenth of the steps, nats per editable token.

    Raises:
        ValueError: There are no rows, or one must be filled up and there is no stop token.
    """
    everything = _canvases(rows, tokens, config.block_length, next(model.parameters()).device)
    generator = make_generator(config.seed, "pretrain_rows")
    optimizer = AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    losses = []
    for step in range(config.steps):
        chosen = torch.randint(len(rows), (config.batch_size,), generator=generator)
        first_seed = derive_seed(config.seed, "pretrain_noise", step)
        seeds = first_seed + torch.arange(len(chosen), device=everything.tokens.device)
        batch = replace(take_rows(everything, chosen.tolist()), noise_seeds=seeds)
        view = supervised_view(batch, config.mask_ratio, config.edit_ratio, config.t2t_weight, tokens.mask)
        log_prob = score_view(model, batch, view, tokens.mask, temperature=1.0).log_prob
        loss = -(view.weight[view.scored].to(log_prob.dtype) * log_prob).sum() / batch.editable.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config.steps)
        optimizer.step()
        losses.append(loss.item())
    tail = losses[-max(1, config.steps // 10) :]
    return sum(tail) / len(tail)


def _schedule(step: int, steps: int) -> float:
    """Factor of the peak rate: up over the first twentieth, down over the last fifth."""
    return min(1.0, (step + 1) / max(1, steps // 20), (steps - step) / max(1, steps // 5))


def _canvases(rows: Rows, tokens: SpecialTokens, block_length: int, device: torch.device) -> CanvasBatch:
    if not rows:
        raise ValueError("pretrain needs at least one row")
    prompts = [tuple(prompt) for prompt, _ in rows]
    canvases = [_fill(prompt, completion, tokens.stops, block_length) for prompt, completion in rows]
    laid, editable = pad_to_grid(prompts, canvases, block_length, tokens.pad)
    return CanvasBatch(
        tokens=laid.to(device),
        editable=editable.to(device),
        advantages=torch.zeros(len(rows), dtype=torch.float64, device=device),
        noise_seeds=torch.zeros(len(rows), dtype=torch.int64, device=device),
        traces=(),
        groups=torch.zeros(len(rows), dtype=torch.int64, device=device),
        prompt_lengths=tuple(map(len, prompts)),
        block_length=block_length,
    )


def _fill(
    prompt: Sequence[int], completion: Sequence[int], stops: tuple[int, ...], block_length: int
) -> tuple[int, ...]:
    size = len(prompt) + len(completion)
    missing = padded_length(size, block_length) - size
    if missing and not stops:
        raise ValueError(
            f"a row of {size} tokens must be filled up to whole blocks of {block_length}, but there is no stop token"
        )
    return (*completion, *stops[:1] * missing)
