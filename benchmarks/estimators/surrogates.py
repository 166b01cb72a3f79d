"""What an estimator adds up, as coefficients of the table of all log-probabilities of one block.

Every view of a one-block completion shows a state of `estimators.exact.BlockSpace`, so any sum of weighted views is
`sum_{s, i, v} C[s, i, v] log p_i(v | s)`. Thousands of rollouts, or all that are possible, become one such C, and
their gradient one backward pass.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmarks.estimators.exact import BlockSpace
from redraft.rl.protocols import Experience
from redraft.rl.views import View
from redraft.rl.views.canvas import CanvasBatch, collate
from redraft.rollout.trajectory import Completion, DecodeTrace, Prompt

Table = Float[Tensor, "states length vocab_size"]


def view_coefficients(
    batch: CanvasBatch, views: Sequence[View], worth: Float[Tensor, " batch"], space: BlockSpace
) -> Table:
    """C of some rows' views, every row times its worth (an advantage, a probability, or both).

    Args:
        batch: Rows with a prompt of whole blocks and one block of completion.
        views: Of the batch.
        worth: Of each row.
        space: The states of the last block.

    Raises:
        ValueError: If a view changes the prompt: the table holds the states behind one prompt.
    """
    if any(view.context is not None for view in views):
        raise ValueError("views with a changed prompt are not in the table of one prompt; use prompt_mask_ratio: 0")
    coefficients = torch.zeros(space.size, space.length, space.vocab_size, dtype=torch.float64)
    for view in views:
        row, slot = view.scored[:, -space.length :].nonzero(as_tuple=True)
        position = slot + batch.tokens.shape[1] - space.length
        state = space.index(view.noisy[:, -space.length :])[row]
        weight = worth[row] * view.weight[row, position]
        coefficients.index_put_((state, slot, view.target[row, position]), weight, accumulate=True)
    return coefficients


def elbo_coefficients(worth: Float[Tensor, " states"], space: BlockSpace) -> Table:
    """C of the exact ELBO of every full state, times its worth: sum over masks of l_M / (|M| C(L, |M|)) (E3)."""
    full = space.full.nonzero().squeeze(-1)
    blocks, coefficients = space.states[full], torch.zeros(space.size, space.length, space.vocab_size).double()
    for masked, share in _masks(space.length):
        state = space.index(blocks.masked_fill(masked, space.mask))
        for slot in masked.nonzero().squeeze(-1).tolist():
            coefficients.index_put_(
                (state, torch.full_like(state, slot), blocks[:, slot]), share * worth[full], accumulate=True
            )
    return coefficients


def weighted_sum(coefficients: Table, log_prob: Table) -> Float[Tensor, ""]:
    """The sum of C log p; the mask token, at -inf, has no coefficient."""
    return (coefficients * log_prob.masked_fill(coefficients == 0, 0.0)).sum()


def sandwich(
    log_prob: Table, worth: Float[Tensor, " states"], space: BlockSpace, beta: float, mix: float
) -> Float[Tensor, ""]:
    """SPG's surrogate with its expectations over masks exact, summed over full states times their worth.

    Where the worth is negative the ELBO is replaced by (1 - mix) ELBO + mix EUBO, with
    EUBO = (1 / beta) sum_i log sum_{M containing i} c_M p(y_i | y without M)^beta and c_M as in the ELBO.

    Source: SPG (arXiv 2510.09541).
    """
    full = space.full.nonzero().squeeze(-1)
    blocks, parts = space.states[full], [[] for _ in range(space.length)]
    for masked, share in _masks(space.length):
        state = space.index(blocks.masked_fill(masked, space.mask))
        for slot in masked.nonzero().squeeze(-1).tolist():
            parts[slot].append(beta * log_prob[state, slot, blocks[:, slot]] + math.log(share))
    upper = torch.stack([torch.stack(part).logsumexp(0) for part in parts]).sum(0) / beta
    negative = worth.clamp_max(0.0)
    lower = elbo_coefficients(worth - mix * negative, space)
    return weighted_sum(lower, log_prob) + mix * (negative[full] * upper).sum()


def _masks(length: int) -> list[tuple[Tensor, float]]:
    """Every non-empty mask and its weight c_M; the weights of the masks with a given slot sum to 1."""
    masks = []
    for bits in itertools.product((False, True), repeat=length):
        if any(bits):
            masks.append((torch.tensor(bits), 1 / (sum(bits) * math.comb(length, sum(bits)))))
    return masks


def canvases(prompt: tuple[int, ...], blocks: Int[Tensor, "rows length"], first_seed: int) -> CanvasBatch:
    """Completions without a story, one noise seed each."""
    untold = DecodeTrace(-1, 0, (), (), (), (), (), ())
    rows = [
        Experience(Prompt("", prompt, 0), Completion("", ids, ids, "length", untold), 1.0, first_seed + row)
        for row, ids in enumerate(map(tuple, blocks.tolist()))
    ]
    return collate(rows, blocks.shape[1], 0, "cpu")


def flat_gradient(value: Float[Tensor, ""], model: nn.Module) -> Float[Tensor, " weights"]:
    """By all weights that learn, as one vector; the graph is kept."""
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    parts = torch.autograd.grad(value, learned, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def cosine(one: Float[Tensor, " n"], other: Float[Tensor, " n"]) -> float:
    """Of the angle between two gradients."""
    return float(torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=0))
