"""Actors on Ray that die for good: the error names them, and no other part is blamed."""

import contextlib

import pytest
import ray

from redraft.rewards.scoring.mixture import Sample
from redraft.rl.cluster.errors import ClusterError, LearnerLostError
from redraft.rl.cluster.ray_parts import (
    RayLearner,
    RayRewards,
    RayRollouts,
    cluster,
    start_parts,
)
from redraft.rl.config.recipe import load_recipe
from redraft.rl.models.registry import load_text_side
from tiny import make_policy, write_recipe

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]

DEADLINE_S = 120


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deaths")
    make_policy(folder / "policy")
    return folder


@pytest.fixture(scope="module")
def config(place):
    return load_recipe([write_recipe(place, cluster={"backend": "ray", "max_restarts": 1})])


@pytest.fixture(scope="module")
def running(config):
    with cluster(config):
        yield


@pytest.fixture(scope="module")
def text_side(place):
    return load_text_side(str(place / "policy"))


def test_an_actor_that_keeps_dying_ends_the_run_with_its_name(place, running):
    (place / "deadly.py").write_text("import os\ndef deadly(prompts, completions, **columns):\n    os._exit(1)\n")
    rewards = [{"fn": f"{place}/deadly.py:deadly", "isolation": "inline"}]
    config = load_recipe([write_recipe(place, rewards=rewards, cluster={"max_restarts": 1})])
    with (
        contextlib.closing(RayRewards(config)) as rewards,
        pytest.raises(ClusterError, match="reward worker 0 died 2 times in a row"),
    ):
        rewards.submit([Sample(prompt="p", completion="c")]).result(DEADLINE_S)


def test_an_actor_that_cannot_start_says_why(place, config, running, text_side, tmp_path):
    policy = make_policy(tmp_path / "corrupt")
    weights = policy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ClusterError, match=r"learner: cannot start: .*CheckpointError: .*model.safetensors"):
        start_parts(str(policy), config, text_side[1])


def test_the_death_of_the_learner_is_not_blamed_on_the_rollout_actors(place, config, text_side, running):
    rollouts = RayRollouts(str(place / "policy"), config, text_side[1])
    doomed = RayLearner(str(place / "policy"), config, text_side[1])
    doomed.wait_until_ready()
    actors = list(rollouts.pool.actors)
    ray.kill(doomed.gang.ranks[0])
    with pytest.raises(LearnerLostError, match="learner: rank 0 died in weight sync"):
        rollouts.sync(doomed.weights())
    assert rollouts.pool.actors == actors
