"""A learner's state goes from any number of ranks to any other without a change; ranks fail together."""

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from oracles.tiny_policy import DECODE, TOKENS, rollouts, run_config, tiny_model
from parallel.together import together
from redraft.rl.learner.learner import Learner
from redraft.rl.learner.state import learner_state, load_state, save_state
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


def refusals(learner, folder):
    """What a rank says of a state with a key too many, and of one of which a part is cut off."""
    state = learner_state(learner) | {"momentum_of_old": 1.0}
    save(state, checkpoint_id=folder / "other" / "state")
    save_state(learner, folder / "cut")
    if learner.lockstep.rank == 0:
        part = folder / "cut" / "state" / "__2_0.distcp"
        part.write_bytes(part.read_bytes()[:1000])
    learner.lockstep.gather(None)
    found = []
    for name in ("other", "cut"):
        with pytest.raises(ValueError, match=name) as raised:
            load_state(learner, folder / name)
        found.append(str(raised.value))
    return found


def later_run(folder):
    learner = make_learner(2)
    load_state(learner, folder)
    loaded = whole(learner)
    given_step(learner)
    stepped = whole(learner)
    update(learner)
    return loaded, stepped, whole(learner), refusals(learner, folder)


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
    assert [difference(one, loaded) for loaded, *_ in four] == [0] * 4
    given_step(alone)
    assert [difference(whole(alone), stepped) for _, stepped, *_ in four] == [0] * 4
    update(alone)
    assert max(difference(whole(alone), updated) for _, _, updated, _ in four) < 1e-12
    for *_, (other, cut) in four:
        assert other.startswith(f"{second}/other/state holds what the learner does not take: momentum_of_old; it was")
        assert cut.startswith(f"{second}/cut/state cannot be read (")
        assert cut.endswith(f"); remove {second}/cut to resume from an earlier one")
