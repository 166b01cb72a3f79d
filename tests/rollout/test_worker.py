"""The rollout worker: whose weights write, and which keys it may read."""

import weakref

import pytest
import torch

from benchmarks.common.policies import in_order
from oracles.tiny_policy import DECODE, TOKENS, tiny_model
from redraft.rl.models.llada2 import init_weights
from redraft.rl.weight_sync.outbox import Outbox
from redraft.rollout.config import Limits
from redraft.rollout.engine.torch_engine import store_by_input
from redraft.rollout.trajectory import Completion, Prompt
from redraft.rollout.weights.manifest import Header, Manifest, WeightSyncError
from redraft.rollout.worker import RolloutPolicy, RolloutWorker


class SeededPolicy(RolloutPolicy):
    """A policy whose weights of version n are drawn with seed n; counts the tokens that its network runs."""

    def __init__(self) -> None:
        super().__init__(tiny_model())
        self.tokens_run = 0
        hidden_states = self.model.hidden_states

        def counted(tokens, *rest, **named):
            self.tokens_run += tokens.numel()
            return hidden_states(tokens, *rest, **named)

        self.model.hidden_states = counted

    def start_update(self, header: Header) -> None:
        init_weights(self.model, torch.Generator().manual_seed(header.version))
        self.version = header.version

    def finish_update(self) -> int:
        return self.version


class version_of:
    """A sender of a version without buckets."""

    def __init__(self, number: int) -> None:
        self.header = Header(number, Manifest((), ()), ())

    def open(self, wanted, carrier):
        return self.header

    def send(self, number):
        raise AssertionError("there is no bucket")

    def close(self):
        pass


PROMPTS = [Prompt(f"p{index}", (2, 3, 4, 5, 6, 2, 3, 4, 5), seed=index) for index in range(6)]  # two whole blocks


def run(worker: RolloutWorker) -> list[Completion]:
    return in_order(worker.stream(PROMPTS, DECODE))


def worker_with(version: int) -> RolloutWorker:
    worker = RolloutWorker(SeededPolicy, TOKENS, Limits(slots=3))
    assert worker.sync(version_of(version)) == version
    return worker


def test_no_completion_is_written_before_weights_arrived():
    with pytest.raises(RuntimeError, match="before any weights arrived: sync first"):
        next(RolloutWorker(SeededPolicy, TOKENS, Limits()).stream(PROMPTS, DECODE))


def test_after_an_update_that_failed_nothing_is_written_until_a_complete_one_came():
    worker = RolloutWorker(lambda: RolloutPolicy(tiny_model()), TOKENS, Limits())
    sender = Outbox(tiny_model(seed=1), 4096).of_version(3)
    worker.sync(sender)
    header = sender.open(worker.wanted(), "direct")
    worker.start_update(header)
    worker.take(0, sender.send(0))
    with pytest.raises(WeightSyncError, match="never came"):
        worker.finish_update()
    with pytest.raises(RuntimeError, match="sync first"):
        next(worker.stream(PROMPTS, DECODE))
    worker.sync(sender)
    assert {completion.policy_version for completion in run(worker)} == {3}


def test_after_a_weight_update_everything_is_as_the_new_weights_say():
    worker = worker_with(1)
    first = run(worker)
    worker.sync(version_of(2))
    second = run(worker)
    assert [completion.token_ids for completion in first] != [completion.token_ids for completion in second]
    assert second == run(worker_with(2))
    assert {completion.policy_version for completion in first} == {1}
    assert {completion.policy_version for completion in second} == {2}


def test_prompt_pages_serve_all_calls_of_one_version_and_none_of_the_next():
    worker = worker_with(1)
    counts = []
    for version in [None, None, 2, None]:
        if version is not None:
            worker.sync(version_of(version))
        before = worker.policy.tokens_run
        completions = run(worker)
        # Besides active blocks: the prompt's whole blocks, and final blocks that were stale, alike in both calls.
        counts.append(worker.policy.tokens_run - before - 4 * sum(one.num_forwards for one in completions))
    assert counts[0] - counts[1] == 8
    assert counts[2] - counts[3] == 8


# --- sleep --------------------------------------------------------------------------------------------------------


def sleeper(vocab_size: int = 8) -> RolloutWorker:
    """A worker that was synced with the weights of `tiny_model(seed=3)`."""
    model = store_by_input(tiny_model(vocab_size))
    worker = RolloutWorker(lambda: RolloutPolicy(model), TOKENS, Limits(slots=3))
    worker.sync(Outbox(tiny_model(vocab_size, seed=3), 4096).of_version(1))
    return worker


def test_an_engine_writes_the_same_before_and_after_its_sleep():
    worker = sleeper()
    before = run(worker)
    strides = [parameter.stride() for parameter in worker.policy.model.parameters()]
    worker.sleep()
    worker.sleep()
    worker.wake()
    worker.wake()
    with pytest.raises(RuntimeError, match="before any weights arrived: sync first"):
        run(worker)
    worker.sync(Outbox(tiny_model(seed=3), 4096).of_version(1))
    assert run(worker) == before
    assert [parameter.stride() for parameter in worker.policy.model.parameters()] == strides


def test_an_engine_that_is_asleep_neither_decodes_nor_takes_weights():
    worker = sleeper()
    worker.sleep()
    with pytest.raises(RuntimeError, match="completions were asked of a rollout engine that is asleep: wake it first"):
        run(worker)
    with pytest.raises(RuntimeError, match="weights were sent to a rollout engine that is asleep: wake it first"):
        worker.sync(Outbox(tiny_model(seed=3), 4096).of_version(1))


def test_an_engine_does_not_sleep_while_it_decodes():
    worker = sleeper()
    stream = worker.stream(PROMPTS, DECODE)
    next(stream)
    with pytest.raises(RuntimeError, match="cannot sleep while it decodes: read its stream to the end or close it"):
        worker.sleep()
    stream.close()
    worker.sleep()


def test_asleep_an_engine_holds_neither_weights_nor_pages():
    worker = sleeper(vocab_size=80_000)  # embedding and head: 20 MiB in float64
    run(worker)
    assert worker.decoder._memory is not None
    pages = weakref.ref(worker.decoder._memory.session._cache._pages)
    weights = [weakref.ref(parameter) for parameter in worker.policy.model.parameters()]
    worker.sleep()
    assert (pages(), {weight() for weight in weights}) == (None, {None})
