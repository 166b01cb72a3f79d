"""Tokens per second of a learner step, and which share of the machine's matrix throughput it uses."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.common.measure import median_seconds, time_runs
from benchmarks.likelihood.workload import BLOCK, Workload, elbo
from redraft.rl.likelihood.score import composite_layout
from redraft.rl.models.llada2 import LLaDA2Config, LLaDA2Model
from redraft.rl.parallel.lockstep import Lockstep
from redraft.rl.protocols import Experience
from redraft.rl.views import make_views
from redraft.rl.views.canvas import collate

VIEWS = 2


def measure_learner_step(
    workload: Workload,
    tokens_per_microbatch: int,
    repeats: int,
    prepare: Callable[[LLaDA2Model], Lockstep | None] = lambda model: None,
    products: torch.dtype | None = None,
) -> dict[str, Any]:
    """One `Learner.update` on `VIEWS` ELBO views of each completion, optimizer step included.

    FLOPs are those of the mathematics (see `step_flops`): what is computed again does not count.

    Args:
        workload: Policy and rollouts.
        tokens_per_microbatch: Of composite input.
        repeats: Steps that are timed, after a first one.
        prepare: Changes the network after its rollouts, such as by sharding it; returns the learner's ranks.
        products: Type of the products if it is not that of the weights.
    """
    model = workload.model()
    rows = workload.rollouts(model)
    learner = workload.learner(model, VIEWS, tokens_per_microbatch, prepare(model))
    # All rows have one layout, so the first step compiles FlexAttention's kernels for all that are timed.
    first, seconds = time_runs(lambda: learner.update(rows), repeats, workload.device)
    memory = torch.cuda.max_memory_allocated() / 2**30 if workload.device == "cuda" else None
    tokens, scored = _count(workload, rows)
    flops = step_flops(workload, VIEWS, scored)
    peak = peak_matmul_flops(workload.device, products or workload.dtype)
    return {
        "device": workload.device,
        "layers": workload.shape.num_hidden_layers,
        "hidden_size": workload.shape.hidden_size,
        "dtype": str(products or workload.dtype).removeprefix("torch."),
        "rows": workload.rows,
        "views": VIEWS,
        "composite_tokens": tokens,
        "first_seconds": first,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "tflops": flops / seconds / 1e12,
        "measured_peak_tflops": peak / 1e12,
        "share_of_peak": flops / seconds / peak,
        "peak_memory_gib": memory,
    }


def _count(workload: Workload, rows: Sequence[Experience]) -> tuple[int, int]:
    """Composite positions that the step reads, and positions that it scores, over all views."""
    batch = collate(rows, BLOCK, workload.tokens.pad, "cpu")
    views = make_views(batch, elbo(VIEWS), workload.tokens.mask, score_edits=True)
    positions = len(views) * len(rows) * composite_layout(batch).num_rows
    return positions, sum(int(view.scored.sum()) for view in views)


def step_flops(workload: Workload, num_views: int, scored: int) -> float:
    """Floating-point operations of forward and backward: 2 per weight and token each way, 2 more for the weight.

    Counted are matrix products alone: those of every layer by composite row, attention by pair that the mask allows,
    the head by scored position.
    """
    shape, blocks = workload.shape, workload.num_blocks
    prompt_blocks = workload.prompt_length // BLOCK
    ends = range(prompt_blocks + 1, prompt_blocks + blocks + 1)
    clean = (prompt_blocks + blocks - 1) * BLOCK
    composite = blocks * BLOCK + clean
    noisy_pairs = sum(BLOCK * BLOCK * end for end in ends)
    clean_pairs = sum(BLOCK * BLOCK * (block + 1) for block in range(clean // BLOCK))
    width = shape.num_attention_heads * shape.head_dim
    attention = 4 * width * (noisy_pairs + clean_pairs) * shape.num_hidden_layers
    body = 2 * layer_weights(shape) * composite
    head = 2 * shape.hidden_size * shape.vocab_size * scored
    return 3.0 * (num_views * workload.rows * (body + attention) + head)


def layer_weights(shape: LLaDA2Config) -> int:
    """Weights that one token meets in all layers together: the active experts only."""
    heads = shape.num_attention_heads + 2 * shape.num_key_value_heads
    attention = shape.hidden_size * shape.head_dim * (heads + shape.num_attention_heads)
    active = shape.num_experts_per_tok + shape.num_shared_experts
    routed = shape.hidden_size * (3 * active * shape.moe_intermediate_size + shape.num_experts)
    dense = 3 * shape.hidden_size * shape.intermediate_size
    dense_layers = min(shape.first_k_dense_replace, shape.num_hidden_layers)
    return shape.num_hidden_layers * (attention + routed) + dense_layers * (dense - routed)


def peak_matmul_flops(device: str, dtype: torch.dtype) -> float:
    """Operations per second of one large square product, measured."""
    size = 8192 if device == "cuda" else 2048
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    return 2 * size**3 / median_seconds(lambda: left @ right, 5, device)
