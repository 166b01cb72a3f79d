"""The algorithms that `python -m benchmarks learning` compares: every preset, brought to one budget of forwards."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.choices import ElboAnchor
from redraft.rl.config.errors import describe_all
from redraft.rl.config.estimators import (
    Coupled,
    Elbo,
    MeanField,
    MergedSteps,
    NoEdits,
    OnTrajectory,
    PairedMasks,
    Trajectory,
)
from redraft.rl.config.layers import opened
from redraft.rl.config.presets import PRESETS
from redraft.rl.config.scalars import settle
from redraft.rl.config.yaml_core import read_yaml

DEFAULT_FORWARDS = 2


def algorithms(forwards: int = DEFAULT_FORWARDS) -> dict[str, AlgorithmConfig]:
    """Every preset by name, see `at_budget`."""
    return {name: at_budget(name, forwards) for name in PRESETS}


def read_variants(path: Path) -> dict[str, AlgorithmConfig]:
    """Algorithms of the user's own, as they stand: a YAML mapping of names to `algorithm` sections.

    Raises:
        ValueError: The file is no such mapping, or a section is not valid.
    """
    found = read_yaml(path)
    if not isinstance(found, dict) or not all(isinstance(section, dict) for section in found.values()):
        raise ValueError(
            f"{path}: must map names to algorithm sections, e.g. `mine: {{preset: vrbpo, estimator: {{num_mc: 3}}}}`"
        )
    taken = sorted(found.keys() & PRESETS.keys())
    if taken:
        raise ValueError(f"{path}: {', '.join(taken)}: presets have these names; choose others")
    variants = {}
    for name, section in found.items():
        try:
            variants[str(name)] = AlgorithmConfig.model_validate(
                settle(opened(section, AlgorithmConfig), AlgorithmConfig)
            )
        except ValidationError as error:
            told = "; ".join(describe_all(error, AlgorithmConfig))
            raise ValueError(f"{path}: {name}: {told}") from None
    return variants


def at_budget(name: str, forwards: int) -> AlgorithmConfig:
    """A preset that spends `forwards` composite forwards with a gradient per completion and batch of rollouts.

    Where the preset's definition leaves a choice: `num_mc` for sampled views; the number of segments for merged
    trajectories; passes over the batch where a single forward per pass is the definition and there are several.
    Anchor and T2T views beside the estimator's own count too. Others keep what defines them: `coupled` needs at least
    3, complementary pairs an even number, one-pass mean field 1, and an unmerged trajectory as many as the decoder
    took steps. What a run really spent stands in its record.
    """
    preset = AlgorithmConfig(preset=name)
    estimator, anchor = preset.estimator, preset.regulariser.anchor
    beside = anchor.num_mc if isinstance(anchor, ElboAnchor) and not isinstance(estimator, Elbo) else 0
    if not isinstance(estimator, OnTrajectory) and not isinstance(estimator.edits, NoEdits):
        beside += estimator.edits.num_views
    return AlgorithmConfig.model_validate({"preset": name, **_budget(preset, max(1, forwards - beside))})


def _budget(preset: AlgorithmConfig, forwards: int) -> dict[str, Any]:
    estimator = preset.estimator
    match estimator:
        case Trajectory():
            return {"estimator": {"cut": {"segments": forwards}}} if isinstance(estimator.cut, MergedSteps) else {}
        case MeanField():
            return {"update": {"num_iterations": forwards}} if preset.update.num_iterations > 1 else {}
        case Coupled():
            views = max(3, forwards - 1 + forwards % 2)
        case Elbo() if isinstance(estimator.noise, PairedMasks) or preset.loss.kind == "sandwich":
            views = 2 * max(1, forwards // 2)
        case _:
            views = forwards
    return {"estimator": {"num_mc": views}}
