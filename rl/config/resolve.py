"""Fill in the keys that a recipe's `algorithm` section does not write.

Without a preset they have the default method's values, with one that preset's. Of a kind that the preset does not have,
they have the defaults of that kind, less what the default method chose of them. A value that was not written yields
where a written one leaves it no meaning: `{estimator: elbo}` is a whole recipe although the default's token ratio needs
more than an ELBO. What was written never yields: two written choices that exclude each other are refused by
`config.rules`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

from pydantic import ValidationError

from redraft.rl.config.choices import Choices, KlPenalty, TruncatedWeights
from redraft.rl.config.estimators import Autoregressive, Elbo, OnTrajectory
from redraft.rl.config.layers import lay_over, opened
from redraft.rl.config.losses import SequenceRatio, TokenRatio
from redraft.rl.config.presets import DEFAULT_METHOD, PRESETS, neutral_of, preset_settings
from redraft.rl.config.section import S

_LOSSES_WITHOUT_RATIO = frozenset({"reinforce", "sandwich"})


def resolved(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in every choice that was not written.

    Args:
        given: What the recipe writes, with choices of one word written out. With an unknown preset or a section that is
            not valid, the result is not complete; the check of the fields then names what is wrong.
    """
    preset = given.get("preset")
    if preset is not None and not _is_preset(preset):
        return dict(given)
    written = {name: value for name, value in given.items() if name != "preset"}
    start = _start(preset)
    merged = lay_over(start, _neutral(preset, start, written), empties=False)
    merged = lay_over(merged, written, empties=False)
    try:
        choices = Choices.model_validate({name: merged[name] for name in Choices.model_fields})
    except ValidationError:
        return {**merged, "preset": preset}
    for place, fitting in _FITTING.items():
        value, path = fitting(choices), place.split(".")
        if value is not None and reduce(lambda part, key: part.get(key, {}), path, written) == {}:
            choices = _changed(choices, path, value)
    return {**merged, **dict(choices), "preset": preset}


def _changed(section: S, path: Sequence[str], value: Any) -> S:
    """Return the section with another value at a place inside it."""
    key, *rest = path
    return section.model_copy(update={key: _changed(getattr(section, key), rest, value) if rest else value})


def lay_over_recipe(base: Any, extra: Any) -> Any:
    """Lay the `algorithm` section of a later file, or of the command line, over that of an earlier file.

    A kind that `base` leaves out is its preset's, or the default method's: another kind in `extra` replaces its keys.
    """
    if not (isinstance(base, Mapping) and isinstance(extra, Mapping)):
        return extra
    preset = base.get("preset")
    start = _start(preset if _is_preset(preset) else None)
    implied = {name: _whole(name, lay_over(start.get(name), part, empties=False)) for name, part in base.items()}
    return lay_over(_with_kinds(base, extra, implied), extra, where="algorithm")


def _whole(name: str, section: Any) -> Any:
    """Fill in the keys of a section, or return None if it is not valid by itself."""
    try:
        return Choices.model_validate({name: section}).model_dump()[name]
    except ValidationError:
        return None


def _with_kinds(base: Mapping[str, Any], extra: Mapping[str, Any], implied: Any) -> dict[str, Any]:
    """Add the kinds that `base` leaves out, where `extra` names one."""
    kind = implied.get("kind") if isinstance(implied, Mapping) and base.keys() <= implied.keys() else None
    made = {"kind": kind, **base} if "kind" in extra and kind else dict(base)
    for key, value in base.items():
        if isinstance(value, Mapping) and isinstance(extra.get(key), Mapping):
            made[key] = _with_kinds(value, extra[key], implied.get(key) if isinstance(implied, Mapping) else None)
    return made


def _is_preset(name: Any) -> bool:
    return isinstance(name, str) and name in PRESETS


def _start(preset: Any) -> dict[str, Any]:
    """Return every choice of a preset, or of the default method."""
    default = Choices().model_dump()
    return default if preset is None else lay_over(default, opened(preset_settings(preset), Choices))


def _neutral(preset: Any, merged: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the default method's choices out of sections to which a recipe gives another kind than its preset has."""
    if preset in {None, DEFAULT_METHOD}:
        return {}
    kinds = {name: part.get("kind") for name, part in written.items() if isinstance(part, Mapping)}
    found = {name: neutral_of(name, kind) for name, kind in kinds.items() if kind != merged.get(name, {}).get("kind")}
    return {name: section for name, section in found.items() if section}


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
    """Make a KL a `k2` for DPO, which compares with the starting policy by itself."""
    return "k2" if choices.loss.kind == "dpo" and isinstance(choices.regulariser.kl, KlPenalty) else None


def _passes(choices: Choices) -> int | None:
    """Return 1 for losses without a ratio: only the first optimizer step of a batch is on policy."""
    return 1 if choices.loss.kind in _LOSSES_WITHOUT_RATIO else None


def _target_drift(choices: Choices) -> float | None:
    """Switch the trust region off if a batch has one optimizer step, which shows no drift."""
    return 0.0 if choices.update.steps == 1 else None


_FITTING: Mapping[str, Callable[[Choices], Any]] = {
    "loss.ratio": _ratio,
    "estimator.num_mc": _num_mc,
    "estimator.lookahead": _lookahead,
    "regulariser.kl.kind": _kl,
    "update.num_iterations": _passes,
    "update.num_minibatches": _passes,
    "update.target_drift": _target_drift,
}
"""Keys that yield, in order. The functions return the value that fits the other choices, or None to keep the key."""
