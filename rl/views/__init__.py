"""Scored views: the noisy canvases that a likelihood estimator looks at, and what it scores in each."""

from redraft.rl.views.edits import draft_view
from redraft.rl.views.elbo import MaskLaw, elbo_views
from redraft.rl.views.make import make_views
from redraft.rl.views.supervised import supervised_view
from redraft.rl.views.trajectory import StepLaw, trajectory_views
from redraft.rl.views.view import View, draw, fingerprint, position_counter

__all__ = [
    "MaskLaw",
    "StepLaw",
    "View",
    "draft_view",
    "draw",
    "elbo_views",
    "fingerprint",
    "make_views",
    "position_counter",
    "supervised_view",
    "trajectory_views",
]
