"""What a learner's network has before its first step, in one process; tests/parallel shows it on ranks."""

import pytest

from oracles.tiny_policy import run_config, tiny_model
from redraft.rl.config.sections import ModelConfig
from redraft.rl.learner.build import load_network
from redraft.rl.models.registry import save_policy


@pytest.mark.parametrize(
    ("trainer", "trainable", "frozen", "recomputes"),
    [
        ({}, True, "routers", False),
        ({"freeze_router": False, "activation_checkpointing": "layer"}, True, "nothing", True),
        ({"activation_checkpointing": "layer"}, False, "all", False),
    ],
)
def test_what_learns_and_what_is_computed_twice(tmp_path, trainer, trainable, frozen, recomputes):
    save_policy(tiny_model(), tmp_path, None)
    model = ModelConfig(path="unused", dtype="float64", device="cpu")
    config = run_config(trainer=trainer).model_copy(update={"model": model})
    network = load_network(str(tmp_path), config, trainable=trainable)
    still = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    expected = {
        "routers": {"layers.1.mlp.gate.weight"},
        "nothing": set(),
        "all": {name for name, _ in network.named_parameters()},
    }
    assert still == expected[frozen]
    assert network.recomputes is recomputes
