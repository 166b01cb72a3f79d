"""The exact ELBO of one block in the four forms of docs/math.md (eq 1 to 4), by enumerating every mask."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from oracles.plain_forward import block_log_probs

MaskTable = dict[frozenset[int], dict[int, float]]
"""For every set of masked slots: the log-probability of the true token at each of them."""


@torch.no_grad()
def mask_table(
    model: nn.Module, tokens: Sequence[int], start: int, editable: Sequence[int], block_length: int, mask_id: int
) -> MaskTable:
    """One plain forward for every non-empty mask of a block's editable positions (absolute)."""
    table: MaskTable = {}
    for masked in subsets(editable):
        block = [mask_id if start + slot in masked else tokens[start + slot] for slot in range(block_length)]
        log_probs = block_log_probs(model, tokens[:start], block, mask_id)
        table[masked] = {i: log_probs[i - start, tokens[i]].item() for i in masked}
    return table


def subsets(positions: Sequence[int]) -> list[frozenset[int]]:
    """Every non-empty subset."""
    sizes = range(1, len(positions) + 1)
    return [frozenset(chosen) for size in sizes for chosen in itertools.combinations(positions, size)]


def level_integral(table: MaskTable) -> float:
    """Eq 1: mean over t ~ U(0, 1) and Bernoulli(t) masks of l_M / t; the integrand is a polynomial in t."""
    n = max(map(len, table))
    nodes, weights = np.polynomial.legendre.leggauss(n)
    total = 0.0
    for t, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        for masked, terms in table.items():
            total += weight * t ** len(masked) * (1 - t) ** (n - len(masked)) / t * sum(terms.values())
    return total


def count_average(table: MaskTable) -> float:
    """Eq 2: mean over k ~ U{1..n} and k-subsets of (n / k) l_M."""
    n = max(map(len, table))
    total = 0.0
    for k in range(1, n + 1):
        sums = [sum(terms.values()) for masked, terms in table.items() if len(masked) == k]
        total += n / k * (sum(sums) / len(sums)) / n
    return total


def enumerated(table: MaskTable) -> float:
    """Eq 3: the sum over masks of l_M / (|M| C(n, |M|))."""
    n = max(map(len, table))
    return sum(sum(terms.values()) / (len(masked) * math.comb(n, len(masked))) for masked, terms in table.items())


def any_order(table: MaskTable) -> float:
    """Eq 4: mean over orders of unmasking of the sum of log p(next token | tokens before it in the order)."""
    orders = list(itertools.permutations(max(table, key=len)))
    return sum(sum(table[frozenset(order[j:])][i] for j, i in enumerate(order)) for order in orders) / len(orders)
