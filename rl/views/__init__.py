"""Scored views: the noisy canvases that a likelihood estimator shows to the network, and what it scores in each."""

from redraft.rl.views.edits import draft_view
from redraft.rl.views.elbo import MaskingScheme, elbo_views
from redraft.rl.views.make import make_views
from redraft.rl.views.supervised import supervised_view
from redraft.rl.views.trajectory import StepSchedule, trajectory_views
from redraft.rl.views.view import View, draw_uniforms, draws_mark, position_counter

__all__ = [
    "MaskingScheme",
    "StepSchedule",
    "View",
    "draft_view",
    "draw_uniforms",
    "draws_mark",
    "elbo_views",
    "make_views",
    "position_counter",
    "supervised_view",
    "trajectory_views",
]
