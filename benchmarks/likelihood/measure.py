"""The likelihood's speed and memory against what it replaces.

    OMP_NUM_THREADS=1 python -m benchmarks.likelihood.measure
    python -m benchmarks.likelihood.measure --device cuda         # a learner step of a mini-shaped stack as well
    python -m benchmarks.likelihood.measure --device cuda --only learner_step

Prints a table and writes likelihood.json after every part: (a) one composite forward and backward for all blocks
against a forward and backward for every block; (b) the head at the scored positions, in slices, against the head at all
positions; (c) peak memory of the learner's accumulation over n views against n graphs kept until one backward; (d)
tokens per second and share of the measured matrix throughput of a learner step.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.measure import Action, median_seconds, peak_mib
from benchmarks.common.record import write_record
from benchmarks.likelihood.learner_step import measure_learner_step
from benchmarks.likelihood.workload import BLOCK, MINI_STACK, SMALL, Workload, elbo
from redraft.rl.likelihood.score import score_view
from redraft.rl.likelihood.vocabulary import token_log_probs
from redraft.rl.models.llada2 import LLaDA2Model
from redraft.rl.views import View, make_views
from redraft.rl.views.canvas import CanvasBatch, collate
from redraft.rollout.blocks import block_causal_mask

TARGETS = {"all_blocks": 5.0, "scored_head": 2.0}
HEAD = {"positions": 2048, "scored_share": 0.25, "vocab_size": 32768, "hidden_size": 256}


# --- (a) all blocks at once against block by block ----------------------------------------------------------------


def all_blocks(model: LLaDA2Model, batch: CanvasBatch, view: View, mask_id: int) -> float:
    """One forward and backward of `[noisy ; clean]`."""
    log_prob = score_view(model, batch, view, mask_id, 1.0).log_prob
    log_prob.sum().backward()
    return log_prob.sum().item()


def block_by_block(model: LLaDA2Model, batch: CanvasBatch, view: View, mask_id: int) -> float:
    """A forward and backward for every block: final earlier blocks, then the noisy one."""
    total = 0.0
    for start in range(batch.first_editable, batch.tokens.shape[1], BLOCK):
        end = start + BLOCK
        ids = torch.cat([batch.tokens[:, :start], view.noisy[:, start:end]], dim=1)
        positions = torch.arange(end)[None]
        mask = block_causal_mask(positions, positions, BLOCK)
        hidden = model.hidden_states(ids, positions.expand_as(ids), mask)[:, start:]
        scored, target = view.scored[:, start:end], view.target[:, start:end]
        log_prob, _ = token_log_probs(hidden[scored], model.head_weight, target[scored], mask_id, 1.0)
        log_prob.sum().backward()
        total += log_prob.sum().item()
    return total


def compare_blocks(prompt_length: int, rows: int, repeats: int) -> dict[str, Any]:
    """Seconds of both at 16 blocks of 32; refuses to compare what does not agree."""
    workload = Workload(SMALL, rows=rows, prompt_length=prompt_length, num_blocks=16)
    model, mask_id = workload.model(), workload.tokens.mask
    batch = collate(workload.rollouts(model), BLOCK, workload.tokens.pad, "cpu")
    (view,) = make_views(batch, elbo(1), mask_id, score_edits=False)
    seconds, found = {}, {}
    for way in (all_blocks, block_by_block):
        model.zero_grad()
        value = way(model, batch, view, mask_id)
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found[way] = value, gradient.double()
        seconds[way.__name__] = median_seconds(lambda way=way: way(model, batch, view, mask_id), repeats)
    (one, ours), (other, theirs) = found.values()
    difference = ((ours - theirs).norm() / theirs.norm()).item()
    if abs(one / other - 1) > 1e-5 or difference > 1e-3:
        raise AssertionError(f"the two ways differ: {one} and {other} nats, gradients by {difference:.1e}")
    starts = range(batch.first_editable, batch.tokens.shape[1], BLOCK)
    positions = {"all_blocks": (len(starts) - 1) * BLOCK + batch.tokens.shape[1], "block_by_block": sum(starts)}
    positions["block_by_block"] += len(starts) * BLOCK
    return {
        "prompt_length": prompt_length,
        "rows": rows,
        "seconds": seconds,
        "ratio": seconds["block_by_block"] / seconds["all_blocks"],
        "positions": positions,
        "positions_ratio": positions["block_by_block"] / positions["all_blocks"],
    }


# --- (b) the head -------------------------------------------------------------------------------------------------


def scored_head(hidden: Tensor, weight: Tensor, target: Tensor, scored: Tensor) -> Tensor:
    """Hidden states gathered first, logits in slices."""
    return token_log_probs(hidden[scored], weight, target[scored], len(weight) - 1, 1.0)[0]


def full_head(hidden: Tensor, weight: Tensor, target: Tensor, scored: Tensor) -> Tensor:
    """Log-softmax of all logits of all positions, then the gather (and no entropy, which `scored_head` has)."""
    logits = (hidden @ weight.T).index_fill(1, torch.tensor([len(weight) - 1]), -torch.inf)
    return logits.log_softmax(-1).gather(-1, target[:, None])[scored, 0]


def gathered_head(hidden: Tensor, weight: Tensor, target: Tensor, scored: Tensor) -> Tensor:
    """As `full_head`, hidden states gathered first: what the slices save beyond the gather."""
    return full_head(hidden[scored], weight, target[scored], torch.ones_like(target[scored], dtype=torch.bool))


HEADS = (scored_head, full_head, gathered_head)


def prepare_head(head: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Action:
    """Forward and backward of a head, to hidden states and weight; returns both gradients."""
    source = torch.Generator().manual_seed(0)
    size, vocab, width = int(HEAD["positions"]), int(HEAD["vocab_size"]), int(HEAD["hidden_size"])
    hidden = torch.randn(size, width, generator=source).requires_grad_()
    weight = (torch.randn(vocab, width, generator=source) * width**-0.5).requires_grad_()
    target = torch.randint(0, vocab - 1, (size,), generator=source)
    scored = torch.arange(size) % round(1 / HEAD["scored_share"]) == 0
    return lambda: torch.autograd.grad(head(hidden, weight, target, scored).sum(), [hidden, weight])


def compare_heads(repeats: int) -> dict[str, Any]:
    """Seconds and peak memory of the three heads."""
    reference = prepare_head(full_head)()
    seconds, memory = {}, {}
    for head in HEADS:
        action = prepare_head(head)
        for ours, theirs in zip(action(), reference, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        seconds[head.__name__] = median_seconds(action, repeats)
        memory[head.__name__] = peak_mib(prepare_head, head)
    ratio = seconds["full_head"] / seconds["scored_head"]
    return {**HEAD, "seconds": seconds, "peak_mib": memory, "ratio": ratio}


# --- (c) memory by number of views --------------------------------------------------------------------------------

MEMORY_CASE = Workload(SMALL, rows=4, prompt_length=64, num_blocks=8)


def prepare_update(num_views: int) -> Action:
    """The learner's own update."""
    model = MEMORY_CASE.model()
    rows = MEMORY_CASE.rollouts(model)
    learner = MEMORY_CASE.learner(model, num_views)
    return lambda: learner.update(rows)


def prepare_kept_graphs(num_views: int) -> Action:
    """One backward for all views together."""
    model, mask_id = MEMORY_CASE.model(), MEMORY_CASE.tokens.mask
    batch = collate(MEMORY_CASE.rollouts(model), BLOCK, MEMORY_CASE.tokens.pad, "cpu")
    views = make_views(batch, elbo(num_views), mask_id, score_edits=False)

    def run() -> None:
        torch.stack([score_view(model, batch, view, mask_id, 1.0).log_prob.sum() for view in views]).sum().backward()

    return run


def compare_memory(views: Sequence[int]) -> dict[str, Any]:
    """Peak memory by number of views, in MiB."""
    return {
        "views": list(views),
        "learner_mib": [peak_mib(prepare_update, count) for count in views],
        "kept_graphs_mib": [peak_mib(prepare_kept_graphs, count) for count in views],
    }


# --- the whole run ------------------------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown, of the parts that were measured."""
    lines = ["| what | figure | target |", "|---|---|---|"]
    for case in results.get("all_blocks", []):
        what = (
            f"all blocks at once / block by block, 16 blocks of 32, prompt {case['prompt_length']}, {case['rows']} rows"
        )
        figure = f"{case['ratio']:.1f} x ({case['positions_ratio']:.1f} x fewer positions)"
        lines.append(f"| {what} | {figure} | {TARGETS['all_blocks']:.0f} x |")
    if head := results.get("scored_head"):
        lines.append(f"| scored-position / full head, time | {head['ratio']:.1f} x | {TARGETS['scored_head']:.0f} x |")
        lines += [f"| peak memory of `{name}` | {mib:.0f} MiB | |" for name, mib in head["peak_mib"].items()]
    if memory := results.get("memory"):
        for name in ("learner_mib", "kept_graphs_mib"):
            figures = ", ".join(f"{mib:.0f}" for mib in memory[name])
            lines.append(
                f"| {name} at {memory['views']} views | {figures} | {'flat' if name == 'learner_mib' else ''} |"
            )
    for step in results.get("learner_step", []):
        what = f"learner step, {step['layers']} layers of width {step['hidden_size']}, {step['dtype']}"
        figure = f"{step['tokens_per_second']:.0f} tokens/s, {step['share_of_peak']:.0%} of {step['device']}'s matmul"
        lines.append(f"| {what} | {figure} | |")
    return "\n".join(lines)


def learner_steps(device: str, repeats: int) -> list[dict[str, Any]]:
    """A step of the small policy on the CPU and, with a GPU, of a mini-shaped stack there."""
    small = Workload(SMALL, rows=4, prompt_length=128, num_blocks=16)
    steps = [measure_learner_step(small, 1 << 20, repeats)]
    if device == "cuda":
        mini = Workload(MINI_STACK, rows=32, prompt_length=128, num_blocks=16, device="cuda", dtype=torch.bfloat16)
        steps.append(measure_learner_step(mini, 20_000, repeats))
    return steps


def parts_of(device: str, repeats: int) -> dict[str, Callable[[], Any]]:
    """The parts by name, in the order they are measured."""
    return {
        "learner_step": lambda: learner_steps(device, repeats),
        "all_blocks": lambda: [compare_blocks(prompt, rows=2, repeats=repeats) for prompt in (0, 128, 256)],
        "scored_head": lambda: compare_heads(repeats),
        "memory": lambda: compare_memory([1, 2, 4, 8]),
    }


def main() -> None:
    """Parse, run, print; write after every part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of the learner step")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of everything, after one to warm up")
    parser.add_argument("--only", choices=list(parts_of("cpu", 1)), help="one part, into likelihood_PART.json")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.manual_seed(0)
    gpu = torch.cuda.get_device_name() if options.device == "cuda" else None
    name = f"likelihood_{options.only}" if options.only else "likelihood"
    results: dict[str, Any] = {"threads": torch.get_num_threads()}
    for part, run in parts_of(options.device, options.repeats).items():
        if options.only in (None, part):
            results[part] = run()
            write_record(options.out / f"{name}.json", results, gpu)
    print(table(results))


if __name__ == "__main__":
    main()
