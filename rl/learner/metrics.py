"""Metrics of an update: sums that micro-batches add up, and the means that are reported."""

from jaxtyping import Float
from torch import Tensor

from redraft.rl.likelihood.score import Scores
from redraft.rl.models.route_tape import RouteTape
from redraft.rl.views import View

MetricSums = dict[str, float]

_MEANS = {
    "objective/loss": ("loss", "steps"),
    "objective/kl": ("kl", "steps"),
    "objective/anchor": ("anchor", "steps"),
    "objective/grad_norm": ("grad_norm", "steps"),
    "objective/learning_rate": ("learning_rate", "steps"),
    "objective/clip_fraction": ("clip_fraction", "ratios"),
    "objective/log_ratio_abs": ("log_ratio_abs", "ratios"),
    "objective/drift": ("drift", "drifting"),
    "objective/t2t_clip_fraction": ("t2t_clip_fraction", "t2t_ratios"),
    "objective/t2t_log_ratio_abs": ("t2t_log_ratio_abs", "t2t_ratios"),
    "objective/entropy": ("entropy", "scored"),
    "objective/log_prob": ("log_prob", "rows"),
    "mismatch/log_prob_abs": ("mismatch", "replayed"),
    "moe/router_agreement": ("routes_used", "routes_known"),
    "moe/live_agreement": ("routes_live", "routes_known"),
    "mismatch/path_fraction": ("path_mismatch", "path_states"),
    "mismatch/correction": ("correction", "ratios_all"),
    "mismatch/truncated_fraction": ("truncated", "ratios_all"),
}
"""Metric: which sum is divided by which."""


def view_sums(scores: Scores, view: View) -> MetricSums:
    """What one scored view adds."""
    return {
        "scored": float(len(scores.log_prob)),
        "entropy": scores.entropy.sum().item(),
        "log_prob": 0.0 if view.anchor else (scores.log_prob.detach() * view.weight[view.scored]).sum().item(),
    }


def mismatch_sums(log_prob: Float[Tensor, " scored"], view: View) -> MetricSums:
    """How far the rollout policy's log-probabilities are from what the engine recorded when it drew the tokens."""
    if view.rollout_log_prob is None:
        return {}
    gap = (log_prob.detach() - view.rollout_log_prob[view.scored]).abs()
    return {"mismatch": gap.nansum().item(), "replayed": float((~gap.isnan()).sum())}


def route_sums(tape: RouteTape | None) -> MetricSums:
    """How many (layer, token) pairs ran on the experts they were given, and how many would have by themselves."""
    if tape is None:
        return {}
    agreement = tape.agreement()
    return {"routes_known": agreement.known, "routes_used": agreement.used, "routes_live": agreement.live}


def add_sums(sums: MetricSums, extra: MetricSums) -> None:
    """Add up."""
    for name, value in extra.items():
        sums[name] = sums.get(name, 0.0) + value


def ratio_count(sums: MetricSums) -> float:
    """Ratios of both kinds."""
    return sums.get("ratios", 0.0) + sums.get("t2t_ratios", 0.0)


def update_metrics(sums: MetricSums) -> dict[str, float]:
    """Means from sums; a metric whose denominator never occurred is left out."""
    counts = sums | {"ratios_all": ratio_count(sums)}
    return {
        name: counts[top] / counts[bottom]
        for name, (top, bottom) in _MEANS.items()
        if top in counts and counts.get(bottom)
    }
