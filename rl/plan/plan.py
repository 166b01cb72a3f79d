"""One plan: a recipe, a shape and a machine in; memory, batch, traffic, seconds and refusals out."""

from dataclasses import dataclass

from redraft.rl.config.schema import RunConfig
from redraft.rl.models.shape import Shape
from redraft.rl.plan.batch import Batch, plan_batch
from redraft.rl.plan.card import Card
from redraft.rl.plan.changes import Change, Trial, cheapest_changes
from redraft.rl.plan.engine import cards, engine_weights
from redraft.rl.plan.machine import GIB, Machine
from redraft.rl.plan.memory import offloaded_bytes
from redraft.rl.plan.setup import Assumptions, Setup, settle_setup
from redraft.rl.plan.traffic import Seconds, Traffic, checkpoint_bytes, plan_traffic, step_seconds, sync_bytes

_MOST_TRAFFIC = 0.5


@dataclass(frozen=True)
class Plan:
    """What a recipe needs on a machine.

    Attributes:
        setup: The run with nothing left open.
        cards: Memory of every kind of GPU.
        batch: Sizes of one step.
        traffic: Of one micro-batch; None without GPUs.
        seconds: Of one step; None without GPUs.
        sync_bytes: What every rollout engine receives after an update.
        checkpoint_bytes: `state/` and `hf/` of one checkpoint.
        host_bytes: What the optimizer keeps in the memory of every host.
        refused: Why the recipe cannot run on this machine; empty where it can.
        changes: What would make it fit, cheapest first; empty where it fits.
        warnings: What wastes GPUs or time.
    """

    setup: Setup
    cards: tuple[Card, ...]
    batch: Batch
    traffic: Traffic | None
    seconds: Seconds | None
    sync_bytes: float
    checkpoint_bytes: tuple[float, float]
    host_bytes: float
    refused: tuple[str, ...]
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Tell whether the recipe can run on the machine."""
        return not self.refused


def make_plan(config: RunConfig, shape: Shape, machine: Machine, assumptions: Assumptions) -> Plan:
    """Plan a recipe.

    Raises:
        ValueError: Sizes of the recipe do not fit each other, the network or the machine.
    """
    setup = settle_setup(config, shape, machine, assumptions)
    used, batch = tuple(cards(setup)), plan_batch(setup)
    traffic = plan_traffic(setup) if setup.on_gpu else None
    seconds = step_seconds(setup, batch, traffic, _cache(used)) if traffic else None
    full = [_too_full(card) for card in used if not card.fits]

    def attempt(candidate: RunConfig, on: Machine) -> Trial:
        return _try(settle_setup(candidate, shape, on, assumptions))

    changes = cheapest_changes(config, machine, attempt) if full else []
    return Plan(
        setup=setup,
        cards=used,
        batch=batch,
        traffic=traffic,
        seconds=seconds,
        sync_bytes=sync_bytes(setup),
        checkpoint_bytes=checkpoint_bytes(setup),
        host_bytes=offloaded_bytes(setup) * min(setup.layout.world, machine.gpus_per_node),
        refused=(*full, *_not_built(setup)),
        changes=tuple(changes),
        warnings=tuple(_warnings(setup, batch, traffic)),
    )


def _try(setup: Setup) -> Trial:
    """Plan as far as a comparison needs it."""
    used = cards(setup)
    needed = max(card.needed_bytes for card in used)
    cost = 0.0
    if setup.on_gpu:
        cost = step_seconds(setup, plan_batch(setup), plan_traffic(setup), _cache(used)).step * setup.used_gpus
    return Trial(all(card.fits for card in used), needed, cost)


def _cache(used: "tuple[Card, ...] | list[Card]") -> float:
    return next(line.size for card in used for line in card.lines if line.name == "cache")


def _too_full(card: Card) -> str:
    line = card.largest
    return (
        f"{card.role}: needs {card.needed_bytes / GIB:.1f} GiB of {card.card_bytes / GIB:.1f}"
        f"{' per GPU' if card.role != 'host' else ''}; the largest line is {line.name} of the {line.role},"
        f" {line.size / GIB:.1f} GiB: {line.why}"
    )


def _not_built(setup: Setup) -> list[str]:
    """Refuse engines over several GPUs, after computing what they would take."""
    if setup.gpus_per_engine == 1:
        return []
    whole = setup.rollout_bytes * setup.shape.parameters / GIB
    return [
        f"rollout: the policy takes {whole:.0f} GiB and fits on no GPU; with its experts over {setup.gpus_per_engine}"
        f" GPUs it takes {engine_weights(setup) / GIB:.0f} GiB on each, but rollout engines over several GPUs are not"
        " built yet; use a smaller model"
    ]


def _warnings(setup: Setup, batch: Batch, traffic: Traffic | None) -> list[str]:
    found = []
    tokens = setup.microbatch_tokens
    if idle := setup.placement.idle_text(setup.shape.experts):
        found.append(idle)
    if batch.sequence_tokens > setup.shape.max_positions:
        found.append(
            f"prompt and completion have {batch.sequence_tokens} tokens, and the policy addresses"
            f" {setup.shape.max_positions}: lower rollout.decode.max_completion_length or --prompt-tokens"
        )
    if batch.composite_tokens > setup.config.trainer.tokens_per_microbatch:
        found.append(
            f"a completion's composite input has {batch.composite_tokens} tokens, more than"
            f" trainer.tokens_per_microbatch={setup.config.trainer.tokens_per_microbatch}: every micro-batch is one"
        )
    if batch.sequences_per_optimizer_step < setup.layout.world:
        found.append(
            f"an optimizer step learns from {batch.sequences_per_optimizer_step} completions, fewer than the"
            f" {setup.layout.world} ranks: some have nothing to do"
        )
    if traffic and traffic.ratio > _MOST_TRAFFIC:
        grows = "most of it rows for the experts of other ranks, which grow with the tokens too"
        cure = "raise trainer.tokens_per_microbatch" if traffic.gathers_s > traffic.rows_s else grows
        found.append(f"traffic takes {traffic.ratio:.2f} of the time of arithmetic, more than {_MOST_TRAFFIC}: {cure}")
    if traffic and traffic.expert_rows and tokens > traffic.gathering_pays_above:
        found.append(
            f"micro-batches of {tokens} tokens move more bytes than gathering all experts would, which is so above"
            f" {traffic.gathering_pays_above:.0f}"
        )
    return found
