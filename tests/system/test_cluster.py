"""Ray for real: scoring beside decoding, actors that die in the middle, deadlines, and errors that keep their words.

All tests share one cluster and its rollout actors, because to start them takes as long as all tests together.
"""

import contextlib
import os
import signal
import threading
import time

import pytest
import ray
from ray.exceptions import RayActorError, TaskCancelledError

from alike import assert_alike
from benchmarks.common.policies import in_order
from redraft.rewards.result import RewardError
from redraft.rewards.scoring.mixture import Sample
from redraft.rl.cluster.backend import local_pipeline
from redraft.rl.cluster.errors import ClusterError
from redraft.rl.cluster.ray_parts import (
    RayLearner,
    RayRewards,
    RayRollouts,
    cluster,
    place_on_cluster,
)
from redraft.rl.config.recipe import load_recipe
from redraft.rl.data.codec import Codec
from redraft.rl.data.load import load_rows
from redraft.rl.experience.pipeline import Pipeline
from redraft.rl.models.registry import load_policy, load_text_side
from redraft.rollout.engine.torch_engine import store_by_input
from tiny import DECODE, make_policy, write_recipe

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)

DEADLINE_S = 120
REWARDS = """
import time
def clock(prompts, completions, **columns):
    return [time.monotonic() for _ in completions]
def digits(prompts, completions, **columns):
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]
def broken(prompts, completions, **columns):
    raise KeyError("gold")
def slow(prompts, completions, **columns):
    time.sleep(1.5)
    return [float(len(text)) for text in completions]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    # Completions are equal but for rounding, whatever shares a batch. The policy on disk is not the learner's: a
    # replaced actor begins with it, and would write other completions if it did not get the learner's weights.
    make_policy(folder / "policy", dtype="float64")
    make_policy(folder / "learned", dtype="float64", seed=1)
    (folder / "own.py").write_text(REWARDS)
    return folder


@pytest.fixture(scope="module")
def configured(place):
    """Recipes that differ in their reward only; small batches, so that completions come bit by bit."""
    rollout = {"prompts_per_step": 20, "num_generations": 20, "decode": DECODE, "num_actors": 2, "slots": 8}

    def make(reward):
        rewards = [{"fn": f"{place}/own.py:{reward}", "isolation": "inline"}]
        cluster = {"backend": "ray", "max_restarts": 1, "reward_workers": 2}
        model = {"path": str(place / "policy"), "dtype": "float64"}
        return load_recipe([write_recipe(place, rewards=rewards, cluster=cluster, rollout=rollout, model=model)])

    return make


@pytest.fixture(scope="module")
def codec(place):
    return Codec(load_text_side(str(place / "policy"))[0], 0)


@pytest.fixture(scope="module")
def rollouts(place, configured):
    path, config = str(place / "policy"), configured("digits")
    tokens = load_text_side(path)[1]
    with cluster(config):
        rollouts, learner = RayRollouts(path, config, tokens), RayLearner(str(place / "learned"), config, tokens)
        learner.wait_until_ready()
        assert rollouts.sync(learner.weights()) == 0
        yield rollouts


@pytest.fixture(scope="module")
def rows(configured):
    return load_rows(configured("digits").data, 0)[:20]


@pytest.fixture(scope="module")
def prompts(codec, rows):
    return codec.prompts(rows, 20, "rollout", 0)


@pytest.fixture
def issued(rollouts, monkeypatch):
    """Every stream that is asked of an actor: its prompts, and where the results come."""
    calls = []
    issue = rollouts.pool.issue

    def watched(index, call, streaming=False):
        results = issue(index, call, streaming)
        if streaming:
            calls.append(([prompt.id for prompt in call.arguments[0]], results))
        return results

    monkeypatch.setattr(rollouts.pool, "issue", watched)
    return calls


@pytest.fixture(scope="module")
def calm(place, configured, codec, rows, prompts):
    """The same completions and scores without Ray."""
    config, path = configured("digits"), str(place / "learned")
    model = store_by_input(load_policy(path, config.model.dtype, config.model.device))
    with local_pipeline(config, model, load_text_side(path)[1], codec) as pipeline:
        return pipeline.run(rows, prompts, config.rollout.decode)


def test_scores_and_completions_are_those_of_one_process(configured, rollouts, codec, rows, prompts, calm):
    config = configured("digits")
    with contextlib.closing(RayRewards(config)) as rewards:
        answers = Pipeline.of(config, rollouts, rewards, codec).run(rows, prompts, config.rollout.decode)
    assert_alike(answers.completions, calm.completions)
    assert answers.samples == calm.samples
    assert answers.scored == calm.scored


def test_a_completion_is_scored_before_the_last_one_is_decoded(configured, rollouts, codec, rows, prompts):
    config = configured("clock")
    with contextlib.closing(RayRewards(config)) as rewards:
        rewards.pool.wait_until_ready(DEADLINE_S)
        started = time.monotonic()
        answers = Pipeline.of(config, rollouts, rewards, codec).run(rows, prompts, config.rollout.decode)
    scored_at = sorted(one.total for one in answers.scored)  # one clock for all processes of a machine
    assert scored_at[40] < started + answers.rollout_s
    assert 0.0 < answers.reward_overlap_s < answers.rollout_s


def test_the_death_of_a_rollout_actor_in_mid_stream_loses_and_doubles_nothing(
    configured, rollouts, prompts, calm, issued
):
    decode, doomed = configured("digits").rollout.decode, rollouts.pool.actors[0]
    pid = ray.get(doomed.__ray_call__.remote(lambda self: os.getpid()))
    streamed, of_the_doomed = [], 0
    for index, completion in rollouts.stream(prompts, decode):
        streamed.append((index, completion))
        of_the_doomed += index < 200
        if of_the_doomed == 20:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert rollouts.pool.actors[0] is not doomed
    assert sorted(index for index, _ in streamed) == list(range(400))
    assert_alike(in_order(streamed), calm.completions)
    first, _, again = (asked for asked, _ in issued)
    assert len(first) == 200
    assert set(again) < set(first)
    assert len(again) <= 180  # only what had not arrived


def test_engines_that_gave_their_memory_back_write_the_same_after_the_next_sync(
    place, configured, rollouts, prompts, calm, monkeypatch
):
    """One of them dies asleep: its replacement gets the last weights, and the next ones like the others."""
    config = configured("digits")
    learner = RayLearner(str(place / "learned"), config, load_text_side(str(place / "policy"))[1])
    learner.wait_until_ready()
    monkeypatch.setattr(rollouts, "takes_turns", True)
    rollouts.release()
    with pytest.raises(RuntimeError, match="completions were asked of a rollout engine that is asleep"):
        list(rollouts.stream(prompts[:4], config.rollout.decode))
    ray.kill(rollouts.pool.actors[1])
    rollouts.restore()
    assert rollouts.sync(learner.weights()) == 0
    assert_alike(in_order(rollouts.stream(prompts, config.rollout.decode)), calm.completions)
    learner.gang.close()  # the tests that follow need its CPU


def ask_until(actor, deadline):
    """A kill takes a moment to land."""
    while time.monotonic() < deadline:
        ray.get(actor.__ray_ready__.remote(), timeout=DEADLINE_S)


def test_a_reward_that_breaks_in_mid_stream_stops_the_step_and_leaves_nothing_behind(
    configured, rollouts, codec, rows, prompts, issued
):
    config, before = configured("broken"), set(threading.enumerate())
    rewards = RayRewards(config)
    rewards.pool.wait_until_ready(DEADLINE_S)
    with pytest.raises(RewardError, match=r"reward 'broken' raised on row \d+ \(prompt .*KeyError: 'gold'"):
        Pipeline.of(config, rollouts, rewards, codec).run(rows, prompts, config.rollout.decode)
    assert len(issued) == 2
    for _, results in issued:
        with pytest.raises(TaskCancelledError):
            ray.get(results.completed(), timeout=DEADLINE_S)
    rewards.close()
    assert set(threading.enumerate()) <= before
    for actor in rewards.pool.actors:
        with pytest.raises(RayActorError):
            ask_until(actor, time.monotonic() + DEADLINE_S)
    with pytest.raises(RewardError, match="after the rewards were closed"):
        rewards.submit([])


def test_a_stream_past_its_deadline_names_what_it_waits_for(configured, rollouts, prompts, monkeypatch):
    monkeypatch.setattr(rollouts, "config", rollouts.config.model_copy(update={"rollout_timeout_s": 0.001}))
    with pytest.raises(
        ClusterError, match=r"rollout actor \d: 200 prompts from rollout-0-\d+-0: no answer before its deadline"
    ):
        list(rollouts.stream(prompts, configured("digits").rollout.decode))


def test_no_prompts_are_no_completions(configured, rollouts):
    assert list(rollouts.stream([], configured("digits").rollout.decode)) == []


def score(rewards, samples):
    futures = [rewards.submit([sample]) for sample in samples]
    return [future.result(DEADLINE_S)[0].total for future in futures]


def kill_soon(actor, seconds):
    pid = ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))
    threading.Timer(seconds, os.kill, (pid, signal.SIGKILL)).start()


def test_a_killed_reward_worker_is_replaced_and_no_score_is_lost(configured, rollouts):
    samples = [Sample(prompt="p", completion="x" * size) for size in range(8)]
    with contextlib.closing(RayRewards(configured("slow"))) as rewards:
        assert score(rewards, samples) == [float(size) for size in range(8)]
        worker = rewards.pool.actors[0]
        kill_soon(worker, 0.5)
        assert score(rewards, samples) == [float(size) for size in range(8)]
        assert rewards.pool.actors[0] is not worker


def test_asking_for_more_gpus_than_there_are_is_refused_at_once(configured, rollouts):
    config = configured("digits")
    asking = config.model_copy(update={"cluster": config.cluster.model_copy(update={"learner_gpus": 64.0})})
    with pytest.raises(ClusterError, match=r"0 GPUs after 0 s; .* ask for 64 GPUs, but there are 0"):
        place_on_cluster(asking, 8, timeout_s=0.0)


def test_a_wait_past_its_deadline_names_what_it_waited_for(configured, rollouts):
    config = configured("slow")
    limited = config.model_copy(update={"cluster": config.cluster.model_copy(update={"reward_timeout_s": 0.3})})
    message = r"reward worker \d: 1 completions: no answer before its deadline"
    with contextlib.closing(RayRewards(limited)) as rewards, pytest.raises(ClusterError, match=message):
        score(rewards, [Sample(prompt="p", completion="c")])
