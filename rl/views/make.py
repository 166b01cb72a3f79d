"""The configured estimator: which views of a batch are scored, with one branch per family of views."""

from dataclasses import replace

from redraft.rl.config.schema import AlgorithmConfig
from redraft.rl.views.canvas import CanvasBatch
from redraft.rl.views.edits import draft_view, random_draft
from redraft.rl.views.elbo import MaskingScheme, elbo_views
from redraft.rl.views.surrogate import coupled_views, mean_field_views, spaced_views
from redraft.rl.views.trajectory import StepSchedule, left_to_right, trajectory_views
from redraft.rl.views.view import View

ANCHOR_OFFSET = 1 << 20  # added to the noise seeds, so that the anchor shares its draws with no other view


def make_views(batch: CanvasBatch, config: AlgorithmConfig, mask_id: int, score_edits: bool) -> list[View]:
    """Make the views of the configured estimator, and further ones for its T2T terms and its ELBO anchor if needed.

    Drafts of the old policy (`t2t_views: draft`) are not among them. They need a network, so the learner adds them.

    Args:
        batch: Canvases with their traces.
        config: The algorithm.
        mask_id: The mask token.
        score_edits: Edits were sampled. An argmax edit is a function of the state and has no likelihood.
    """
    views = _policy_views(batch, config, mask_id, score_edits)
    edit_views = [] if config.on_trajectory else _edit_views(batch, views, config, mask_id, score_edits)
    return views + edit_views + _anchor_views(batch, config, mask_id)


def masking_scheme(config: AlgorithmConfig) -> MaskingScheme:
    """Read the masking scheme of an ELBO from the settings."""
    return MaskingScheme(
        num_mc=config.num_mc,
        noise=config.noise,
        stratify=config.stratify,
        count_exponent=config.count_exponent,
        tiles=config.tiles,
        masks_per_level=config.masks_per_level,
    )


def _policy_views(batch: CanvasBatch, config: AlgorithmConfig, mask_id: int, score_edits: bool) -> list[View]:
    if config.on_trajectory:
        schedule = StepSchedule(
            num_views=config.num_mc if config.estimator == "trajectory_sampled" else None,
            actions="all" if score_edits else "unmask",
            sampling=config.step_sampling,
            shrink=config.shrink,
            merge=config.merge,
            lookahead=config.lookahead,
        )
        return trajectory_views(batch, schedule, mask_id)
    if config.estimator == "autoregressive":
        views = trajectory_views(left_to_right(batch, mask_id), StepSchedule(config.num_mc), mask_id)
        return [replace(view, rollout_log_prob=None, denoising_step=None, acted=None) for view in views]
    if config.estimator == "mean_field":
        return mean_field_views(batch, config.num_mc, config.prompt_mask_ratio, mask_id)
    if config.estimator == "coupled":
        return coupled_views(batch, config.num_mc, mask_id)
    if config.estimator == "random_mask":
        return spaced_views(batch, config.num_mc, mask_id)
    return elbo_views(batch, masking_scheme(config), mask_id)


def _edit_views(
    batch: CanvasBatch, sources: list[View], config: AlgorithmConfig, mask_id: int, score_edits: bool
) -> list[View]:
    """T2T views of an estimator without a trajectory: of the decoder's own edits, or of random drafts of its views."""
    if config.t2t_views == "recorded" and score_edits:
        return trajectory_views(batch, StepSchedule(config.num_t2t, actions="edit"), mask_id)
    if config.t2t_views == "random":
        chosen = sources[: config.num_t2t]
        return [draft_view(batch, source, random_draft(batch, view), view) for view, source in enumerate(chosen)]
    return []


def _anchor_views(batch: CanvasBatch, config: AlgorithmConfig, mask_id: int) -> list[View]:
    """ELBO views for the anchor, unless the policy's own views are ELBO views already."""
    if not config.anchor or config.estimator == "elbo":
        return []
    scheme = MaskingScheme(num_mc=config.anchor_mc, count_exponent=0.5, tiles=True)
    shifted = replace(batch, noise_seeds=batch.noise_seeds + ANCHOR_OFFSET)
    return [replace(view, anchor=True) for view in elbo_views(shifted, scheme, mask_id)]
