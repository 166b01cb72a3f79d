"""The shape checks are on in all packages where they are asked for, and off elsewhere."""

import os

import jaxtyping
import pytest
import torch

from benchmarks.learning.grid import read_records
from redraft.rewards.text import boxes
from redraft.rl.objective.losses import k2
from redraft.rollout.blocks import num_blocks

WRONG_CALLS = {
    "rl: a matrix for a vector": lambda: k2(torch.zeros(2, 3)),
    "rollout: a text for a number": lambda: num_blocks("7", 4),
    "rewards: a number for a text": lambda: boxes(7),
    "benchmarks: a text for a path": lambda: read_records("nowhere"),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_a_wrong_call_is_noticed_where_shapes_are_checked(name):
    try:
        WRONG_CALLS[name]()
    except Exception as error:  # noqa: BLE001 - without the checks it fails, if at all, in a way of its own
        noticed = isinstance(error, jaxtyping.TypeCheckError)
    else:
        noticed = False
    assert noticed == bool(os.environ.get("REDRAFT_SHAPES"))
