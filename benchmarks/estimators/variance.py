"""Variance of the ELBO's estimators, measured on the views that the learner uses."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmarks.common.batches import take_rows
from benchmarks.common.plain import plain
from benchmarks.estimators.surrogates import canvases, flat_gradient
from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.likelihood.score import score_view
from redraft.rl.views import View, make_views
from redraft.rl.views.canvas import CanvasBatch

Tick = Callable[[], None]


@dataclass(frozen=True)
class Scheme:
    """A row of the variance table.

    Attributes:
        name: As printed.
        noise: The `noise` of the ELBO.
        independent: Its views are, so that n of them have exactly 1 / n of the variance of one.
        unbiased: Its mean is the ELBO.
    """

    name: str
    noise: str | dict[str, object]
    independent: bool = False
    unbiased: bool = True

    def config(self, num_mc: int) -> AlgorithmConfig:
        """The estimator at a number of forwards."""
        return plain({"estimator": {"kind": "elbo", "num_mc": num_mc, "noise": self.noise}})


BUDGETS: Final = (1, 2, 4, 8)
SMALLEST_LEVEL: Final = 1e-3  # of Bernoulli 1/t, as in LLaDA's published code
IID: Final = Scheme("exact count, iid", {"stratify": False}, independent=True)
BERNOULLI: Final = Scheme("Bernoulli 1/t", {"kind": "bernoulli", "stratify": False}, independent=True)
BEST: Final = Scheme("stratified + importance + tiles (ebpo)", {"count_exponent": 0.5, "tiles": True})
SCHEMES: Final = (
    IID,
    BERNOULLI,
    Scheme("two masks per level", {"stratify": False, "masks_per_level": 2}),
    Scheme("stratified counts", {}),
    Scheme("cyclic grid (DARE)", "cyclic"),
    Scheme("Gauss nodes (GDPO)", "gauss", unbiased=False),
    Scheme("coupled pairs (ESPO)", {"kind": "coupled", "stratify": False}),
    Scheme("folded pairs", {"kind": "folded", "stratify": False}),
    Scheme("tiles", {"stratify": False, "tiles": True}),
    Scheme("importance-sampled counts", {"stratify": False, "count_exponent": 0.5}, independent=True),
    BEST,
)


class Spread(NamedTuple):
    """Variance of an estimator over draws.

    Attributes:
        gradient: Summed over weights.
        gradient_error: Its standard error.
        value: Of the ELBO estimate, nats^2.
    """

    gradient: float
    gradient_error: float
    value: float

    def over(self, count: int) -> "Spread":
        """Of the mean of so many independent ones."""
        return Spread(self.gradient / count, self.gradient_error / count, self.value / count)


def score_together(model: nn.Module, batch: CanvasBatch, views: Sequence[View], mask: int) -> Float[Tensor, " batch"]:
    """Each row's weighted sum of log-probabilities over all views, in one forward."""
    tall = take_rows(batch, list(range(len(batch.tokens))) * len(views))
    noisy, target, scored, weight, edit = (
        torch.cat([getattr(view, name) for view in views]) for name in ("noisy", "target", "scored", "weight", "edit")
    )
    scores = score_view(model, tall, View(noisy, target, scored, weight, edit), mask, temperature=1.0)
    terms = weight[scored] * scores.log_prob
    return torch.zeros(len(batch.tokens), dtype=terms.dtype).index_add(0, scores.sequence % len(batch.tokens), terms)


def gradient_spread(
    model: nn.Module, rows: Sequence[Tensor], config: AlgorithmConfig, mask: int, draws: int, tick: Tick
) -> Spread:
    """Variance over noise draws of the gradient of one completion's ELBO, averaged over completions.

    Gradients are whole ones, nothing is projected: sums of squares against the square of the mean.

    Args:
        model: The policy.
        rows: Completions of one block without a prompt.
        config: The estimator.
        mask: The mask token.
        draws: Per completion.
        tick: Called after every completion.
    """
    return _average([_after(tick, _moments(model, block, config, mask, draws).spread()) for block in rows])


def count_spreads(model: nn.Module, rows: Sequence[Tensor], mask: int, draws: int, tick: Tick) -> tuple[Spread, Spread]:
    """Variances of one view of iid exact counts and of Bernoulli 1/t, t in [SMALLEST_LEVEL, 1), from the same draws.

    Given their number k masked positions have the same distribution in both, so second moments of the one are
    reweighted ones of the other. Drawing Bernoulli masks instead would measure nothing: without a smallest t its
    variance is infinite (a single mask has probability n t and weight 1 / t, and the integral of n t / t^2 diverges
    at 0).
    """
    counts, masks = [], []
    for block in rows:
        found = _moments(model, block, IID.config(1), mask, draws)
        counts.append(found.spread())
        masks.append(_after(tick, found.reweighted(bernoulli_ratio(len(block))[found.counts]).spread()))
    return _average(counts), _average(masks)


def bernoulli_ratio(length: int) -> Float[Tensor, " counts"]:
    """Of second moments, at each number k of masked positions: (Bernoulli's chance weight^2) / (exact count's).

    Bernoulli: integral over t of C(n, k) t^(k - 2) (1 - t)^(n - k); exact count: (1 / n) (n / k)^2. k = 0 has no terms.
    """
    nodes, weights = np.polynomial.legendre.leggauss(4 * length)
    low, ratio = math.log(SMALLEST_LEVEL), [0.0]
    t = np.exp(low * (1 - nodes) / 2)  # nodes in log t: the integrand of k = 1 is nearly 1 / t
    for k in range(1, length + 1):
        integral = float((math.comb(length, k) * t ** (k - 1) * (1 - t) ** (length - k) * weights).sum() * -low / 2)
        ratio.append(integral / (length / k**2))
    return torch.tensor(ratio, dtype=torch.float64)


@dataclass(frozen=True)
class _Moments:
    """Draws of one completion's estimate.

    Attributes:
        squares: Squared norm of each gradient.
        mean: The mean gradient.
        values: Nats.
        mean_value: Nats.
        counts: Masked positions of each draw's first view.
    """

    squares: Float[Tensor, " draws"]
    mean: Float[Tensor, " weights"]
    values: Float[Tensor, " draws"]
    mean_value: float
    counts: Int[Tensor, " draws"]

    def reweighted(self, ratio: Float[Tensor, " draws"]) -> "_Moments":
        """Second moments under another masking scheme with the same mean."""
        return replace(self, squares=self.squares * ratio, values=self.values * ratio.sqrt())

    def spread(self) -> Spread:
        """Variances; `draws - 1` degrees of freedom."""
        draws = len(self.squares)
        deviations = self.squares - self.mean.square().sum()
        value = (self.values.square().sum() - draws * self.mean_value**2) / (draws - 1)
        gradient = deviations.sum() / (draws - 1)
        return Spread(gradient.item(), deviations.std().item() / draws**0.5, value.item())


def _moments(model: nn.Module, block: Tensor, config: AlgorithmConfig, mask: int, draws: int) -> _Moments:
    batch = canvases((), block.expand(draws, -1), first_seed=0)
    views = make_views(batch, config, mask, score_edits=False)
    with torch.no_grad():
        values = score_together(model, batch, views, mask)
    total, squares = torch.zeros(()), []
    for draw in range(draws):
        one, own = take_rows(batch, [draw]), [_view_row(view, draw) for view in views]
        vector = flat_gradient(score_together(model, one, own, mask).sum(), model)
        total = total + vector
        squares.append(vector.square().sum())
    return _Moments(torch.stack(squares), total / draws, values, values.mean().item(), views[0].scored.sum(-1))


def _after(tick: Tick, found: Spread) -> Spread:
    tick()
    return found


def _average(spreads: Sequence[Spread]) -> Spread:
    count = len(spreads)
    return Spread(
        sum(one.gradient for one in spreads) / count,
        math.sqrt(sum(one.gradient_error**2 for one in spreads)) / count,
        sum(one.value for one in spreads) / count,
    )


def _view_row(view: View, row: int) -> View:
    span = slice(row, row + 1)
    return View(view.noisy[span], view.target[span], view.scored[span], view.weight[span], view.edit[span])


class LogRatio(NamedTuple):
    """The log-ratio of two policies from ELBO estimates.

    Attributes:
        mean: Nats.
        shared: Variance with the same draws for both policies, nats^2.
        unshared: Variance with draws of their own, nats^2.
    """

    mean: float
    shared: float
    unshared: float


@torch.no_grad()
def log_ratio(
    old: nn.Module, new: nn.Module, rows: Sequence[Tensor], config: AlgorithmConfig, mask: int, draws: int
) -> LogRatio:
    """Averages over completions; unshared draws are those of the neighbouring noise seed."""
    found = []
    for block in rows:
        batch = canvases((), block.expand(draws, -1), first_seed=0)
        views = make_views(batch, config, mask, score_edits=False)
        before, after = (score_together(model, batch, views, mask) for model in (old, new))
        found.append([(after - before).mean(), (after - before).var(), (after - before.roll(1)).var()])
    return LogRatio(*torch.tensor(found).abs().mean(0).tolist())
