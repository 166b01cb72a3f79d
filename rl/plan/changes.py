"""Changes that make a recipe fit: each is tried, alone and with others, and those that fit are sorted by cost.

Guarantees:
    * Every change that is offered was planned in full, and all GPUs have room with it.
    * None can do without one of its parts, and of a number the mildest that fits is offered.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from redraft.rl.config.parallel import LoRAConfig
from redraft.rl.config.schema import RunConfig
from redraft.rl.plan.machine import CARD_GIB, GIB, Machine

_MOST_DOUBLINGS = 7  # 128 GPUs
_MOST_PARTS = 3
_OFFERED = 3
GPUS = "--gpus"
# What a change does to the result. Money comes last inside a kind, because the cost counts the seconds of all GPUs.
_ARITHMETIC = {"trainer.optimizer.kind": 1, "model.lora": 2}
_EFFECT = ("the same arithmetic", "other arithmetic in the optimizer", "adapters are trained in place of the weights")


@dataclass(frozen=True)
class Change:
    """Settings with which every GPU has room.

    Attributes:
        settings: Words for the command line.
        effect: What it does to the result.
        needed_bytes: Of the fullest GPU, with the change.
        gpu_seconds: Of one step, on all GPUs together: what the change costs.
    """

    settings: tuple[str, ...]
    effect: str
    needed_bytes: float
    gpu_seconds: float


@dataclass(frozen=True)
class Trial:
    """What a plan says about one candidate; a host without GPUs costs nothing."""

    fits: bool
    needed_bytes: float
    gpu_seconds: float


Try = Callable[[RunConfig, Machine], Trial]


def cheapest_changes(config: RunConfig, machine: Machine, attempt: Try) -> list[Change]:
    """Find the three cheapest changes that make the recipe fit.

    Args:
        config: The recipe, which does not fit.
        machine: What it should run on.
        attempt: Plans a candidate; raises ValueError where sizes do not fit each other.
    """
    found: list[tuple[tuple[float, ...], frozenset[str], Change]] = []
    single = _candidates(config, machine)
    for parts in range(1, _MOST_PARTS + 1):
        if len(found) >= _OFFERED:
            break
        for combined in itertools.combinations(single, parts):
            settings = {key: value for one in combined for key, value in one.items()}
            keys = frozenset(settings)
            if len(keys) < sum(map(len, combined)) or any(smaller <= keys for _, smaller, _ in found):
                continue
            if change := _tried(config, machine, attempt, settings):
                effect = max(_ARITHMETIC.get(key, 0) for key in settings)
                found.append(((effect, change.gpu_seconds, parts, change.needed_bytes), keys, change))
    return [change for _, _, change in sorted(found, key=lambda one: one[0])[:_OFFERED]]


def _tried(config: RunConfig, machine: Machine, attempt: Try, settings: Mapping[str, Any]) -> Change | None:
    """Plan the recipe with some settings; return None where it still does not fit."""
    on = machine
    if GPUS in settings:  # a host without GPUs gets cards of the ordinary size
        on = replace(machine, gpus=settings[GPUS], card_bytes=machine.card_bytes if machine.gpus else CARD_GIB * GIB)
    words = {key: value for key, value in settings.items() if key != GPUS}
    asked = config.trainer.parallel.ranks or int(config.cluster.learner_gpus)
    if GPUS in settings and asked:  # the learner keeps its share of the GPUs
        words["trainer.parallel.ranks"] = asked * on.gpus // machine.gpus if machine.gpus else on.gpus
    try:
        trial = attempt(with_settings(config, words), on)
    except ValueError:  # for example more ranks than experts
        return None
    if not trial.fits:
        return None
    effect = _EFFECT[max(_ARITHMETIC.get(key, 0) for key in settings)]
    return Change(tuple(map(_word, {**words, **settings}.items())), effect, trial.needed_bytes, trial.gpu_seconds)


def _candidates(config: RunConfig, machine: Machine) -> list[dict[str, Any]]:
    """List settings that save memory and are not those of the recipe already; of one key, the mildest first."""
    trainer, cluster, lora = config.trainer, config.cluster, config.model.lora
    is_plain = trainer.optimizer.kind == "adamw" and trainer.optimizer.offload == "none"
    options: list[tuple[bool, dict[str, Any]]] = [
        (trainer.activation_checkpointing == "none", {"trainer.activation_checkpointing": "layer"}),
        *((True, {"trainer.tokens_per_microbatch": trainer.tokens_per_microbatch // share}) for share in (2, 4, 8)),
        (trainer.parallel.gradient_sync != "every", {"trainer.parallel.gradient_sync": "every"}),
        (cluster.backend == "inprocess" and machine.gpus > 1, {"cluster.backend": "ray"}),
        *((is_plain, {"trainer.optimizer.offload": offload}) for offload in ("states", "all")),
        (is_plain, {"trainer.optimizer.kind": "adamw8bit"}),
        (is_plain and config.sft is None, {"trainer.optimizer.kind": "adamw_bf16_sr", "model.dtype": "bfloat16"}),
        (lora is None and trainer.freeze_router, {"model.lora": LoRAConfig(targets="all")}),
    ]
    for share in (4, 2):
        apart = {"cluster.placement": "apart", "rollout.num_actors": machine.gpus // share}
        options.append((machine.gpus >= share and cluster.placement != "apart", apart))
    options += [(2**power > machine.gpus, {GPUS: 2**power}) for power in range(_MOST_DOUBLINGS + 1)]
    return [settings for is_new, settings in options if is_new]


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """Return the recipe with other values of some dotted keys, which are not checked again."""
    for key, value in settings.items():
        config = _with(config, key.split("."), value)
    return config


def _with(section: Any, names: list[str], value: Any) -> Any:
    assert isinstance(section, BaseModel)
    inner = value if len(names) == 1 else _with(getattr(section, names[0]), names[1:], value)
    return section.model_copy(update={names[0]: inner})


def _word(setting: tuple[str, Any]) -> str:
    key, value = setting
    if isinstance(value, LoRAConfig):
        return f"{key}={{rank: {value.rank}, targets: {value.targets}}}"
    return f"{key} {value}" if key == GPUS else f"{key}={value}"
