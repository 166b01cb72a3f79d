"""A learner's state goes from any number of ranks to any other without a change; ranks fail together."""

import pytest
import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from oracles.tiny_policy import DECODE, TOKENS, rollouts, run_config, tiny_model
from parallel.together import together
from redraft.rl.learner.learner import Learner
from redraft.rl.learner.state import load_state, save_state
from redraft.rl.parallel.shard import make_meshes, shard
from redraft.rl.parallel.together import Together

SHORT = DECODE.model_copy(update={"max_completion_length": 6})


def make_learner(expert_parallel=None):
    model, lockstep = tiny_model(), None
    if expert_parallel is not None:
        shard(model, make_meshes("cpu", expert_parallel))
        lockstep = Together()
    config = run_config({"preset": "justgrpo"}, {"learning_rate": 1e-2, "tokens_per_microbatch": 40}, SHORT)
    return Learner(model, config, TOKENS, lockstep=lockstep)


def update(learner):
    learner.update(rollouts(tiny_model(), [0, 5, 9], SHORT))


def given_step(learner):
    """One step by gradients that are the same on every layout, to the last bit."""
    for index, parameter in enumerate(learner.model.parameters()):
        slope = torch.randn(parameter.shape, dtype=parameter.dtype, generator=torch.Generator().manual_seed(index))
        if isinstance(parameter, DTensor):
            slope = distribute_tensor(slope, parameter.device_mesh, parameter.placements)
        parameter.grad = slope
    learner.optimizer.step()


def whole(learner):
    moments = {
        f"{name} {kind}": value
        for name, parameter in learner.model.named_parameters()
        for kind, value in learner.optimizer.state.get(parameter, {}).items()
    }
    found = {name: value.detach() for name, value in (learner.model.state_dict() | moments).items()}
    found = {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in found.items()}
    return {name: value.clone() for name, value in found.items()} | {"version": torch.tensor(learner.policy_version)}


def first_run(folder):
    learner = make_learner(2)
    update(learner)
    save_state(learner, folder)
    given_step(learner)
    return whole(learner)


def later_run(folder):
    learner = make_learner(2)
    load_state(learner, folder)
    loaded = whole(learner)
    given_step(learner)
    stepped = whole(learner)
    update(learner)
    return loaded, stepped, whole(learner)


def difference(one, other):
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.heavy
def test_a_state_of_two_ranks_continues_on_one_and_then_on_four(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    two = together(2, first_run, first)
    alone = make_learner()
    load_state(alone, first)
    given_step(alone)
    one = whole(alone)
    assert [difference(one, rank) for rank in two] == [0, 0]
    save_state(alone, second)
    four = together(4, later_run, second)
    assert [difference(one, loaded) for loaded, _, _ in four] == [0] * 4
    given_step(alone)
    assert [difference(whole(alone), stepped) for _, stepped, _ in four] == [0] * 4
    update(alone)
    assert max(difference(whole(alone), updated) for _, _, updated in four) < 1e-12
