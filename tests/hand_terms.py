"""Scored positions with numbers that can be checked by hand, and the objective on them."""

import torch

from redraft.rl.config.schema import AlgorithmConfig
from redraft.rl.objective.policy_loss import policy_loss
from redraft.rl.objective.terms import Normaliser, Policies, Terms


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def logs(*ratios: float) -> torch.Tensor:
    return doubles(*ratios).log()


def make_terms(row, weight, edit, advantage, editable, **more) -> Terms:
    """Scored positions of one view, every one at a position of its own, each row a group."""
    number = torch.arange(len(row))
    named = {
        "position": number, "view": torch.zeros_like(number), "anchor": number < 0,
        "engine": torch.full_like(weight, torch.nan), "group": torch.arange(len(advantage)),
    }  # fmt: skip
    return Terms(row=row, weight=weight, edit=edit, advantage=advantage, editable=editable, **{**named, **more})


# Row 0: two M2T terms and one T2T term; row 1: one M2T term; row 2: nothing scored.
TERMS = make_terms(
    row=torch.tensor([0, 1, 0, 0]),
    weight=doubles(1.0, 2.0, 3.0, 4.0),
    edit=torch.tensor([False, False, False, True]),
    advantage=doubles(1.0, -2.0, 5.0),
    editable=doubles(4.0, 9.0, 16.0),
)


def config(**changes) -> AlgorithmConfig:
    return AlgorithmConfig(**{"ratio": "token", "epsilon": 0.2, "epsilon_high": 0.28, **changes})


def losses(current, old, reference, algorithm, terms=TERMS, num_rows=5.0, max_tokens=10):
    policies = Policies(current, old, reference)
    loss, sums = policy_loss(policies, terms, algorithm, Normaliser(num_rows, max_tokens, 100.0))
    return loss.item(), {name: value.item() for name, value in sums.items()}
