"""The loss of a batch that is split over micro-batches or ranks adds up to the loss of the whole, for every preset."""

import dataclasses

import pytest
import torch

from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.presets import PRESETS
from redraft.rl.objective.policy_loss import policy_loss
from redraft.rl.objective.terms import Normaliser, Policies, Terms
from short_names import short


def random_case(algorithm: AlgorithmConfig) -> tuple[Terms, list[torch.Tensor]]:
    """Four groups of two rows; three views of three positions, the last view of edits; random numbers elsewhere."""
    source = torch.Generator().manual_seed(5)

    def random(size: int) -> torch.Tensor:
        return torch.randn(size, dtype=torch.float64, generator=source)

    place = torch.cartesian_prod(torch.arange(8), torch.arange(3), torch.arange(3))
    lent = (place[:, 1] == 1) if algorithm.regulariser.anchor.kind == "elbo" else torch.zeros(72, dtype=torch.bool)
    terms = Terms(
        sequence=place[:, 0],
        position=place[:, 2],
        view=place[:, 1],
        weight=random(72).abs() + 0.1,
        edit=place[:, 1] == 2,
        anchor=lent,
        engine=torch.full((72,), torch.nan, dtype=torch.float64),
        advantage=random(8),
        editable=random(8).abs() * 5 + 1,
        group=torch.arange(8) // 2,
    )
    return terms, [-random(72).abs(), -random(72).abs(), -random(72).abs()]


def part_slopes(terms: Terms, policies: list[torch.Tensor], rows: list[int], algorithm: AlgorithmConfig):
    """Loss, its slope and its sums of some rows, as one process that has only those rows would find them."""
    inside = torch.isin(terms.sequence, torch.tensor(rows))
    some = dataclasses.replace(
        terms.select(inside), advantage=terms.advantage[rows], editable=terms.editable[rows], group=terms.group[rows]
    )
    some = dataclasses.replace(some, sequence=torch.searchsorted(torch.tensor(rows), some.sequence))
    current = policies[0][inside].requires_grad_()
    reference = policies[2][inside] if algorithm.needs_reference else None
    loss, sums = policy_loss(Policies(current, policies[1][inside], reference), some, algorithm, Normaliser(8, 9, 77))
    (slope,) = torch.autograd.grad(loss, current)
    return loss.item(), slope, {name: value.item() for name, value in sums.items()}


SPLIT = {**{name: {"preset": name} for name in PRESETS}, "KL in the reward": {"beta": 0.3, "kl": "k1_reward"},
         "anchor": {"anchor": 0.1}, "own anchor": {"preset": "ebpo", "anchor": 0.1}}  # fmt: skip


@pytest.mark.parametrize("algorithm", [short(**some) for some in SPLIT.values()], ids=SPLIT.keys())
def test_the_slopes_of_two_ranks_with_whole_groups_are_those_of_one_process(algorithm):
    terms, policies = random_case(algorithm)
    loss, slope, sums = part_slopes(terms, policies, list(range(8)), algorithm)
    assert slope.abs().max() > 1e-3
    splits = [[[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 1], [2, 3, 4, 5, 6, 7]]]
    if not algorithm.compares_in_groups:
        splits.append([[row] for row in range(8)])
    for split in splits:
        parts = [part_slopes(terms, policies, rows, algorithm) for rows in split]
        assert sum(part[0] for part in parts) == pytest.approx(loss, abs=1e-12)
        torch.testing.assert_close(torch.cat([part[1] for part in parts]), slope, rtol=0, atol=1e-12)
        for name, value in sums.items():
            assert sum(part[2][name] for part in parts) == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("name", ["stabledrl", "vrpo", "KL in the reward"])
def test_what_compares_in_groups_says_so_and_does_depend_on_split_groups(name):
    algorithm = short(**SPLIT[name])
    assert algorithm.compares_in_groups
    terms, policies = random_case(algorithm)
    _, slope, _ = part_slopes(terms, policies, list(range(8)), algorithm)
    parts = [part_slopes(terms, policies, [row], algorithm) for row in range(8)]
    assert (torch.cat([part[1] for part in parts]) - slope).abs().max() > 1e-3
