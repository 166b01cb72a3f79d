"""The tiny network with LoRA adapters that have moved, and the plain network that it stands for."""

import torch

from oracles.tiny_policy import tiny_model
from redraft.rl.models.adapter import Adapted, adapters_of
from redraft.rl.models.llada2 import LLaDA2Model
from redraft.rl.models.llada2.lora import add_adapters, init_adapters

SCALE = 2.0  # alpha / rank


def adapted_model(targets="all", dtype=torch.float64, moved=True, base="base") -> LLaDA2Model:
    """Adapters of rank 8 whose B is not zero, unless it must not have moved."""
    model = tiny_model(dtype=dtype)
    add_adapters(model, Adapted(8, 8 * SCALE, targets, base), torch.float64)
    init_adapters(model, seed=3)
    if moved:
        source = torch.Generator().manual_seed(1)
        for adapter in adapters_of(model).values():
            adapter.B.data.normal_(0, 0.3, generator=source)
    return model


def merged_model(model) -> LLaDA2Model:
    """The network that a rollout engine has after a weight sync."""
    plain, merge = tiny_model(), model.merger()
    weights = model.state_dict()
    plain.load_state_dict({name: merge(name, 0, weights[name]) for name in plain.state_dict()})
    return plain
