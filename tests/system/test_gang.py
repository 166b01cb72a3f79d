"""Learner ranks on the two nodes of a Ray cluster of this machine: alike, killed, hung, and in places of one node."""

import json
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import ray
from ray.cluster_utils import Cluster

from displays import Silent, Warnings
from redraft.rl.cluster import ray_parts
from redraft.rl.cluster.errors import ClusterError, LearnerLostError
from redraft.rl.cluster.gang import Gang
from redraft.rl.cluster.placement import Placement
from redraft.rl.config.recipe import load_recipe
from redraft.rl.models.registry import load_text_side
from redraft.rl.parallel.layout import RankLayout
from redraft.rl.run import run_training
from redraft.rl.run_folder.recorder import Recorder
from tiny import DECODE, make_policy, write_recipe

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]

TWO = RankLayout(2)
SIZE = {"num_cpus": 3, "num_gpus": 1}
CHANGING = ("stage", "time/", "moe/rank_load", "decode/tokens_per_s", "reward/slowest", "rewards/digits/ms_")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gang")
    make_policy(folder / "policy", dtype="float64")
    return folder


@pytest.fixture(scope="module")
def two_nodes():
    """Each node has room for one rank of two CPUs and for one other actor; its GPU is one in name only.

    Yields what ends the second one.
    """
    with pytest.MonkeyPatch.context() as patch:
        nodes = Cluster(initialize_head=True, head_node_args={**SIZE, "include_dashboard": False})
        second = nodes.add_node(**SIZE)
        nodes.wait_for_nodes()
        patch.setenv("RAY_ADDRESS", nodes.address)
        yield partial(nodes.remove_node, second)
        nodes.shutdown()


@pytest.fixture(scope="module")
def recipe(place):
    cluster = {"backend": "ray", "learner_cpus": 2, "max_restarts": 2, "start_timeout_s": 300}
    rollout = {"prompts_per_step": 3, "num_generations": 4, "decode": DECODE, "num_actors": 1}
    model = {"path": str(place / "policy"), "dtype": "float64", "device": "cpu"}
    return write_recipe(place, cluster=cluster, rollout=rollout, model=model, evaluation=None)


def run(recipe, folder, display, *words):
    config = load_recipe([recipe], [f"output_dir={folder}", *words])
    run_training(config, Recorder(config, display), resume=False)
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in row.items() if not key.startswith(CHANGING)} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(two_nodes, recipe, tmp_path_factory):
    """Metrics of one rank."""
    return run(recipe, tmp_path_factory.mktemp("one"), Silent())


def assert_equal(rows, others):
    for row, other in zip(rows, others, strict=True):
        assert row == pytest.approx(other, rel=1e-9, abs=1e-12)


@pytest.fixture
def killing(monkeypatch):
    """During the third update, rank 1 is stopped and then killed: rank 0 is in an exchange with it."""
    lost: list[float] = []

    class Doomed(Gang):
        updates = 0

        def call(self, method, *arguments):
            Doomed.updates += method == "update"
            if method == "update" and Doomed.updates == 3:
                pid = ray.get(self.ranks[1].__ray_call__.remote(lambda self: os.getpid()))
                os.kill(pid, signal.SIGSTOP)
                threading.Timer(2.0, os.kill, (pid, signal.SIGKILL)).start()
            return super().call(method, *arguments)

        def close(self):
            lost.append(time.monotonic())
            super().close()

        def open(self, *arguments):
            super().open(*arguments)
            lost.append(time.monotonic())

    monkeypatch.setattr(ray_parts, "Gang", Doomed)
    return lost


@pytest.mark.timeout(900)
def test_a_rank_and_an_engine_on_every_gpu_learn_what_one_rank_learns_and_go_on_when_one_is_killed(
    recipe, tmp_path, killing, undisturbed
):
    display = Warnings()
    killed = run(recipe, tmp_path / "killed", display, "model.device=auto", "cluster.learner_cpus=1")
    (loss,) = [text for text in display.texts if "died" in text]
    assert "step 3: learner: rank 1 died in update" in loss
    assert loss.endswith("going on with a new learner from step_000002")
    print(f"a new gang after {killing[-1] - killing[1]:.1f} s")
    assert_equal(killed, undisturbed)


@pytest.fixture
def make_gang(two_nodes, recipe, place):
    """Ranks of two CPUs, so that each is on its own node."""
    made = []

    def make(*words, layout=TWO):
        config = load_recipe([recipe], words)
        gang = Gang(config, Placement(layout, False, 1, 0, 0))
        made.append(gang)
        gang.open(str(place / "policy"), load_text_side(str(place / "policy"))[1])
        return gang

    with ray_parts.cluster(load_recipe([recipe])):
        yield make
        for gang in made:
            gang.close()


def test_a_rank_that_hangs_ends_the_call_with_the_place_and_the_stack_of_every_rank(make_gang):
    gang = make_gang("cluster.update_timeout_s=6")
    ray.get(
        gang.ranks[1].__ray_call__.remote(lambda rank: setattr(rank.worker, "update", lambda rows: time.sleep(600)))
    )
    with pytest.raises(LearnerLostError) as lost:
        gang.call("update", ray.put([]))
    first, second = str(lost.value).split("\nrank 1 on ")
    assert "learner: rank 0 lost the others in update" in first
    assert "update, for " in second
    assert "<lambda>" in second  # the stack of the thread that sleeps


def test_what_a_rank_raises_by_itself_is_raised_as_it_is(make_gang):
    gang = make_gang()
    ray.get(gang.ranks[1].__ray_call__.remote(lambda rank: setattr(rank.worker, "load", lambda folder: [][folder])))
    with pytest.raises(TypeError, match="list indices must be integers"):
        gang.call("load", "nowhere")


def test_an_expert_parallel_group_on_two_nodes_is_refused(make_gang):
    with pytest.raises(ClusterError, match=r"ranks 0 to 1 share out the experts and lie on several nodes"):
        make_gang(layout=RankLayout(2, 2))


def test_a_gang_without_room_says_what_was_asked_and_what_is_free(make_gang):
    with pytest.raises(ClusterError, match=r"no room for 3 ranks with {'CPU': 2.0} each .*; free are {'CPU': "):
        make_gang("cluster.start_timeout_s=2", layout=RankLayout(3))


class Elsewhere:
    """A gang whose second rank has another folder under the same name."""

    nodes = ("this", "that")

    def __init__(self, other):
        self.other = other

    def leave_marks(self, folder):
        for name, place in {"rank-0": Path(folder), "rank-1": self.other}.items():
            place.mkdir(parents=True, exist_ok=True)
            (place / name).touch()
        return ["rank-0", "rank-1"]


def test_a_run_folder_that_a_rank_does_not_share_is_refused(tmp_path):
    learner, run = object.__new__(ray_parts.RayLearner), tmp_path / "run"
    learner.gang = cast(Gang, Elsewhere(tmp_path / "other"))
    with pytest.raises(ClusterError, match=rf"output_dir {run} is not shared .* the learner's rank-1 on that wrote"):
        learner._check_shared(run)
    assert not list(run.iterdir())


@pytest.mark.timeout(900)
def test_a_run_goes_on_with_half_of_its_ranks_when_a_node_is_lost(
    two_nodes, recipe, tmp_path, undisturbed, monkeypatch
):
    """The last test of this file: there is one node left."""
    worlds = []

    class Doomed(Gang):
        def __init__(self, config, placement):
            super().__init__(config, placement)
            worlds.append(placement.layout.world)
            self.updates = 0

        def call(self, method, *arguments):
            self.updates += method == "update"
            if self.updates == 3 and len(worlds) == 1:
                two_nodes()
            return super().call(method, *arguments)

    monkeypatch.setattr(ray_parts, "Gang", Doomed)
    display = Warnings()
    halved = run(recipe, tmp_path, display, "model.device=auto", "cluster.learner_cpus=1")
    (loss,) = [text for text in display.texts if "learner" in text]
    assert loss.endswith("going on with a new learner from step_000002")
    assert worlds == [2, 1]
    assert_equal(halved, undisturbed)
