"""Adapters on several ranks: drawn, trained, merged, saved and continued as in one process."""

import pytest
import torch

from oracles.tiny_policy import DECODE, TOKENS, rollouts, run_config, tiny_model
from parallel.together import together
from redraft.rl.config.sections import ModelConfig
from redraft.rl.learner.build import load_network
from redraft.rl.learner.learner import Learner
from redraft.rl.learner.state import load_state, save_state
from redraft.rl.models.registry import load_policy, save_policy
from redraft.rl.parallel.pieces import own_rows, whole
from redraft.rl.parallel.shard import make_meshes
from redraft.rl.parallel.together import Together

SHORT = DECODE.model_copy(update={"max_completion_length": 6})
ALGORITHM = {"estimator": "trajectory", "beta": 0.1, "kl": "k3", "num_iterations": 2}
TRAINER = {"learning_rate": 1e-2, "tokens_per_microbatch": 40, "max_grad_norm": 0.5}


def update(folder, name, meshes=None):
    """Two updates whose reference policy is the network with adapters off; then a save, and a third update from it.

    Returns:
        The A and B as drawn, the merged rows of this rank with their places, and the metrics.
    """
    lora = {"rank": 8, "alpha": 16, "targets": "all"}
    config = run_config(ALGORITHM, TRAINER, SHORT).model_copy(
        update={"model": ModelConfig(path=str(folder / "base"), dtype="float64", device="cpu", lora=lora)}
    )
    rows = rollouts(tiny_model(), [0, 5, 9, 2, 3], SHORT)

    def fresh():
        lockstep = Together() if meshes else None
        return Learner(load_network(str(folder / "base"), config, meshes), config, TOKENS, lockstep=lockstep)

    learner = fresh()
    drawn = {
        key: whole(value.detach()).clone() for key, value in learner.model.named_parameters() if ".adapter." in key
    }
    metrics = [learner.update(rows) for _ in range(2)]
    merge, merged = learner.model.merger(), {}
    for key, tensor in learner.model.state_dict().items():
        if ".adapter." not in key:
            first, held = own_rows(tensor)
            merged[key] = first, merge(key, first, held).clone()
    save_policy(learner.model, folder / name / "hf", None, learner.lockstep)
    save_state(learner, folder / name)
    learner = fresh()
    load_state(learner, folder / name)
    metrics.append(learner.update(rows))
    changing = ("time/", "moe/rank_load_max")  # the latter is what only several ranks report
    return drawn, merged, [{k: v for k, v in one.items() if not k.startswith(changing)} for one in metrics]


def rank_update(folder, expert_parallel):
    return update(folder, "ranks", make_meshes("cpu", expert_parallel))


@pytest.mark.heavy
@pytest.mark.parametrize(("world", "expert_parallel"), [(2, 2), (4, 2)])
def test_adapters_of_several_ranks_learn_what_those_of_one_process_learn(world, expert_parallel, tmp_path):
    save_policy(tiny_model(), tmp_path / "base", None)
    ranks = together(world, rank_update, tmp_path, expert_parallel)
    drawn, merged, metrics = update(tmp_path, "alone")
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
    # One process reads what the ranks wrote.
    for name, tensor in load_policy(str(tmp_path / "ranks" / "hf"), None, "cpu").state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=1e-12, msg=f"{name} differs")
