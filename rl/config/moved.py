"""Where the keys of a flat `algorithm` section are now, for those who bring an older recipe or TRL's names."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.scalars import fields_of, kinds_of, section_types

MOVED: Final[Mapping[str, tuple[str, ...]]] = {
    "num_mc": ("estimator.num_mc",),
    "step_sampling": ("estimator.step_sampling",),
    "shrink": ("estimator.cut.steps",),
    "merge": ("estimator.cut.segments",),
    "lookahead": ("estimator.lookahead",),
    "noise": ("estimator.noise",),
    "stratify": ("estimator.noise.stratify",),
    "count_exponent": ("estimator.noise.count_exponent",),
    "tiles": ("estimator.noise.tiles",),
    "masks_per_level": ("estimator.noise.masks_per_level",),
    "prompt_mask_ratio": ("estimator.prompt_mask_ratio",),
    "t2t_views": ("estimator.edits",),
    "num_t2t": ("estimator.edits.num_views",),
    "t2t_weight": ("loss.t2t_weight",),
    "ratio": ("loss.ratio",),
    "importance_sampling_level": ("loss.ratio",),
    "gamma": ("loss.ratio.gamma",),
    "loss_type": ("loss",),
    "loss_normaliser": ("loss.ratio.normaliser",),
    "epsilon": ("loss.epsilon",),
    "epsilon_high": ("loss.epsilon_high",),
    "t2t_epsilon": ("loss.t2t_epsilon",),
    "t2t_epsilon_high": ("loss.t2t_epsilon_high",),
    "psi": ("loss.psi", "advantage.psi"),
    "dpo_beta": ("loss.beta",),
    "bound_beta": ("loss.bound_beta",),
    "bound_mix": ("loss.bound_mix",),
    "multi_objective_aggregation": ("advantage.multi_objective_aggregation",),
    "beta": ("regulariser.beta",),
    "kl": ("regulariser.kl",),
    "anchor": ("regulariser.anchor",),
    "anchor_mc": ("regulariser.anchor_mc",),
    "rollout_correction": ("correction.rollout",),
    "correction_cap": ("correction.rollout.cap",),
    "path_check": ("correction.path_check",),
    "route_replay": ("correction.route_replay",),
    "num_iterations": ("update.num_iterations",),
    "num_minibatches": ("update.num_minibatches",),
    "redraw": ("update.redraw",),
    "target_drift": ("update.target_drift",),
}
"""Flat key: its places in the sections. `preset`, `estimator` and `advantage` stay, as a choice of one word."""

_OFF: Final = {("shrink", 1), ("merge", 0)}


def where_now(key: str, value: Any) -> str | None:
    """How a flat key is written today; None for a key that never was one.

    Args:
        key: A key of the `algorithm` section.
        value: What the recipe gives it.
    """
    if key == "overlong_buffer":
        return _length_reward(value)
    if key not in MOVED:
        return None
    if isinstance(value, int) and (key, value) in _OFF:
        return "has moved: write algorithm.estimator.cut: none"
    ways = [f"algorithm.{place}: {_as_yaml(value)}{_needs(place)}" for place in MOVED[key]]
    return f"has moved: write {' or '.join(ways)}"


def kinds_needed(place: str) -> Iterator[tuple[str, Sequence[str]]]:
    """The sections on the way to a place that have its keys for some of their kinds only, and these kinds."""
    sections, parts = [AlgorithmConfig], place.split(".")
    for depth, part in enumerate(parts):
        having = [section for section in sections if part in section.model_fields]
        if len(having) < len(sections):
            yield f"{'.'.join(parts[:depth])}.kind", [kind for section in having for kind in kinds_of(section)]
        sections = section_types(fields_of(having)[part].annotation)


def _needs(place: str) -> str:
    needs = [f"algorithm.{where} {', '.join(kinds)}" for where, kinds in kinds_needed(place)]
    return f" (for {' and '.join(needs)})" if needs else ""


def _length_reward(value: Any) -> str:
    if value == 0:
        return "is gone, and 0 was none: leave it out"
    return (
        "is a reward now: add to rewards {fn: soft_overlong, kwargs: {buffer: "
        f"{_as_yaml(value)}, max_completion_length: N}}}}, N being rollout.decode.max_completion_length"
    )


def _as_yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
