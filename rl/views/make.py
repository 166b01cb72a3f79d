"""The configured estimator: which views of a batch are scored, with one branch per family of views."""

from dataclasses import replace

from redraft.rl.config.choices import Choices, ElboAnchor
from redraft.rl.config.estimators import (
    Autoregressive,
    Coupled,
    Elbo,
    EstimatorConfig,
    MeanField,
    MergedSteps,
    OnTrajectory,
    RandomMask,
    SampledTrajectory,
    ShrunkSteps,
)
from redraft.rl.views.canvas import CanvasBatch
from redraft.rl.views.edits import draft_view, random_draft
from redraft.rl.views.elbo import MaskingScheme, elbo_views
from redraft.rl.views.surrogate import coupled_views, mean_field_views, spaced_views
from redraft.rl.views.trajectory import StepSchedule, left_to_right, trajectory_views
from redraft.rl.views.view import View

ANCHOR_OFFSET = 1 << 20  # added to the noise seeds, so that the anchor shares its draws with no other view


def make_views(batch: CanvasBatch, config: Choices, mask_id: int, score_edits: bool) -> list[View]:
    """Make the views of the configured estimator, and further ones for its T2T terms and its ELBO anchor if needed.

    Drafts of the old policy (`edits: draft`) are not among them. They need a network, so the learner adds them.

    Args:
        batch: Canvases with their traces.
        config: The estimator, and the regulariser with the anchor.
        mask_id: The mask token.
        score_edits: Edits were sampled. An argmax edit is a function of the state and has no likelihood.
    """
    views = _policy_views(batch, config.estimator, mask_id, score_edits)
    edit_views = _edit_views(batch, views, config.estimator, mask_id, score_edits)
    return views + edit_views + _anchor_views(batch, config, mask_id)


def masking_scheme(estimator: Elbo) -> MaskingScheme:
    """Read the masking scheme of an ELBO from the settings; a noise without a key leaves it at its neutral default."""
    noise = estimator.noise
    return MaskingScheme(num_mc=estimator.num_mc, noise=noise.kind, **noise.model_dump(exclude={"kind"}))


def step_schedule(estimator: OnTrajectory, score_edits: bool) -> StepSchedule:
    """Read the step schedule of a trajectory from the settings."""
    cut = estimator.cut
    return StepSchedule(
        num_views=estimator.num_mc if isinstance(estimator, SampledTrajectory) else None,
        actions="all" if score_edits else "unmask",
        sampling=estimator.step_sampling if isinstance(estimator, SampledTrajectory) else "uniform",
        shrink=cut.steps if isinstance(cut, ShrunkSteps) else 1,
        merge=cut.segments if isinstance(cut, MergedSteps) else 0,
        lookahead=estimator.lookahead,
    )


def _policy_views(batch: CanvasBatch, estimator: EstimatorConfig, mask_id: int, score_edits: bool) -> list[View]:
    match estimator:
        case OnTrajectory():
            return trajectory_views(batch, step_schedule(estimator, score_edits), mask_id)
        case Autoregressive():
            views = trajectory_views(left_to_right(batch, mask_id), StepSchedule(estimator.num_mc), mask_id)
            return [replace(view, rollout_log_prob=None, denoising_step=None, acted=None) for view in views]
        case MeanField():
            return mean_field_views(batch, estimator.num_mc, estimator.prompt_mask_ratio, mask_id)
        case Coupled():
            return coupled_views(batch, estimator.num_mc, mask_id)
        case RandomMask():
            return spaced_views(batch, estimator.num_mc, mask_id)
        case Elbo():
            return elbo_views(batch, masking_scheme(estimator), mask_id)


def _edit_views(
    batch: CanvasBatch, sources: list[View], estimator: EstimatorConfig, mask_id: int, score_edits: bool
) -> list[View]:
    """T2T views of an estimator without a trajectory: of the decoder's own edits, or of random drafts of its views."""
    if isinstance(estimator, OnTrajectory):
        return []
    edits = estimator.edits
    if edits.kind == "recorded" and score_edits:
        return trajectory_views(batch, StepSchedule(edits.num_views, actions="edit"), mask_id)
    if edits.kind == "random":
        chosen = sources[: edits.num_views]
        return [draft_view(batch, source, random_draft(batch, view), view) for view, source in enumerate(chosen)]
    return []


def _anchor_views(batch: CanvasBatch, config: Choices, mask_id: int) -> list[View]:
    """ELBO views for the anchor, unless the policy's own views are ELBO views already."""
    anchor = config.regulariser.anchor
    if not isinstance(anchor, ElboAnchor) or isinstance(config.estimator, Elbo):
        return []
    scheme = MaskingScheme(num_mc=anchor.num_mc, count_exponent=0.5, tiles=True)
    shifted = replace(batch, noise_seeds=batch.noise_seeds + ANCHOR_OFFSET)
    return [replace(view, anchor=True) for view in elbo_views(shifted, scheme, mask_id)]
