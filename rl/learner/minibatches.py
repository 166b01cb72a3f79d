"""Which completions an update learns from, and in which optimizer step of it."""

from collections.abc import Sequence

import torch

from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.objective.losses import preference_pairs
from redraft.rl.protocols import Experience
from redraft.rl.seeding import make_generator


def learned_rows(rows: Sequence[Experience], algorithm: AlgorithmConfig) -> list[Experience]:
    """The rows that the loss can have a slope at: with an advantage, in a pair (dpo), or all of them (a KL).

    The others are not scored at all. They still count in every normaliser.
    """
    if algorithm.needs_all_rows:
        return list(rows)
    if algorithm.loss_type != "dpo" or not rows:
        return [row for row in rows if row.advantage != 0]
    advantage = torch.tensor([row.advantage for row in rows], dtype=torch.float64)
    pairs = preference_pairs(advantage, torch.tensor([row.prompt.group for row in rows]))
    chosen = set(pairs.flatten().tolist())
    anchored = {index for index, row in enumerate(rows) if algorithm.anchor and row.advantage > 0}
    return [rows[index] for index in sorted(chosen | anchored)]


def minibatches(
    learned: Sequence[Experience], algorithm: AlgorithmConfig, seed: int, version: int
) -> list[list[Experience]]:
    """Rows of each optimizer step of a pass: groups in random order, cut into parts of one size.

    Data sorted by task would otherwise give every optimizer step another task. Completions of a group stay neighbours,
    because their advantages add up to 0: what they have in common cancels inside a minibatch. A border cuts a group
    only where the loss does not compare inside groups.

    Args:
        learned: Rows of the batch.
        algorithm: Number of parts, and whether groups must be whole.
        seed: Of the run.
        version: Of the policy that wrote the rows; with the seed it decides the order, so a resumed run has the same.
    """
    groups: dict[int, list[Experience]] = {}
    for row in learned:
        groups.setdefault(row.prompt.group, []).append(row)
    whole = list(groups.values())
    if algorithm.num_minibatches > 1:
        order = torch.randperm(len(whole), generator=make_generator(seed, "minibatches", version))
        whole = [whole[index] for index in order.tolist()]
    units = whole if algorithm.compares_in_groups else [[row] for group in whole for row in group]
    size = max(1, -(-len(units) // algorithm.num_minibatches))
    return [[row for unit in units[at : at + size] for row in unit] for at in range(0, len(units), size)]
