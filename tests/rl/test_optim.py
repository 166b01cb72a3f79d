"""The learning rate: schedule, and the trust region's scale by hand (docs/math.md eq 49)."""

import pytest
import torch
from torch import nn

from redraft.rl.config.sections import TrainerConfig
from redraft.rl.learner.optim import hold_drift, make_optimizer, set_learning_rate

CONFIG = TrainerConfig(learning_rate=0.1, warmup_steps=4)


def make() -> torch.optim.AdamW:
    return make_optimizer(nn.Linear(2, 2), CONFIG)


def test_the_rate_rises_linearly_and_stays():
    assert [set_learning_rate(make(), CONFIG, step) for step in (0, 1, 3, 9)] == pytest.approx([0.025, 0.05, 0.1, 0.1])


@pytest.mark.parametrize(
    ("drifts", "rate"),
    [
        ([0.004], 0.05),  # four times too far: half the rate
        ([0.001], 0.1),  # as far as wanted
        ([1.0], 0.025),  # at most a quarter at once
        ([1.0, 1.0], 0.00625),
        ([0.004, 0.0001], 0.06),  # and back by at most 1.2 per batch
        ([0.004, 0.0], 0.06),
        ([0.0001], 0.1),  # never above the recipe's rate
    ],
)
def test_the_scale_holds_the_drift_near_its_target(drifts, rate):
    optimizer = make()
    for drift in drifts:
        hold_drift(optimizer, drift, 0.001)
    assert set_learning_rate(optimizer, CONFIG, 9) == pytest.approx(rate)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate])


def test_the_scale_is_part_of_the_optimizers_checkpoint():
    first, second = make(), make()
    hold_drift(first, 1.0, 0.001)
    second.load_state_dict(first.state_dict())
    assert set_learning_rate(second, CONFIG, 9) == pytest.approx(0.025)
