"""A run's first sync proves that the engine decodes with what it is sent; carriers follow the recipe."""

import copy

import pytest

from oracles.tiny_policy import DECODE, TOKENS, ragged_prompts, tiny_model
from redraft.rl.cluster.errors import ClusterError
from redraft.rl.cluster.placement import Machines, place_parts
from redraft.rl.cluster.weight_delivery import choose_carrier
from redraft.rl.config.recipe import load_recipe
from redraft.rl.weight_sync.canary import first_sync
from redraft.rl.weight_sync.outbox import Outbox
from redraft.rollout.config import Limits
from redraft.rollout.weights.checksum import fingerprint
from redraft.rollout.weights.manifest import WeightSyncError
from redraft.rollout.worker import RolloutPolicy, RolloutWorker
from tiny import write_recipe

PROMPT = ragged_prompts([9])[0]  # two whole blocks, whose keys are kept


class HandsOutWeights:
    """A learner of which only the weights are asked."""

    def __init__(self) -> None:
        self.model = tiny_model(seed=1)
        self.outbox, self.buckets = Outbox(self.model, 4096), []

    def weights(self, canary=None):
        self.outbox.of_version(5, canary)
        return self

    def open(self, wanted, carrier):
        header = self.outbox.open(wanted, carrier)
        self.buckets.append(len(header.numbers))
        return header

    def send(self, number):
        return self.outbox.send(number)

    def close(self):
        self.outbox.close()


def worker(policy: RolloutPolicy) -> RolloutWorker:
    return RolloutWorker(lambda: policy, TOKENS, Limits())


def test_the_first_sync_leaves_the_weights_and_costs_two_buckets_more():
    learner, rollouts = HandsOutWeights(), worker(RolloutPolicy(tiny_model(seed=2)))
    before = fingerprint(learner.model.state_dict())
    assert first_sync(rollouts, learner, PROMPT, DECODE) == rollouts.policy.version == 5
    assert fingerprint(learner.model.state_dict()) == fingerprint(rollouts.policy.model.state_dict()) == before
    assert learner.buckets == [learner.buckets[0], 1, 1, 0]
    assert learner.buckets[0] > 3


def tokens_run(rollouts: RolloutWorker) -> int:
    """Decode the probe's prompt; return how many tokens the network runs for it."""
    seen, hidden_states = [], rollouts.policy.model.hidden_states

    def counted(ids, *rest):
        seen.append(ids.numel())
        return hidden_states(ids, *rest)

    rollouts.policy.model.hidden_states = counted
    list(rollouts.stream([PROMPT], DECODE))
    return sum(seen)


def test_no_key_of_the_probe_serves_the_run():
    learner = HandsOutWeights()
    probed, fresh = (worker(RolloutPolicy(tiny_model(seed=2))) for _ in range(2))
    first_sync(probed, learner, PROMPT, DECODE)
    fresh.sync(learner.weights())
    assert tokens_run(probed) == tokens_run(fresh)


class Elsewhere(RolloutPolicy):
    """Installs updates in a copy, and reports them as installed."""

    def __init__(self, model, ignored):
        super().__init__(model)
        self.ignored = ignored

    def start_update(self, header):
        used = self.model
        if header.version >> 40 in self.ignored:
            self.model = copy.deepcopy(used)
        super().start_update(header)
        self.model = used


def test_an_engine_that_ignores_what_it_is_sent_is_found_out():
    with pytest.raises(WeightSyncError, match="does not decode with the weights that it is sent"):
        first_sync(worker(Elsewhere(tiny_model(seed=1), {0, 1, 2})), HandsOutWeights(), PROMPT, DECODE)


def test_an_engine_that_keeps_something_of_earlier_weights_is_found_out():
    with pytest.raises(WeightSyncError, match="keeps something of earlier weights"):
        first_sync(worker(Elsewhere(tiny_model(seed=1), {2})), HandsOutWeights(), PROMPT, DECODE)


GPUS = ["cluster.learner_gpus=1", "cluster.rollout_gpus=1"]


@pytest.mark.parametrize(
    ("words", "carrier"),
    [
        ([], "shared_memory"),
        ([*GPUS, "cluster.weight_sync=collective"], "collective"),
        (GPUS, "collective"),
        (["cluster.learner_gpus=0.5", "cluster.rollout_gpus=0.5"], "shared_memory"),
        ([*GPUS, "cluster.placement=colocated"], "shared_memory"),
        ([*GPUS, "cluster.weight_sync=object_store"], "object_store"),
    ],
)
def test_weights_go_the_way_that_fits_the_machine(tmp_path, words, carrier):
    config = load_recipe([write_recipe(tmp_path)], ["cluster.backend=ray", *words])
    assert choose_carrier(config, place_parts(config, 8, Machines(gpus=4, ranks_per_node=4))) == carrier


def test_a_broadcast_needs_gpus_for_each_of_its_members(tmp_path):
    words = ["cluster.backend=ray", "cluster.weight_sync=collective"]
    config = load_recipe([write_recipe(tmp_path)], words)
    with pytest.raises(ClusterError, match="collective needs GPUs of their own for learner and engines"):
        choose_carrier(config, place_parts(config, 8, Machines(gpus=2, ranks_per_node=2)))


def test_without_gpus_weights_go_through_the_object_store(tmp_path):
    config = load_recipe([write_recipe(tmp_path)])
    assert choose_carrier(config, place_parts(config, 8, Machines(gpus=0, ranks_per_node=1))) == "object_store"
