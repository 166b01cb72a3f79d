"""The life of a vLLM engine: refusals, deadlines, sleep, weight updates, the rollout worker around it."""

import time
import weakref
from dataclasses import replace

import pytest
import torch

from alike import assert_alike
from redraft.rl.models.registry import load_policy
from redraft.rl.weight_sync.outbox import Outbox
from redraft.rollout.config import DecodeConfig, Limits
from redraft.rollout.request import Request
from redraft.rollout.trajectory import Completion, Prompt
from redraft.rollout.vllm.engine import VLLMEngine, VLLMRolloutWorker, fetch_traces
from redraft.rollout.watchdog import StepTimeout
from redraft.rollout.weights.manifest import WeightSyncError
from redraft.rollout.worker import RolloutWorker, load_rollout_policy
from tiny import build_bare_policy
from vllm_setup import (
    MARKS,
    SAMPLED,
    SHAPE,
    TOKENS,
    by_torch,
    by_vllm,
    import_vllm,
    make_policy,
    options_for,
    ragged_prompts,
    start,
    unversioned,
    worker_of,
)

import_vllm()
pytestmark = MARKS
PROMPTS = ragged_prompts()


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def newer_path(tmp_path_factory) -> str:
    return make_policy(tmp_path_factory.mktemp("newer"), seed=5)


@pytest.fixture
def engine(path):
    engine = start(path)
    yield engine
    engine.close()


def update_of(seed: int, version: int) -> Outbox:
    return Outbox(build_bare_policy(SHAPE, "float64", "cpu", seed), 2**14).of_version(version)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_requests_that_cannot_be_served_are_refused_with_their_lengths(engine):
    def refused(prompt: Prompt, config: DecodeConfig, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            next(iter(engine.stream([PROMPTS[0], prompt], [SAMPLED, config])))

    long = Prompt("long", (3,) * 52, seed=0)
    refused(long, SAMPLED, "'long' has 52 tokens, max_completion_length is 14 .* needs 68 positions, .* has 64")
    refused(Prompt("none", (), seed=0), SAMPLED, "'none' is empty, which vLLM does not take; use the torch")
    refused(Prompt("odd", (3, 24), seed=0), SAMPLED, "prompt 'odd' holds token id 24; valid: 0 to 23")
    other = SAMPLED.model_copy(update={"block_length": 8})
    refused(PROMPTS[1], other, "'p1' .*blocks have 8 tokens, but this vLLM engine was started for blocks of 4")
    window = SAMPLED.model_copy(update={"editing_window": 3})
    refused(PROMPTS[1], window, "editing_window must be 1 with vLLM.*got 3; use the torch engine")
    with pytest.raises(ValueError, match="got 1 decode configs for 7 prompts"):
        next(iter(engine.stream(PROMPTS, [SAMPLED])))
    assert not engine.llm.llm_engine.has_unfinished_requests()  # nothing of a refused call has begun


def test_one_stream_is_read_at_a_time(engine):
    first = engine.stream(PROMPTS, SAMPLED)
    next(first)
    with pytest.raises(RuntimeError, match="another stream of this vLLM engine has not ended"):
        next(engine.stream(PROMPTS, SAMPLED))
    assert len(list(first)) == len(PROMPTS) - 1
    assert len(by_vllm(engine, PROMPTS, SAMPLED)) == len(PROMPTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"enable_chunked_prefill": True}, "enable_chunked_prefill must be False"),
        ({"block_size": 8}, "block_size must be 4, a diffusion block"),
        ({"max_num_batched_tokens": 64, "max_num_seqs": 13}, "max_num_batched_tokens must be at least 65"),
        ({"max_model_len": 62}, "max_model_len must be a multiple of 4"),
        ({"additional_config": {}}, "additional_config does not describe a block diffusion policy"),
        ({"scheduling_policy": "priority"}, "scheduling_policy must be 'fcfs'"),
    ],
)
def test_settings_of_vllm_under_which_outputs_would_be_wrong_are_refused(path, changes, message):
    with pytest.raises(ValueError, match=message):
        start(path, **changes)


def test_a_step_that_hangs_hits_a_deadline_that_names_its_requests(path, monkeypatch):
    engine = start(path, limits=Limits(slots=8, step_timeout_s=20.0))
    by_vllm(engine, PROMPTS, SAMPLED)
    engine._watchdog.timeout_s = 0.3
    slots = worker_of(engine).running.slots
    plain = slots.step
    monkeypatch.setattr(slots, "step", lambda chosen: time.sleep(1.0) or plain(chosen))
    with pytest.raises(StepTimeout, match=r"a vLLM step of 2 requests \(p0, p1\) did not end within 0.3 s"):
        by_vllm(engine, PROMPTS[:2], SAMPLED)
    with pytest.raises(RuntimeError, match="the vLLM engine failed before and cannot go on: a vLLM step of 2 requests"):
        by_vllm(engine, PROMPTS[:2], SAMPLED)
    time.sleep(1.0)
    engine.close()


def test_logits_that_are_not_finite_are_an_error_and_no_completion(engine):
    with torch.no_grad():
        worker_of(engine).get_model().lm_head.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        by_vllm(engine, PROMPTS[:2], SAMPLED)


# --- weights --------------------------------------------------------------------------------------------------------


def test_an_update_changes_the_next_output_and_its_version_reaches_the_traces(engine, path, newer_path):
    before = by_vllm(engine, PROMPTS, SAMPLED)
    assert {completion.policy_version for completion in before} == {-1}  # as loaded
    assert engine.sync(update_of(seed=5, version=3)) == 3
    after = by_vllm(engine, PROMPTS, SAMPLED)
    assert {completion.policy_version for completion in after} == {3}
    assert_alike(unversioned(after), by_torch(newer_path, PROMPTS, SAMPLED))
    assert [c.token_ids for c in after] != [c.token_ids for c in before]
    assert engine.llm.get_weight_version() == "3"


def test_the_four_verbs_of_vllm_alone_leave_no_key_of_older_weights_in_use(engine, newer_path):
    by_vllm(engine, PROMPTS, SAMPLED)  # fills vLLM's prefix cache, which the verbs of vLLM do not empty
    sender = update_of(seed=5, version=3)
    header = sender.open(engine.wanted(), "shared_memory")
    engine.llm.init_weight_transfer_engine({"init_info": {}})
    engine.llm.start_weight_update()
    engine.llm.update_weights({"update_info": {"header": header}})
    for number in header.numbers:
        engine.llm.update_weights({"update_info": {"number": number, "bucket": sender.send(number)}})
    engine.llm.finish_weight_update("3")
    sender.close()
    assert_alike(unversioned(by_vllm(engine, PROMPTS, SAMPLED)), by_torch(newer_path, PROMPTS, SAMPLED))


class Corrupting(Outbox):
    """Changes a bit of the second bucket on its way."""

    def send(self, number):
        sent = super().send(number)
        sent[0] ^= number == 1
        return sent


def test_wrong_weights_raise_and_right_ones_can_follow(engine, newer_path):
    update = update_of(seed=5, version=3)
    with pytest.raises(WeightSyncError, match=r"bucket 1 .*installed"):
        engine.sync(Corrupting(update._model, 2**14).of_version(3))
    with pytest.raises(RuntimeError, match="the last weight update of this vLLM engine did not end"):
        by_vllm(engine, PROMPTS, SAMPLED)
    assert worker_of(engine).policy_version() == -1
    assert engine.sync(update) == 3
    assert_alike(unversioned(by_vllm(engine, PROMPTS, SAMPLED)), by_torch(newer_path, PROMPTS, SAMPLED))
    with pytest.raises(ValueError, match="init_info must be empty or"):
        engine.llm.init_weight_transfer_engine({"init_info": {"port": 1}})


def begin(engine: VLLMEngine, steps: int) -> list[str]:
    """Makes all requests by hand and takes them some steps far; returns vLLM's ids."""
    from redraft.rollout.vllm.request import to_params

    core, ids = engine.llm.llm_engine, []
    for prompt in PROMPTS:
        params = to_params(Request(prompt, SAMPLED), TOKENS.stops)
        ids.append(core.add_request(prompt.id, {"type": "token", "prompt_token_ids": list(prompt.token_ids)}, params))
    for _ in range(steps):
        core.step()
    return ids


def finish(engine: VLLMEngine, ids: list[str]) -> list[Completion]:
    while engine.llm.llm_engine.has_unfinished_requests():
        engine.llm.llm_engine.step()
    traces = fetch_traces(engine.llm, ids)
    return [replace(traces[name], prompt_id=name.partition("-")[0]) for name in ids]


def spoil_keys(engine: VLLMEngine) -> None:
    """Whatever is in the pages is wrong from now on."""
    cache = worker_of(engine).running.slots.session._cache
    cache._pages.fill_(7.0)


def test_requests_that_run_through_an_update_get_all_keys_anew_and_bear_the_older_version(engine, path):
    same = update_of(seed=0, version=4)
    engine.sync(same.of_version(3))
    ids = begin(engine, steps=9)
    assert 0 < len(worker_of(engine).running._unfinished) <= len(PROMPTS)
    assert any(row.final > 2 for row in worker_of(engine).running._unfinished.values())
    engine.sync(same.of_version(4))
    spoil_keys(engine)  # the weights are the same again, so what follows can be told in advance
    completions = finish(engine, ids)
    assert_alike(unversioned(completions), by_torch(path, PROMPTS, SAMPLED))
    assert {completion.policy_version for completion in completions} == {3}
    assert_alike(unversioned(by_vllm(engine, PROMPTS, SAMPLED)), by_torch(path, PROMPTS, SAMPLED))


# --- sleep ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2])
def test_sleep_gives_the_memory_back_and_outputs_are_the_same_after_it(engine, path, level):
    expected = by_torch(path, PROMPTS, SAMPLED)
    by_vllm(engine, PROMPTS, SAMPLED)
    worker = worker_of(engine)
    cache = worker.running.slots.session._cache
    pages = weakref.ref(cache._pages)
    weights = [weakref.ref(parameter) for parameter in worker.get_model().parameters()]
    sizes = [weight().untyped_storage().nbytes() for weight in weights]
    del cache
    engine.llm.sleep(level=level)
    assert pages() is None
    if level == 1:
        assert [weight().untyped_storage().nbytes() for weight in weights] == sizes  # on the CPU, where they were
    else:
        assert {weight() for weight in weights} == {None}
    with pytest.raises(RuntimeError, match="the vLLM engine is asleep"):
        by_vllm(engine, PROMPTS, SAMPLED)
    engine.llm.wake_up()
    assert_alike(unversioned(by_vllm(engine, PROMPTS, SAMPLED)), expected)


def test_weights_and_pages_wake_one_after_the_other_with_an_update_between_them(engine, newer_path):
    engine.llm.sleep(level=2)
    engine.llm.wake_up(tags=["weights"])
    assert engine.sync(update_of(seed=5, version=8)) == 8
    with pytest.raises(RuntimeError, match="the vLLM engine is asleep"):
        by_vllm(engine, PROMPTS, SAMPLED)
    engine.llm.wake_up(tags=["kv_cache"])
    completions = by_vllm(engine, PROMPTS, SAMPLED)
    assert_alike(unversioned(completions), by_torch(newer_path, PROMPTS, SAMPLED))
    assert {completion.policy_version for completion in completions} == {8}


def test_pages_do_not_wake_before_the_weights(engine):
    engine.llm.sleep(level=1)
    with pytest.raises(RuntimeError, match="the weights are asleep"):
        engine.llm.wake_up(tags=["kv_cache"])
    engine.llm.wake_up()
    assert len(by_vllm(engine, PROMPTS, SAMPLED)) == len(PROMPTS)


def test_requests_that_are_kept_through_sleep_go_on_where_they_were(engine, path):
    ids = begin(engine, steps=9)
    engine.llm.sleep(level=1, mode="keep")
    engine.llm.wake_up()
    assert_alike(unversioned(finish(engine, ids)), by_torch(path, PROMPTS, SAMPLED))


# --- as a rollout worker --------------------------------------------------------------------------------------------


def test_the_rollout_worker_does_what_the_torch_one_does(path):
    limits = Limits(slots=4)
    options = options_for(path).model_copy(update={"weights_by_sync": True})
    ours = VLLMRolloutWorker(lambda: options, limits, threads=1)
    theirs = RolloutWorker(lambda: load_rollout_policy(load_policy, path, "float64", "cpu"), TOKENS, limits)
    with pytest.raises(RuntimeError, match="asked for completions before any weights arrived: sync first"):
        next(ours.stream(PROMPTS, SAMPLED))
    for version, seed in enumerate([5, 6]):
        update = update_of(seed, version)
        assert ours.sync(update) == theirs.sync(update) == version
        for config in (SAMPLED, SAMPLED.model_copy(update={"temperature": 0.0, "edit_sampling": "argmax"})):
            ours_now = [completion for _, completion in sorted(ours.stream(PROMPTS, config), key=lambda pair: pair[0])]
            theirs_now = [pair[1] for pair in sorted(theirs.stream(PROMPTS, config), key=lambda pair: pair[0])]
            assert_alike(ours_now, theirs_now)
    ours.sleep()
    with pytest.raises(RuntimeError, match="completions were asked of a rollout engine that is asleep"):
        next(ours.stream(PROMPTS, SAMPLED))
    ours.wake()
    with pytest.raises(RuntimeError, match="before any weights arrived: sync first"):
        next(ours.stream(PROMPTS, SAMPLED))
    ours.sync(update_of(seed=6, version=2))
    again = [pair[1] for pair in sorted(ours.stream(PROMPTS, config), key=lambda pair: pair[0])]
    assert_alike(unversioned(again), unversioned(ours_now))
    ours.engine.close()
