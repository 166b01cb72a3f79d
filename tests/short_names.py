"""Algorithms of tests in one line of short names: `{"estimator": "elbo", "num_mc": 4, "beta": 0.1}`.

A short name is the flat key of earlier recipes, one for each key of the sections, so that 28 of them fit in a table.
`sections` writes them out as a recipe has them, `flat` reads a configuration back.
"""

from types import SimpleNamespace as Every
from typing import Any

from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.moved import MOVED

DEFAULTS = {
    "estimator": "trajectory_sampled", "num_mc": 2, "step_sampling": "uniform", "shrink": 1, "merge": 0,
    "lookahead": 0.0, "noise": "exact_count", "stratify": True, "count_exponent": 0.0, "tiles": False,
    "masks_per_level": 1, "prompt_mask_ratio": 0.0, "t2t_views": "none", "num_t2t": 1, "t2t_weight": 1.0,
    "ratio": "token", "gamma": 1.0, "loss_type": "clip", "loss_normaliser": "constant", "epsilon": 0.2,
    "epsilon_high": 0.28, "t2t_epsilon": None, "t2t_epsilon_high": None, "psi": 1.0, "dpo_beta": 0.1,
    "bound_beta": 1.5, "bound_mix": 0.5, "advantage": "dr_grpo", "multi_objective_aggregation": "sum_then_normalize",
    "beta": 0.0, "kl": "k2", "anchor": 0.0, "anchor_mc": 1, "rollout_correction": "none",
    "correction_cap": 2.0, "path_check": "off", "route_replay": "none", "num_iterations": 1, "num_minibatches": 1,
    "redraw": False, "target_drift": 0.0,
}  # fmt: skip
"""A value for every short name, where a section does not have its key."""
_KINDS = {
    "estimator": "estimator.kind", "noise": "estimator.noise.kind", "t2t_views": "estimator.edits.kind",
    "loss_type": "loss.kind", "ratio": "loss.ratio.kind", "advantage": "advantage.kind",
    "rollout_correction": "correction.rollout.kind",
}  # fmt: skip
_CUTS = {"shrink": ("shrink", 1), "merge": ("merge", 0)}
_WEIGHTS = {"beta": "regulariser.kl.kind", "anchor": "regulariser.anchor.kind"}
_OF_WEIGHT = {"kl": "beta", "anchor_mc": "anchor"}


def sections(settings: dict[str, Any]) -> dict[str, Any]:
    """The same `algorithm` section as a recipe has it, without keys that its ratio or regulariser does not have."""
    ratio = settings.get("ratio") or ("sequence" if "gamma" in settings else "token")
    named = {"ratio": ratio, **settings} if "gamma" in settings else settings
    made: dict[str, Any] = {}
    for name, value in named.items():
        is_other_ratios = (name == "gamma" and ratio != "sequence") or (
            name == "loss_normaliser" and ratio == "sequence"
        )
        is_off = name in _CUTS and value == _CUTS[name][1]
        weight = _OF_WEIGHT.get(name)
        is_weightless = weight is not None and not settings.get(weight, "preset" in settings)
        if name in _WEIGHTS and value == 0:
            _put(made, _WEIGHTS[name], "none")
        elif not (is_other_ratios or is_off or is_weightless):
            _put(made, _place(name, settings), value)
        if name in _CUTS and not is_off:
            _put(made, "estimator.cut.kind", _CUTS[name][0])
    return made


def short(**settings: Any) -> AlgorithmConfig:
    """A configuration by short names."""
    return AlgorithmConfig.model_validate(sections(settings))


def flat(config: AlgorithmConfig) -> dict[str, Any]:
    """The values that the sections hold, by short names; a name whose key no section has is left out."""
    found = {}
    whole = config.model_dump(mode="json", exclude={"preset"})
    for name, value in _leaves(whole):
        found[name] = value
    if found.pop("cut", "") == "none":
        found |= {"shrink": 1, "merge": 0}
    if found["kl"] == "none":
        found |= {"beta": 0.0}
        del found["kl"]
    if found.pop("anchored") == "none":
        found |= {"anchor": 0.0}
    return found


def every(config: AlgorithmConfig) -> Every:
    """All short names, for a witness that knows no sections."""
    return Every(**DEFAULTS | flat(config))


def _place(name: str, settings: dict[str, Any]) -> str:
    if name == "psi":
        return "loss.psi" if settings.get("loss_type") == "squared" else "advantage.psi"
    return _KINDS.get(name) or (name if name == "preset" else MOVED[name][0])


def _put(made: dict[str, Any], place: str, value: Any) -> None:
    *outer, last = place.split(".")
    for part in outer:
        made = made.setdefault(part, {})
    made[last] = value


def _leaves(section: dict[str, Any], prefix: str = ""):
    names = {place: name for name in DEFAULTS for place in (*MOVED.get(name, ()), _KINDS.get(name))}
    names |= {"estimator.cut.kind": "cut", "regulariser.anchor.kind": "anchored"}
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield names[f"{prefix}{key}"], value
