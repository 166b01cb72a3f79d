"""What the default run takes of many siblings, and of whole data sets."""

from typing import Any

import pytest

from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.presets import PRESETS

COVERING = ("justgrpo", "unigrpo", "diffu_grpo", "coupled_grpo", "spg", "bgpo", "vrpo", "stabledrl", "gdsd")
"""Presets among which each estimator, ratio, loss and normaliser of a preset occurs: test_learner.py proves it."""


def every(step: int) -> pytest.MarkDecorator:
    """Give a test the argument `part`: a slice that takes each `step`-th row, and for the witness tier all of them."""
    sample = pytest.param(slice(None, None, step), id=f"one in {step}")
    whole = pytest.param(slice(None), marks=pytest.mark.witness, id="all")
    return pytest.mark.parametrize("part", [sample, whole])


def covering_presets() -> list[Any]:
    """Every preset as a parameter; all but those of `COVERING` are heavy."""
    return [pytest.param(name, marks=[pytest.mark.heavy] * (name not in COVERING)) for name in PRESETS]


def one_per_estimator() -> list[Any]:
    """Every preset as a parameter; all but the first of each estimator are heavy."""
    seen: set[str] = set()
    presets = []
    for name in PRESETS:
        estimator = AlgorithmConfig(preset=name).estimator.kind
        presets.append(pytest.param(name, marks=[pytest.mark.heavy] * (estimator in seen)))
        seen.add(estimator)
    return presets
