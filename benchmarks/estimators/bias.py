"""Bias of the ELBO's estimators on a block small enough for every mask: exact where masks have known probabilities."""

import math
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.common.plain import plain
from benchmarks.estimators.exact import BlockSpace, block_logits
from benchmarks.estimators.fixtures import SumPolicy
from benchmarks.estimators.surrogates import (
    Table,
    canvases,
    elbo_coefficients,
    flat_gradient,
    view_coefficients,
    weighted_sum,
)
from benchmarks.estimators.variance import SCHEMES
from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.estimators import Cyclic, Elbo, ExactCount, Gauss
from redraft.rl.views import View, make_views
from redraft.rl.views.canvas import CanvasBatch
from redraft.rl.views.elbo import count_distribution, mask_count
from redraft.rl.views.make import masking_scheme

OTHERS: Final = {
    "mean field (d1)": {"estimator": {"kind": "mean_field", "num_mc": 1}},
    "coupled (DiffuCoder)": {"estimator": "coupled", "loss": {"ratio": "position"}},
    "spaced levels (UniGRPO)": {"estimator": "random_mask"},
    "left to right (JustGRPO)": {"estimator": {"kind": "autoregressive", "num_mc": 5}},
}
NUM_MC: Final = 2


class Bias(NamedTuple):
    """How far an estimator's mean is from the exact ELBO.

    Attributes:
        exact: Nats, by summing over all masks with their known probabilities; None where the scheme is only sampled.
        measured: Nats, over draws.
        error: Standard error of `measured`.
        gradient: Norm of the gradient's bias relative to the ELBO's gradient, measured.
        gradient_floor: What draws alone would show there.
    """

    exact: float | None
    measured: float
    error: float
    gradient: float
    gradient_floor: float


def measure_biases(policy: SumPolicy, draws: int) -> dict[str, Bias]:
    """Every estimator at two forwards, on the first prompt's right answer."""
    prompt, space = policy.prompts[0], policy.space
    log_prob = block_logits(policy.model, prompt, space).log_softmax(-1)
    right = policy.reward(prompt) * space.full
    target = int(right.nonzero()[0])
    worth = torch.zeros(space.size, dtype=torch.float64)
    worth[target] = 1.0
    truth = elbo_coefficients(worth, space)
    batch = canvases(prompt, space.states[target].expand(draws, -1), first_seed=0)
    scale = flat_gradient(weighted_sum(truth, log_prob), policy.model).norm().item()
    found = {}
    for name, config in _configs().items():
        views = make_views(batch, config, space.mask, score_edits=True)
        exact = None
        if isinstance(config.estimator, Elbo):
            sizes = expected_weights(config.estimator, space.length)
            exact = weighted_sum(_by_size(truth, sizes, space) - truth, log_prob).item()
        one = _measure(policy, batch, views, log_prob, truth)
        found[name] = one._replace(
            exact=exact, gradient=one.gradient / scale, gradient_floor=one.gradient_floor / scale
        )
    return found


def _configs() -> dict[str, AlgorithmConfig]:
    others = {name: plain(settings) for name, settings in OTHERS.items()}
    return {scheme.name: scheme.config(NUM_MC) for scheme in SCHEMES} | others


def _measure(policy: SumPolicy, batch: CanvasBatch, views: list[View], log_prob: Table, truth: Table) -> Bias:
    """Over draws, the gradient's bias not yet relative to anything.

    The product of the errors of two halves of the draws has the squared bias as its mean, without the noise's square.
    """
    count, space = len(batch.tokens), policy.space
    values = _row_values(batch, views, log_prob.detach(), space) - weighted_sum(truth, log_prob).item()
    halves = torch.arange(count) < count // 2
    errors = [
        flat_gradient(
            weighted_sum(view_coefficients(batch, views, half / half.sum(), space) - truth, log_prob), policy.model
        )
        for half in (halves.double(), (~halves).double())
    ]
    floor = (errors[0] - errors[1]).norm() / 2  # the noise of the mean of both halves
    bias = (errors[0] @ errors[1]).clamp_min(0.0).sqrt()
    return Bias(
        None,
        values.mean().item(),
        values.std().item() / count**0.5,
        bias.item(),
        floor.item(),
    )


def _row_values(batch: CanvasBatch, views: list[View], log_prob: Table, space: BlockSpace) -> Float[Tensor, " batch"]:
    """Each row's estimate, in nats."""
    total = torch.zeros(len(batch.tokens), dtype=torch.float64)
    for view in views:
        row, slot = view.scored[:, -space.length :].nonzero(as_tuple=True)
        position = slot + batch.tokens.shape[1] - space.length
        state = space.index(view.noisy[:, -space.length :])[row]
        terms = view.weight[row, position] * log_prob[state, slot, view.target[row, position]]
        total = total.index_add(0, row, terms)
    return total


def expected_weights(estimator: Elbo, length: int) -> Float[Tensor, " sizes"]:
    """E[sum over views of weight where |M| = k], for k = 0 to L; an unbiased scheme has 1 / k everywhere.

    Every view's level is uniform on [0, 1), alone (strata and grids only tie views together), or a fixed node; the
    learner's own `mask_count` maps it to k and its weight, and is constant between the edges integrated over here.
    """
    noise = estimator.noise
    if noise.kind == "bernoulli":  # C(L, k) times the integral of t^(k-1) (1 - t)^(L-k), which is 1 / k
        chances = [math.comb(length, k) * _beta(k, length - k + 1) for k in range(1, length + 1)]
        return torch.tensor([0.0, *chances], dtype=torch.float64)
    scheme, size = masking_scheme(estimator), torch.tensor([[length]])
    edges = {0.0, 1.0, *(i / length for i in range(length)), *(i / (length + 1) for i in range(length + 1))}
    exponent = noise.count_exponent if isinstance(noise, ExactCount | Cyclic) else 0.0
    edges |= set(count_distribution(size, length, exponent).cumsum(-1).flatten().tolist())
    ends = torch.tensor(sorted(edges), dtype=torch.float64)
    middles, widths = (ends[1:] + ends[:-1]) / 2, ends.diff()
    weights = torch.zeros(length + 1, dtype=torch.float64)
    for view in range(estimator.num_mc):
        if isinstance(noise, Gauss):
            node = _gauss_node(estimator, view)
            middles, widths = torch.tensor([node], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        for level, width in zip(middles, widths, strict=True):
            count, weight = mask_count(level.view(1, 1), size, view, scheme)
            weights[int(count)] += width * weight.item()
    return weights


def _beta(a: int, b: int) -> float:
    return math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))


def _gauss_node(estimator: Elbo, view: int) -> float:
    nodes = torch.from_numpy(np.polynomial.legendre.leggauss(estimator.num_mc // estimator.views_per_level)[0])
    return float((nodes[view // estimator.views_per_level] + 1) / 2)


def _by_size(truth: Table, sizes: Float[Tensor, " sizes"], space: BlockSpace) -> Table:
    """Coefficients of an estimator whose masks of one size are equally likely, from those of the ELBO (1 / k)."""
    count = space.masked.sum(-1)
    return truth * (sizes * torch.arange(space.length + 1))[count][:, None, None]
