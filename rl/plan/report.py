"""A plan as tables for a person and as JSON for a program.

Keys of the JSON stay; where a meaning changes, `schema` counts up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from redraft.rl.plan.card import Card
from redraft.rl.plan.machine import GIB, size_text
from redraft.rl.plan.plan import Plan

SCHEMA = 1
_WHEN = {"always": "always", "learning": "while learning", "rolling_out": "while rolling out"}


@dataclass(frozen=True)
class TextTable:
    """A table of text; the first `left` columns hold words, the others numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


def heading(plan: Plan, name: str) -> str:
    """Say in three lines which network runs where, and whether it fits."""
    setup, shape = plan.setup, plan.setup.shape
    machine, layout = setup.machine, setup.layout
    where = f"{_count(machine.gpus, 'GPU')} of {machine.card_bytes / GIB:.1f} GiB" if setup.on_gpu else _host(plan)
    experts = f", {shape.experts} experts in {shape.routed_layers} layers" if shape.experts else ""
    sharded = f" (experts over {layout.ep}" + f", each share in {layout.efsdp} pieces" * (layout.efsdp > 1) + ")"
    ranks = _count(layout.world, "learner rank") + sharded * (layout.ep > 1)
    engines = _count(setup.engines, "rollout engine")
    engines += f" of {setup.gpus_per_engine} GPUs" * (setup.gpus_per_engine > 1)
    placed = "taking turns on the same GPUs" if setup.colocated else "apart"
    return "\n".join(
        [
            f"{name} on {where}: {'fits' if plan.fits else 'does not fit'}",
            f"{shape.parameters:,} parameters, {shape.active_parameters:,.0f} of them active per token{experts}",
            f"{ranks} and {engines}, {placed}; products of the learner in {setup.compute}",
        ]
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _host(plan: Plan) -> str:
    return f"this host, {plan.setup.machine.card_bytes / GIB:.1f} GiB and no GPU"


def tables(plan: Plan) -> Iterator[TextTable]:
    """Write memory, batch and traffic as tables."""
    for card in plan.cards:
        yield _memory(card)
    yield TextTable("One step", ("", "size"), _batch(plan))
    yield TextTable("Bytes and seconds", ("", "value"), [*_sizes(plan), *_seconds(plan)])


def _memory(card: Card) -> TextTable:
    """Lines of one kind of GPU, the largest first, and what they add up to."""
    ordered = sorted(card.lines, key=lambda line: -line.size)
    rows = [(line.role, line.name, _WHEN[line.phase], line.why, f"{line.size / GIB:.2f}") for line in ordered]
    sums = {
        "fullest moment": card.used_bytes,
        "with what CUDA and the allocator take": card.needed_bytes,
        "there is": card.card_bytes,
    }
    rows += [("", text, "", "", f"{size / GIB:.2f}") for text, size in sums.items()]
    count = f" ({_count(card.count, 'GPU')})" if card.role != "host" else ""
    return TextTable(f"Memory: {card.role}{count}", ("part", "line", "when", "what it holds", "GiB"), rows, left=4)


def _batch(plan: Plan) -> list[tuple[str, str]]:
    batch, passes = plan.batch, plan.batch.passes
    scored = {"old": passes.old, "current": passes.current, "reference": passes.reference}
    scored |= {"drafts": passes.draft, "path check": passes.path_check}
    named = ", ".join(f"{name} {number:g}" for name, number in scored.items() if number)
    return [
        ("prompts", f"{batch.prompts:,}"),
        ("completions (with all rounds of dynamic sampling)", f"{batch.completions:,} ({batch.most_completions:,})"),
        ("tokens of prompt and completion", f"{batch.sequence_tokens:,}"),
        ("decoder forwards of a completion", f"{batch.decoder_forwards:,.0f}"),
        ("tokens of its composite input", f"{batch.composite_tokens:,}"),
        ("views of a completion", f"{batch.views:,}"),
        ("optimizer steps", f"{batch.optimizer_steps:,}"),
        ("completions of an optimizer step, all ranks", f"{batch.sequences_per_optimizer_step:,}"),
        ("completions of an optimizer step, one rank", f"{batch.sequences_per_rank:,}"),
        ("completions of a micro-batch", f"{batch.sequences_per_microbatch:,}"),
        ("micro-batches of a rank and optimizer step", f"{batch.microbatches:,}"),
        (f"forwards of a rank without gradient (per view: {named or 'none'})", f"{batch.learner_forwards:,}"),
        (f"backwards of a rank (per view: {passes.gradient:g})", f"{batch.learner_backwards:,}"),
        ("tokens through the network of a rank", f"{batch.learner_tokens:,}"),
    ]


def _sizes(plan: Plan) -> list[tuple[str, str]]:
    state, weights = plan.checkpoint_bytes
    kept = plan.setup.config.trainer.save_total_limit
    rows = [
        ("weights to a rollout engine, after every step", size_text(plan.sync_bytes)),
        ("checkpoint: state/", size_text(state)),
        ("checkpoint: hf/", size_text(weights)),
        (f"all {kept} checkpoints that are kept", size_text(kept * (state + weights))),
    ]
    return rows + [("optimizer in the memory of a host", size_text(plan.host_bytes))] * bool(plan.host_bytes)


def _seconds(plan: Plan) -> list[tuple[str, str]]:
    traffic, seconds = plan.traffic, plan.seconds
    if traffic is None or seconds is None:
        return []
    sync = "once per optimizer step" if plan.setup.gradient_sync == "last" else "after every micro-batch"
    return [
        ("gradients are added up over the ranks", sync),
        ("micro-batch: rows to the ranks of their experts", size_text(traffic.expert_rows)),
        ("micro-batch: experts gathered and reduced", size_text(traffic.expert_gathers)),
        ("micro-batch: dense weights gathered and reduced", size_text(traffic.dense_gathers)),
        ("micro-batch: arithmetic", f"{traffic.flops / 1e12:,.0f} Tflop"),
        ("time of traffic over time of arithmetic", f"{traffic.ratio:.2f}"),
        ("step: rollouts (a lower bound, as all seconds)", f"{seconds.rollout:.1f} s"),
        ("step: update", f"{seconds.update:.1f} s"),
        ("step: weights to the engines", f"{seconds.sync:.2f} s"),
        ("step", f"{seconds.step:.1f} s"),
    ]


def closing(plan: Plan) -> list[str]:
    """Write warnings, what a run does not do yet, what does not fit, and what would make it fit."""
    lines = [f"warning: {text}" for text in plan.warnings]
    lines += [f"does not fit: {text}" for text in plan.refused]
    lines += [f"  {number}. {_change(plan, number - 1)}" for number in range(1, len(plan.changes) + 1)]
    if plan.changes:
        lines.insert(len(lines) - len(plan.changes), "every GPU has room with one of these, cheapest first:")
    elif not all(card.fits for card in plan.cards):
        lines.append("no change of up to three keys makes it fit on up to 128 such GPUs")
    return lines


def _change(plan: Plan, index: int) -> str:
    change = plan.changes[index]
    words = (f"'{word}'" if "{" in word else word for word in change.settings)  # a shell would split it
    return (
        f"{' '.join(words)}   ({change.needed_bytes / GIB:.1f} GiB per GPU,"
        f" {change.gpu_seconds:,.0f} GPU-seconds a step; {change.effect})"
    )


def as_json(plan: Plan, words: Sequence[str]) -> dict[str, Any]:
    """Return the plan as an object of numbers, texts and lists; all sizes are bytes and all times seconds."""
    setup, shape, seconds = plan.setup, plan.setup.shape, plan.seconds
    state, weights = plan.checkpoint_bytes
    placement = {
        "learner_ranks": setup.layout.world,
        "expert_parallel": setup.layout.ep,
        "expert_shards": setup.layout.efsdp,
        "colocated": setup.colocated,
        "rollout_engines": setup.engines,
        "gpus_per_engine": setup.gpus_per_engine,
        "used_gpus": setup.used_gpus,
        "compute": setup.compute,
        "gradient_sync": setup.gradient_sync,
    }
    memory = [
        {
            "role": card.role,
            "gpus": card.count,
            "card_bytes": card.card_bytes,
            "used_bytes": card.used_bytes,
            "needed_bytes": card.needed_bytes,
            "fits": card.fits,
            "lines": [{**asdict(line), "largest": line is card.largest} for line in card.lines],
        }
        for card in plan.cards
    ]
    return {
        "schema": SCHEMA,
        "recipe": list(words),
        "fits": plan.fits,
        "network": {**asdict(shape), "active_parameters": shape.active_parameters},
        "machine": asdict(setup.machine),
        "assumptions": {**asdict(setup.assumptions), "imbalance": setup.imbalance},
        "placement": placement,
        "memory": memory,
        "batch": asdict(plan.batch),
        "traffic": None if plan.traffic is None else {**asdict(plan.traffic), "ratio": plan.traffic.ratio},
        "seconds": None if seconds is None else {**asdict(seconds), "step": seconds.step},
        "sync_bytes": plan.sync_bytes,
        "checkpoint": {"state_bytes": state, "hf_bytes": weights, "kept": setup.config.trainer.save_total_limit},
        "host_bytes": plan.host_bytes,
        "refused": list(plan.refused),
        "changes": [asdict(change) for change in plan.changes],
        "warnings": list(plan.warnings),
    }
