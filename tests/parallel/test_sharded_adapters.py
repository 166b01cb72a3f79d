"""Adapters on several ranks: drawn, trained and merged as in one process."""

import pytest
import torch

from oracles.tiny_policy import DECODE, TOKENS, rollouts, run_config, tiny_model
from parallel.together import together
from redraft.rl.learner.learner import Learner
from redraft.rl.models.adapter import Adapted, merger
from redraft.rl.models.llada2.lora import add_adapters, init_adapters
from redraft.rl.parallel.pieces import own_rows
from redraft.rl.parallel.shard import make_meshes, shard
from redraft.rl.parallel.together import Together

SHORT = DECODE.model_copy(update={"max_completion_length": 6})
ALGORITHM = {"estimator": "trajectory", "beta": 0.1, "kl": "k3", "num_iterations": 2}


def update(targets, lockstep=None, meshes=None):
    """Two updates whose reference policy is the network with adapters off."""
    model = tiny_model()
    add_adapters(model, Adapted(8, 16.0, targets, "base"), torch.float64)
    if meshes is not None:
        shard(model, meshes)
    init_adapters(model, seed=3)  # after sharding: every rank draws what it holds
    drawn = {name: whole(value.detach()) for name, value in model.named_parameters() if ".adapter." in name}
    config = run_config(ALGORITHM, {"learning_rate": 1e-2, "tokens_per_microbatch": 40, "max_grad_norm": 0.5}, SHORT)
    learner = Learner(model, config, TOKENS, lockstep=lockstep)
    rows = rollouts(tiny_model(), [0, 5, 9, 2, 3], SHORT)
    metrics = [learner.update(rows) for _ in range(2)]
    merge, merged = merger(model), {}
    for name, tensor in model.state_dict().items():
        if ".adapter." not in name:
            first, rows = own_rows(tensor)
            merged[name] = first, merge(name, first, rows).clone()
    return drawn, merged, [{k: v for k, v in one.items() if not k.startswith("time/")} for one in metrics]


def whole(value):
    return value.full_tensor() if hasattr(value, "full_tensor") else value.clone()


def rank_updates(expert_parallel):
    meshes = make_meshes("cpu", expert_parallel)
    return update("all", Together(), meshes)


@pytest.mark.heavy
@pytest.mark.parametrize(("world", "expert_parallel"), [(2, 2), (4, 2)])
def test_adapters_of_several_ranks_learn_what_those_of_one_process_learn(world, expert_parallel):
    ranks = together(world, rank_updates, expert_parallel)
    drawn, merged, metrics = update("all")
    weights = {name: rows for name, (_, rows) in merged.items()}
    for rank_drawn, rank_merged, rank_metrics in ranks:
        for name, value in rank_drawn.items():
            assert torch.equal(value, drawn[name]), name
        assert rank_merged.keys() == weights.keys()
        for name, (first, rows) in rank_merged.items():
            expected = weights[name][first : first + len(rows)]
            torch.testing.assert_close(rows, expected, rtol=0, atol=1e-12, msg=f"{name} differs")
        for one, other in zip(rank_metrics, metrics, strict=True):
            assert one == pytest.approx(other, rel=1e-9, abs=1e-12)
