"""Which completions an update learns from, and which of its optimizer steps learns from which."""

import math
from collections.abc import Sequence
from itertools import chain

import torch

from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.choices import ElboAnchor
from redraft.rl.objective.losses import preference_pairs
from redraft.rl.protocols import Experience
from redraft.rl.seeding import make_generator


def learned_rows(rows: Sequence[Experience], algorithm: AlgorithmConfig) -> list[Experience]:
    """Choose the completions that the loss can have a slope at.

    These are all of them if the loss has a KL or is `stable` or `squared`. For `dpo` they are those in a pair, and with
    an anchor those of positive advantage too. Otherwise they are those with an advantage. The others are not scored at
    all. They still count in every normaliser.
    """
    if algorithm.needs_all_rows:
        return list(rows)
    if algorithm.loss.kind != "dpo" or not rows:
        return [row for row in rows if row.advantage != 0]
    advantage = torch.tensor([row.advantage for row in rows], dtype=torch.float64)
    pairs = preference_pairs(advantage, torch.tensor([row.prompt.group for row in rows]))
    chosen = set(pairs.flatten().tolist())
    if isinstance(algorithm.regulariser.anchor, ElboAnchor):
        chosen |= {index for index, row in enumerate(rows) if row.advantage > 0}
    return [rows[index] for index in sorted(chosen)]


def minibatches(
    learned: Sequence[Experience], algorithm: AlgorithmConfig, seed: int, version: int
) -> list[list[Experience]]:
    """Choose the completions of each optimizer step of a pass: put groups into random order, cut parts of one size.

    In the order of the data, a data set that is sorted by task would give every optimizer step another task. The
    completions of a group stay neighbours, because their advantages add up to 0: what they have in common cancels
    inside a minibatch. A border between two parts may cut a group, unless the loss compares inside groups.

    Args:
        learned: Completions of the batch.
        algorithm: Number of parts, and whether groups must be whole.
        seed: Of the run.
        version: Of the policy that wrote the completions. With the seed it decides the order, so a resumed run repeats
            it.
    """
    groups: dict[int, list[Experience]] = {}
    for row in learned:
        groups.setdefault(row.prompt.group, []).append(row)
    whole = list(groups.values())
    if algorithm.update.num_minibatches > 1:
        order = torch.randperm(len(whole), generator=make_generator(seed, "minibatches", version))
        whole = [whole[index] for index in order.tolist()]
    # What is not cut: a group, or a single completion.
    units = whole if algorithm.compares_in_groups else [[row] for group in whole for row in group]
    size = max(1, math.ceil(len(units) / algorithm.update.num_minibatches))
    parts = [units[start : start + size] for start in range(0, len(units), size)]
    return [list(chain.from_iterable(part)) for part in parts]
