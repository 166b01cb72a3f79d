"""Every carrier of weights on Ray: two rollout actors, one of which dies before, and one after a sync."""

import contextlib

import pytest
import ray

from benchmarks.common.policies import in_order
from redraft.rl.cluster.ray_parts import RayLearner, RayRollouts, cluster
from redraft.rl.config.recipe import load_recipe
from redraft.rl.data.codec import Codec
from redraft.rl.data.load import load_rows
from redraft.rl.models.registry import load_text_side
from redraft.rl.weight_sync.canary import first_sync
from tiny import DECODE, make_policy, write_recipe

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("carriers")
    make_policy(folder / "policy")
    make_policy(folder / "learned", seed=1)
    return folder


def recipe(place, carrier):
    settings = {"backend": "ray", "max_restarts": 2, "weight_sync": carrier, "sync_bucket_mib": 0.02}
    rollout = {"decode": DECODE, "num_actors": 2}
    return load_recipe([write_recipe(place, cluster=settings, rollout=rollout)])


@contextlib.contextmanager
def one_that_dies_amid(rollouts, number):
    """The second actor is killed when it is asked to take a bucket, the first time that this happens."""
    dispatch, doomed = rollouts.delivery._dispatch, rollouts.pool.actors[1]

    def deadly(indices, header, at, carrier):
        sent = dispatch(indices, header, at, carrier)
        if at == number and rollouts.pool.actors[1] is doomed:
            ray.kill(doomed)
        return sent

    rollouts.delivery._dispatch = deadly
    yield
    rollouts.delivery._dispatch = dispatch
    assert rollouts.pool.actors[1] is not doomed


@pytest.mark.timeout(900)
def test_weights_come_by_every_carrier_and_to_actors_that_replace_dead_ones(place):
    tokenizer, tokens = load_text_side(str(place / "policy"))
    config, found = recipe(place, "object_store"), {}
    prompts = Codec(tokenizer, 0).prompts(load_rows(config.data, 0)[:4], 2, "rollout", 0)
    with cluster(config):
        learner = RayLearner(str(place / "learned"), config, tokens)
        learner.wait_until_ready()
        for carrier in ("object_store", "shared_memory", "collective"):
            rollouts = RayRollouts(str(place / "policy"), recipe(place, carrier), tokens)
            assert first_sync(rollouts, learner, prompts[0], config.rollout.decode) == 0
            with one_that_dies_amid(rollouts, number=1):
                assert rollouts.sync(learner.weights()) == 0
            ray.kill(rollouts.pool.actors[0])  # the next stream does
            found[carrier] = in_order(rollouts.stream(prompts, config.rollout.decode))
            assert rollouts.sync(learner.weights()) == 0
            assert in_order(rollouts.stream(prompts, config.rollout.decode)) == found[carrier]
            rollouts.pool.close()
    assert found["shared_memory"] == found["collective"] == found["object_store"]
    assert {completion.policy_version for completion in found["collective"]} == {0}
