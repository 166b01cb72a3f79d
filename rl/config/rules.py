"""Choices of an algorithm that exclude each other: one function per rule, each the text of the refusal or None.

A key that its own section does not read is refused before (`config.choices`). These rules relate two sections.
"""

from collections.abc import Callable

from redraft.rl.config.choices import Choices, TruncatedWeights
from redraft.rl.config.estimators import Autoregressive, Elbo, NoEdits, OnTrajectory, PairedMasks
from redraft.rl.config.losses import SequenceRatio

Rule = Callable[[Choices], str | None]
_LOSSES_OF_ELBOS = {"bgpo": "needs equally many views of all completions", "sandwich": "bounds a mean over masks"}


def _elbo_has_whole_ratios(choices: Choices) -> str | None:
    ratio = choices.loss.ratio
    if not isinstance(choices.estimator, Elbo) or isinstance(ratio, SequenceRatio):
        return None
    return f"loss.ratio {ratio.kind!r}: estimator 'elbo' has no token ratio; use loss: {{ratio: sequence}}"


def _positions_have_views(choices: Choices) -> str | None:
    if choices.loss.ratio.kind != "position" or not isinstance(choices.estimator, OnTrajectory | Autoregressive):
        return None
    return (
        f"loss.ratio 'position' sums a position's views (mean_field, coupled, random_mask), and estimator"
        f" {choices.estimator.kind!r} has one view of each; use loss: {{ratio: token}}"
    )


def _loss_has_its_masks(choices: Choices) -> str | None:
    kind, estimator = choices.loss.kind, choices.estimator
    if kind not in _LOSSES_OF_ELBOS:
        return None
    if not isinstance(estimator, Elbo):
        return f"loss {kind!r} {_LOSSES_OF_ELBOS[kind]}; use estimator: elbo, got {estimator.kind!r}"
    if kind == "bgpo" and not isinstance(estimator.edits, NoEdits):
        return f"loss 'bgpo' {_LOSSES_OF_ELBOS[kind]}; use estimator: {{edits: none}}, got {estimator.edits.kind!r}"
    if kind == "sandwich" and estimator.num_mc < 2:
        return f"loss 'sandwich' {_LOSSES_OF_ELBOS[kind]}; use estimator.num_mc of 2 or more, got {estimator.num_mc}"
    return None


def _views_fill_their_levels(choices: Choices) -> str | None:
    estimator = choices.estimator
    if not isinstance(estimator, Elbo) or estimator.num_mc % estimator.views_per_level == 0:
        return None
    if isinstance(estimator.noise, PairedMasks):
        return f"estimator.noise {estimator.noise.kind!r} draws pairs: num_mc must be even, got {estimator.num_mc}"
    return f"estimator.num_mc {estimator.num_mc} is not a multiple of noise.masks_per_level {estimator.views_per_level}"


def _preferences_hold_the_reference(choices: Choices) -> str | None:
    kl = choices.regulariser.kl
    if choices.loss.kind != "dpo" or kl.kind in {"none", "k2"}:
        return None
    return (
        f"regulariser.kl {kl.kind!r}: loss 'dpo' already measures against the starting policy; use regulariser:"
        " {kl: {kind: k2}} or {kl: none}"
    )


def _drift_can_be_seen(choices: Choices) -> str | None:
    if not choices.update.target_drift or choices.update.steps > 1:
        return None
    return (
        "update.target_drift compares the optimizer steps of a batch; use update.num_minibatches: 2, or target_drift: 0"
    )


def _steps_are_shown_as_recorded(choices: Choices) -> str | None:
    correction = choices.correction
    asked = {
        f"correction.rollout: {correction.rollout.kind}": isinstance(correction.rollout, TruncatedWeights),
        f"correction.path_check: {correction.path_check}": correction.path_check != "off",
        f"correction.route_replay: {correction.route_replay}": correction.route_replay in {"rollout", "compare"},
    }
    named = [name for name, is_asked in asked.items() if is_asked]
    if not named or choices.own_states:
        return None
    return (
        f"{named[0]} compares with what the engine recorded at each step; use estimator trajectory or"
        " trajectory_sampled with cut: none"
    )


def _engine_drew_what_is_scored(choices: Choices) -> str | None:
    estimator = choices.estimator
    if not isinstance(choices.correction.rollout, TruncatedWeights):
        return None
    if not isinstance(estimator, OnTrajectory) or not estimator.lookahead:
        return None
    return (
        "correction.rollout needs the engine's log-probability of every scored token, and estimator.lookahead scores"
        " tokens before the engine drew them; use estimator: {lookahead: 0}"
    )


def _pairs_stay_whole(choices: Choices) -> str | None:
    if choices.correction.path_check != "mask" or choices.loss.kind != "dpo":
        return None
    return "correction.path_check 'mask' would leave out one half of a pair of loss 'dpo'; use path_check: log"


RULES: tuple[Rule, ...] = (
    _elbo_has_whole_ratios,
    _positions_have_views,
    _loss_has_its_masks,
    _views_fill_their_levels,
    _preferences_hold_the_reference,
    _drift_can_be_seen,
    _steps_are_shown_as_recorded,
    _engine_drew_what_is_scored,
    _pairs_stay_whole,
)
