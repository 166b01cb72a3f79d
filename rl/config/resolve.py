"""What the keys mean that a recipe's `algorithm` section does not write.

Without a preset they have the default method's values, with one that preset's. Of a kind that the preset does not have,
they have the defaults of that kind, less what the default method chose of them. A value that was not written yields
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
from redraft.rl.config.presets import DEFAULT_METHOD, neutral_of, preset_settings

LOSSES_WITHOUT_RATIO = frozenset({"reinforce", "sandwich"})


def resolved(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in every choice that was not written.

    Args:
        given: What the recipe writes, with choices of one word written out.

    Raises:
        ValueError: No preset has the given name.
    """
    written = _without_empty({name: value for name, value in given.items() if name != "preset"})
    preset = {} if given.get("preset") is None else preset_settings(str(given["preset"]))
    merged = Choices().model_dump()
    merged = lay_over(merged, opened(preset, Choices)) if preset else merged
    for layer in (_neutral(given.get("preset"), merged, written), written):
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


def _neutral(preset: Any, merged: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the default method's choices out of sections to which a recipe gives another kind than its preset has."""
    if preset in {None, DEFAULT_METHOD}:
        return {}
    kinds = {name: part.get("kind") for name, part in written.items() if isinstance(part, Mapping)}
    found = {name: neutral_of(name, kind) for name, kind in kinds.items() if kind != merged.get(name, {}).get("kind")}
    return {name: section for name, section in found.items() if section}


def _without_empty(written: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the sections of which nothing is left."""
    parts = {key: _without_empty(value) if isinstance(value, Mapping) else value for key, value in written.items()}
    return {key: value for key, value in parts.items() if value != {}}


def _ratio(choices: Choices) -> TokenRatio | SequenceRatio | None:
    """Fit the ratio to the estimator.

    An ELBO allows only the sequence ratio, and estimators with one view per position allow no `position` ratio.
    """
    ratio, estimator = choices.loss.ratio, choices.estimator
    if isinstance(ratio, SequenceRatio):
        return None
    if isinstance(estimator, Elbo):
        return SequenceRatio()
    is_single = isinstance(estimator, OnTrajectory | Autoregressive)
    return TokenRatio(kind="token", normaliser=ratio.normaliser) if is_single else None


def _num_mc(choices: Choices) -> int | None:
    """Round the number of views up to one that the noise of an ELBO can use."""
    if not isinstance(choices.estimator, Elbo):
        return None
    number = choices.estimator.num_mc
    return number + -number % choices.estimator.views_per_level


def _lookahead(choices: Choices) -> float | None:
    """Set lookahead to 0 under a correction, because the engine has no log-probability of a token not yet drawn."""
    corrected = isinstance(choices.correction.rollout, TruncatedWeights)
    return 0.0 if corrected and isinstance(choices.estimator, OnTrajectory) else None


def _kl(choices: Choices) -> str | None:
    """Set the KL to `k2` for DPO, which compares with the starting policy by itself."""
    return "k2" if choices.loss.kind == "dpo" else None


def _passes(choices: Choices) -> int | None:
    """Return 1 for losses without a ratio: only the first optimizer step of a batch is on policy."""
    return 1 if choices.loss.kind in LOSSES_WITHOUT_RATIO else None


def _target_drift(choices: Choices) -> float | None:
    """Switch the trust region off if a batch has one optimizer step, which shows no drift."""
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
