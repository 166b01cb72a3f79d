"""A learner of several ranks has the weights and metrics of one process, for every preset."""

import dataclasses

import pytest
import torch
import torch.distributed as dist

from oracles.tiny_policy import DECODE, TOKENS, rollouts, run_config, tiny_model
from parallel.together import together
from redraft.rl.config.presets import PRESETS
from redraft.rl.learner.learner import Learner
from redraft.rl.parallel.alone import join_alone
from redraft.rl.parallel.shard import late_modules, make_meshes, shard
from redraft.rl.parallel.together import Together

SHORT = DECODE.model_copy(update={"max_completion_length": 6})
ELBO = {"estimator": "elbo", "ratio": "sequence"}
REPLAY = {"estimator": "trajectory", "route_replay": "old", "num_iterations": 2}
SETTINGS = {name: {"preset": name} for name in PRESETS} | {
    "draft views": {**ELBO, "num_mc": 3, "t2t_views": "draft"},
    "KL": {"estimator": "trajectory", "beta": 0.1, "kl": "k3", "num_iterations": 2},
    "engine": {"estimator": "trajectory", "rollout_correction": "token", "path_check": "mask"},
    "replay": REPLAY,
    "anchor": {"estimator": "trajectory", "anchor": 0.1},
    "drift": {"estimator": "trajectory", "num_iterations": 3, "target_drift": 1e-4},
}
FEW = ["ebpo", "draft views", "engine", "replay", "anchor"]


def some_rows():
    """Completions of two prompts, of unequal lengths, so that ranks have other numbers of micro-batches and views."""
    groups = [0, 0, 0, 0, 1, 1]
    return [
        dataclasses.replace(row, prompt=dataclasses.replace(row.prompt, group=group))
        for row, group in zip(rollouts(tiny_model(), [0, 5, 9, 2, 3, 1], SHORT), groups, strict=True)
    ]


def two_updates(algorithm, rows, expert_parallel=0, recompute=False, late=False):
    """Weights and metrics after two updates, sharded where `expert_parallel` is given."""
    model, lockstep = tiny_model(), None
    config = run_config(algorithm, {"learning_rate": 1e-2, "tokens_per_microbatch": 40, "max_grad_norm": 0.5}, SHORT)
    reference = tiny_model().requires_grad_(False) if config.algorithm.needs_reference else None
    if recompute:
        model.checkpoint_layers()
    if expert_parallel:
        meshes = make_meshes("cpu", expert_parallel)
        for network in filter(None, (model, reference)):
            shard(network, meshes)
        lockstep = Together(late=late_modules(model, meshes) if late else ())
    learner = Learner(model, config, TOKENS, reference, lockstep)
    metrics = [learner.update(rows) for _ in range(2)]
    weights = {name: whole(value.detach()) for name, value in model.state_dict().items()}
    return weights, [{k: v for k, v in one.items() if not k.startswith("time/")} for one in metrics]


def whole(value):
    return value.full_tensor() if hasattr(value, "full_tensor") else value.clone()


def rank_updates(names, rows, **how):
    return {name: two_updates(SETTINGS[name], rows, **how) for name in names}


def assert_same(found, expected):
    for name, (weights, metrics) in expected.items():
        for key, value in weights.items():
            difference = (found[name][0][key] - value).abs().max().item()
            assert difference <= 1e-12, f"{name}, {key}: {difference}"
        for one, other in zip(found[name][1], metrics, strict=True):
            assert 1 <= one.pop("moe/rank_load_max") <= 4, name  # what only several ranks report
            assert one == pytest.approx(other, rel=1e-9, abs=1e-9), name


def test_a_rank_that_is_alone_learns_what_an_unsharded_network_learns():
    rows = some_rows()
    join_alone(torch.device("cpu"))
    try:
        found = rank_updates(["replay"], rows, expert_parallel=1, recompute=True, late=True)
    finally:
        dist.destroy_process_group()
    assert_same(found, rank_updates(["replay"], rows))


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("world", "how", "names"),
    [
        (2, {"expert_parallel": 2}, list(SETTINGS)),
        (2, {"expert_parallel": 1, "recompute": True, "late": True}, FEW),
        (4, {"expert_parallel": 2, "late": True}, FEW),
    ],
)
def test_ranks_together_learn_what_one_process_learns(world, how, names):
    rows = some_rows()
    expected = rank_updates(names, rows)
    for found in together(world, call, names, rows, how):
        assert_same(found, expected)


def call(names, rows, how):
    return rank_updates(names, rows, **how)


@pytest.mark.heavy
def test_a_rank_without_rows_keeps_step():
    rows = some_rows()[:1]
    expected = rank_updates(FEW, rows)
    for found in together(2, call, FEW, rows, {"expert_parallel": 2, "recompute": True}):
        assert_same(found, expected)
