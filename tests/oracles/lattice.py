"""The likelihood of a completion under random-order sampling, by a dynamic programme over sets of visible slots.

    P_rand(y) = mean over orders of prod_j p(y_order(j) | y_order(<j))

The sum over L! orders is a sum over paths in the lattice of the 2^L visible sets: every step from a set S goes to
S + i with probability 1 / (L - |S|) and draws y_i with probability p(y_i | y_S).
"""

import itertools
import math

from oracles.elbo import MaskTable


def random_order_log_likelihood(table: MaskTable) -> float:
    """log P_rand(y), in nats, from the true tokens' log-probabilities under every mask."""
    slots = max(table, key=len)
    reach = {frozenset(): 0.0}
    for size in range(len(slots)):
        following: dict[frozenset[int], float] = {}
        for visible, log_mass in reach.items():
            masked = slots - visible
            for slot in masked:
                step = log_mass + table[masked][slot] - math.log(len(slots) - size)
                larger = visible | {slot}
                following[larger] = _log_add(following.get(larger, -math.inf), step)
        reach = following
    (log_likelihood,) = reach.values()
    return log_likelihood


def order_average(table: MaskTable) -> float:
    """log P_rand(y) by its definition: every order on its own."""
    orders = list(itertools.permutations(max(table, key=len)))
    logs = [sum(table[frozenset(order[j:])][i] for j, i in enumerate(order)) for order in orders]
    return math.log(sum(map(math.exp, logs)) / len(orders))


def _log_add(left: float, right: float) -> float:
    high, low = max(left, right), min(left, right)
    return high + math.log1p(math.exp(low - high))
