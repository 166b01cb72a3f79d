"""Bytes of a rollout engine on one of its GPUs, and the memory of every kind of GPU that a run uses.

Assumes:
    * A colocated run gives back what one phase used before the next one begins, all but lines of phase `always`.
    * The cache takes what is left, up to what the slots need; a run with less cache decodes fewer completions at once.
"""

from dataclasses import replace

from redraft.rl.plan.card import Card, Line, Phase
from redraft.rl.plan.memory import learner_lines
from redraft.rl.plan.setup import Setup

_GRAPHS_BYTES = 1.5 * 2**30
_LEAST_SLOTS = 16  # completions decoded together below which an engine is not worth its weights


def rollout_lines(setup: Setup, room: float) -> list[Line]:
    """Bytes of a rollout engine on one of its GPUs.

    Args:
        setup: The run.
        room: Bytes that are left for the cache where the recipe sets no limit.
    """
    limits = setup.config.rollout.limits
    # A colocated engine gives its weights back while the learner works: the next sync brings newer ones in any case.
    phase: Phase = "rolling_out" if setup.colocated else "always"
    lines: list[tuple[str, float, Phase, str]] = [("weights", engine_weights(setup), phase, _weights_text(setup))]
    lines.append(("logits", limits.logits_bytes, "rolling_out", "of the positions that one forward decodes"))
    if setup.on_gpu:
        lines.append(("graphs", _GRAPHS_BYTES, "rolling_out", "captured forwards"))
    wanted = cache_wanted(setup)
    least = wanted * min(1.0, _LEAST_SLOTS / setup.open_slots)
    # Without a limit, an engine on a GPU takes at most half of what is free when it starts to decode.
    size = limits.cache_bytes or min(wanted, max(least, room / 2 if setup.on_gpu else room))
    lines.append(("cache", size, "rolling_out", _cache_text(setup, size)))
    return [Line("rollout", name, size, phase, why) for name, size, phase, why in lines]


def engine_weights(setup: Setup) -> float:
    """2P, or 2D + 2X/e where the GPUs of an engine share out the experts."""
    shape = setup.shape
    return setup.rollout_bytes * (shape.dense_parameters + shape.expert_parameters / setup.gpus_per_engine)


def cache_wanted(setup: Setup) -> float:
    """Slots * mean length * K: keys and values of all completions that are decoded together."""
    return setup.open_slots * setup.sequence_tokens * setup.shape.cached * setup.rollout_bytes


def _weights_text(setup: Setup) -> str:
    several = setup.gpus_per_engine > 1
    return f"the policy, its experts over {setup.gpus_per_engine} GPUs" if several else "the policy that decodes"


def _cache_text(setup: Setup, size: float) -> str:
    slots = setup.open_slots
    fitting = min(slots, int(slots * size / cache_wanted(setup)))
    return f"{fitting} of {slots} completions, {setup.sequence_tokens} tokens each"


def cards(setup: Setup) -> list[Card]:
    """Memory of every kind of GPU that the run uses; of the host without GPUs."""
    learner, each = learner_lines(setup), setup.machine.card_bytes
    if not setup.on_gpu:
        engines = [replace(line, size=line.size * setup.engines) for line in rollout_lines(setup, cache_wanted(setup))]
        ranks = [replace(line, size=line.size * setup.layout.world) for line in learner]
        # Processes of a host keep what they have taken: nothing is given back between phases.
        return [Card("host", 1, tuple(replace(line, phase="always") for line in [*ranks, *engines]), each)]
    room = setup.machine.usable_bytes - sum(line.size for line in rollout_lines(setup, 0.0) if line.name != "cache")
    if setup.colocated:
        room -= sum(line.size for line in learner if line.phase == "always")
        return [Card("learner and rollout", setup.used_gpus, (*learner, *rollout_lines(setup, room)), each)]
    gpus = setup.engines * setup.gpus_per_engine
    rollout = Card("rollout", gpus, tuple(rollout_lines(setup, room)), each)
    return [Card("learner", setup.layout.world, tuple(learner), each), rollout]
