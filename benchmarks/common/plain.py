"""Algorithms without the default method's own choices, as a comparison of methods wants them."""

from collections.abc import Mapping
from typing import Any, Final

from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.layers import lay_over, opened
from redraft.rl.config.presets import NEUTRAL

_UNDECIDED: Final[Mapping[str, Mapping[str, Any]]] = {
    "trajectory": {"lookahead": 0.0},
    "trajectory_sampled": {"lookahead": 0.0, "step_sampling": "uniform"},
}
"""Keys of which the default method has an opinion, at the value that chooses nothing."""


def plain(settings: Mapping[str, Any]) -> AlgorithmConfig:
    """The algorithm of these settings alone.

    Args:
        settings: Sections of `algorithm`. With a preset nothing is added; without one, what they leave out is neutral
            instead of the default method's.
    """
    given = opened(settings, AlgorithmConfig)
    if given.get("preset"):
        return AlgorithmConfig.model_validate(given)
    kind = given.get("estimator", {}).get("kind", "trajectory_sampled")
    base = {"estimator": {"kind": kind, **_UNDECIDED.get(kind, {})}, **NEUTRAL}
    return AlgorithmConfig.model_validate(lay_over(base, given) if given else base)
