"""What the keys mean that a recipe's `algorithm` section does not write.

Without a preset they have the default method's values, with one that preset's. A value that was not written yields
where a written key leaves it no meaning: `{estimator: elbo}` is a whole recipe although the default's token ratio and
lookahead need a trajectory. What was written never yields: two written keys that exclude each other are refused by
`AlgorithmConfig`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from redraft.rl.config.presets import preset_settings

Settings = Mapping[str, Any]

TRAJECTORIES = frozenset({"trajectory", "trajectory_sampled"})
WHOLE_COMPLETION_LOSSES = frozenset({"bgpo", "squared", "dpo", "sandwich"})
LOSSES_WITHOUT_RATIO = frozenset({"reinforce", "sandwich"})
PAIRED_NOISE = frozenset({"coupled", "folded"})
COUNTED_NOISE = frozenset({"exact_count", "cyclic"})


def resolved(given: Settings, defaults: Settings) -> dict[str, Any]:
    """All settings, from those that were written.

    Args:
        given: What the recipe writes.
        defaults: Every field's default: the default method.

    Raises:
        ValueError: No preset has the given name.
    """
    preset = {} if given.get("preset") is None else preset_settings(str(given["preset"]))
    settings = {**defaults, **preset, **given}
    try:
        for key, fitting in _FITTING.items():
            if key not in given:
                settings[key] = fitting(settings)
    except TypeError:  # a written value has a wrong type: the check of the fields names it
        return {**defaults, **preset, **given}
    return settings


def _ratio(s: Settings) -> str:
    if s["estimator"] == "elbo" or s["loss_type"] in WHOLE_COMPLETION_LOSSES:
        return "sequence"
    if s["ratio"] == "position" and (s["estimator"] in TRAJECTORIES or s["estimator"] == "autoregressive"):
        return "token"
    return s["ratio"]


def _lookahead(s: Settings) -> float:
    return 0.0 if s["estimator"] not in TRAJECTORIES or s["rollout_correction"] != "none" else s["lookahead"]


def _shrink(s: Settings) -> int:
    return 1 if s["estimator"] not in TRAJECTORIES or s["merge"] else s["shrink"]


def _merge(s: Settings) -> int:
    return 0 if s["estimator"] not in TRAJECTORIES or s["shrink"] > 1 else s["merge"]


def _num_mc(s: Settings) -> int:
    """As many views as given, rounded up to a number that the estimator can use."""
    number = max(2, s["num_mc"]) if s["loss_type"] == "sandwich" else s["num_mc"]
    if s["estimator"] == "coupled":
        return max(3, number + 1 - number % 2)
    unit = 2 if s["noise"] in PAIRED_NOISE else s["masks_per_level"]
    return number + -number % unit if s["estimator"] == "elbo" and unit > 0 else number


def _count_exponent(s: Settings) -> float:
    return s["count_exponent"] if s["noise"] in COUNTED_NOISE else 0.0


def _kl(s: Settings) -> str:
    return "k2" if s["loss_type"] == "dpo" else s["kl"]


def _passes(key: str) -> Callable[[Settings], int]:
    """A loss without ratios is on policy in the first optimizer step of a batch only, so there is one."""
    return lambda s: 1 if s["loss_type"] in LOSSES_WITHOUT_RATIO else s[key]


def _target_drift(s: Settings) -> float:
    return 0.0 if s["num_iterations"] == s["num_minibatches"] == 1 else s["target_drift"]


_FITTING: Mapping[str, Callable[[Settings], Any]] = {
    "ratio": _ratio,
    "lookahead": _lookahead,
    "shrink": _shrink,
    "merge": _merge,
    "num_mc": _num_mc,
    "count_exponent": _count_exponent,
    "kl": _kl,
    "num_iterations": _passes("num_iterations"),
    "num_minibatches": _passes("num_minibatches"),
    "target_drift": _target_drift,
}
"""Fields that yield, in order, each with the value that fits the settings beside it."""
