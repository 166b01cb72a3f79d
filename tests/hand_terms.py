"""Scored positions with numbers that can be checked by hand, and the objective on them."""

import torch

from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.objective.policy_loss import policy_loss
from redraft.rl.objective.terms import Normaliser, Policies, Terms
from short_names import short


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def logs(*ratios: float) -> torch.Tensor:
    return doubles(*ratios).log()


def make_terms(sequence, weight, edit, advantage, editable, **more) -> Terms:
    """Scored positions of one view, every one at a position of its own, each sequence a group."""
    number = torch.arange(len(sequence))
    named = {
        "position": number, "view": torch.zeros_like(number), "anchor": number < 0,
        "engine": torch.full_like(weight, torch.nan), "group": torch.arange(len(advantage)),
    }  # fmt: skip
    return Terms(
        sequence=sequence, weight=weight, edit=edit, advantage=advantage, editable=editable, **{**named, **more}
    )


# Sequence 0: two M2T terms and one T2T term; sequence 1: one M2T term; sequence 2: nothing scored.
TERMS = make_terms(
    sequence=torch.tensor([0, 1, 0, 0]),
    weight=doubles(1.0, 2.0, 3.0, 4.0),
    edit=torch.tensor([False, False, False, True]),
    advantage=doubles(1.0, -2.0, 5.0),
    editable=doubles(4.0, 9.0, 16.0),
)


def config(**changes) -> AlgorithmConfig:
    return short(**{"ratio": "token", **changes})


def losses(current, old, reference, algorithm, terms=TERMS, num_sequences=5.0, max_tokens=10):
    policies = Policies(current, old, reference)
    loss, sums = policy_loss(policies, terms, algorithm, Normaliser(num_sequences, max_tokens, 100.0))
    return loss.item(), {name: value.item() for name, value in sums.items()}
