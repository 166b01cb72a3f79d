"""What the keys mean that a recipe's `algorithm` section does not write.

Without a preset they have the default method's values, with one that preset's. A value that was not written yields
where a written one leaves it no meaning: `{estimator: elbo}` is a whole recipe although the default's token ratio needs
more than an ELBO. What was written never yields: two written choices that exclude each other are refused by
`config.rules`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from redraft.rl.config.choices import Choices, TruncatedWeights
from redraft.rl.config.estimators import Autoregressive, Elbo, OnTrajectory
from redraft.rl.config.layers import lay_over, opened
from redraft.rl.config.losses import SequenceRatio, TokenRatio
from redraft.rl.config.presets import preset_settings

LOSSES_WITHOUT_RATIO = frozenset({"reinforce", "sandwich"})


def resolved(given: Mapping[str, Any]) -> dict[str, Any]:
    """Every choice, from those that were written.

    Args:
        given: What the recipe writes, with choices of one word written out.

    Raises:
        ValueError: No preset has the given name.
    """
    written = _without_empty({name: value for name, value in given.items() if name != "preset"})
    preset = {} if given.get("preset") is None else preset_settings(str(given["preset"]))
    merged = Choices().model_dump()
    for layer in (opened(preset, Choices), written):
        merged = lay_over(merged, layer) if layer else merged
    try:
        choices = Choices.model_validate({name: merged[name] for name in Choices.model_fields})
    except ValidationError:  # the check of the fields names what is wrong
        return {**merged, "preset": given.get("preset")}
    for place, fitting in _FITTING.items():
        section, key = place.split(".")
        value = fitting(choices)
        if value is not None and key not in written.get(section, {}):
            part = dict(choices)[section].model_copy(update={key: value})
            choices = choices.model_copy(update={section: part})
    return {**merged, **dict(choices), "preset": given.get("preset")}


def _without_empty(written: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the sections of which nothing is left."""
    parts = {key: _without_empty(value) if isinstance(value, Mapping) else value for key, value in written.items()}
    return {key: value for key, value in parts.items() if value != {}}


def _ratio(choices: Choices) -> TokenRatio | SequenceRatio | None:
    """An ELBO has the sequence ratio alone; the steps of a trajectory and of one order have one view per position."""
    ratio, estimator = choices.loss.ratio, choices.estimator
    if isinstance(ratio, SequenceRatio):
        return None
    if isinstance(estimator, Elbo):
        return SequenceRatio()
    is_single = isinstance(estimator, OnTrajectory | Autoregressive)
    return TokenRatio(kind="token", normaliser=ratio.normaliser) if is_single else None


def _num_mc(choices: Choices) -> int | None:
    """As many views as given, rounded up to a number that the noise of an ELBO can use."""
    if not isinstance(choices.estimator, Elbo):
        return None
    number = choices.estimator.num_mc
    return number + -number % choices.estimator.views_per_level


def _lookahead(choices: Choices) -> float | None:
    """The engine knows no log-probability of a token before it drew it."""
    corrected = isinstance(choices.correction.rollout, TruncatedWeights)
    return 0.0 if corrected and isinstance(choices.estimator, OnTrajectory) else None


def _kl(choices: Choices) -> str | None:
    """DPO compares with the starting policy by itself."""
    return "k2" if choices.loss.kind == "dpo" else None


def _passes(choices: Choices) -> int | None:
    """A loss without ratios is on policy in the first optimizer step of a batch only, so there is one."""
    return 1 if choices.loss.kind in LOSSES_WITHOUT_RATIO else None


def _target_drift(choices: Choices) -> float | None:
    """One optimizer step shows no drift."""
    return 0.0 if choices.update.steps == 1 else None


_FITTING: Mapping[str, Callable[[Choices], Any]] = {
    "loss.ratio": _ratio,
    "estimator.num_mc": _num_mc,
    "estimator.lookahead": _lookahead,
    "regulariser.kl": _kl,
    "update.num_iterations": _passes,
    "update.num_minibatches": _passes,
    "update.target_drift": _target_drift,
}
"""Keys that yield, in order, each with the value that fits the choices beside it; None where it stays."""
