"""Algorithms without the default method's own choices, as a comparison of methods wants them."""

from collections.abc import Mapping
from typing import Any

from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.layers import lay_over, opened
from redraft.rl.config.presets import NEUTRAL, neutral_of


def plain(settings: Mapping[str, Any]) -> AlgorithmConfig:
    """Return the algorithm of these settings alone.

    Args:
        settings: Sections of `algorithm`. With a preset nothing is added; without one, what they leave out of
            `estimator` and `update` is neutral instead of the default method's. The loss keeps its defaults.
    """
    given = opened(settings, AlgorithmConfig)
    if given.get("preset"):
        return AlgorithmConfig.model_validate(given)
    kind = given.get("estimator", {}).get("kind", "trajectory_sampled")
    base = {"estimator": {"kind": kind, **neutral_of("estimator", kind)}, **NEUTRAL}
    return AlgorithmConfig.model_validate(lay_over(base, given) if given else base)
