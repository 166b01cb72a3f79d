"""Metrics of an update: sums over views and optimizer steps, and the means that are reported."""

from jaxtyping import Float
from torch import Tensor

from redraft.rl.likelihood.score import ViewScores
from redraft.rl.views import View
from redraft.rollout.engine.route_tape import RouteTape

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
    "objective/log_prob": ("log_prob", "sequences"),
    "mismatch/log_prob_abs": ("mismatch", "replayed"),
    "moe/router_agreement": ("routes_used", "routes_known"),
    "moe/live_agreement": ("routes_live", "routes_known"),
    "moe/rank_load_max": ("busiest_rows", "even_rows"),
    "mismatch/path_fraction": ("path_mismatch", "path_states"),
    "mismatch/correction": ("correction", "ratios_all"),
    "mismatch/truncated_fraction": ("truncated", "ratios_all"),
}
"""Metric -> the sum that is divided, and the sum that divides it."""


def view_sums(scores: ViewScores, view: View) -> MetricSums:
    """Count and sum what one scored view adds to entropy and log-probability."""
    return {
        "scored": float(len(scores.log_prob)),
        "entropy": scores.entropy.sum().item(),
        "log_prob": 0.0 if view.anchor else (scores.log_prob.detach() * view.weight[view.scored]).sum().item(),
    }


def mismatch_sums(log_prob: Float[Tensor, " scored"], view: View) -> MetricSums:
    """Sum the distance, in nats, of log-probabilities from those that the engine recorded when it drew the tokens.

    Tokens without a record do not count.
    """
    if view.rollout_log_prob is None:
        return {}
    gap = (log_prob.detach() - view.rollout_log_prob[view.scored]).abs()
    return {"mismatch": gap.nansum().item(), "replayed": float((~gap.isnan()).sum())}


def route_sums(tape: RouteTape | None) -> MetricSums:
    """Count the (layer, token) pairs with given experts: all, those that ran on them, and those that chose them too."""
    if tape is None:
        return {}
    agreement = tape.agreement()
    return {"routes_known": agreement.known, "routes_used": agreement.used, "routes_live": agreement.live}


def add_sums(sums: MetricSums, extra: MetricSums) -> None:
    """Add `extra` to `sums` in place."""
    for name, value in extra.items():
        sums[name] = sums.get(name, 0.0) + value


def ratio_count(sums: MetricSums) -> float:
    """Count the ratios, M2T and T2T together."""
    return sums.get("ratios", 0.0) + sums.get("t2t_ratios", 0.0)


def update_metrics(sums: MetricSums) -> dict[str, float]:
    """Divide sums into means; a metric is left out if nothing that it is a mean of occurred."""
    counts = sums | {"ratios_all": ratio_count(sums)}
    return {
        name: counts[top] / counts[bottom]
        for name, (top, bottom) in _MEANS.items()
        if top in counts and counts.get(bottom)
    }
