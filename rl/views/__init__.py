"""Scored views: the noisy canvases that a likelihood estimator looks at, and what it scores in each."""

from rl.views.edits import draft_view
from rl.views.elbo import MaskLaw, elbo_views
from rl.views.estimators import make_views
from rl.views.supervised import supervised_view
from rl.views.trajectory import StepLaw, trajectory_views
from rl.views.view import View, draw, fingerprint, position_counter

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
