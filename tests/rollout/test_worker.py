"""The rollout worker: whose weights write, and which keys it may read."""

import pytest
import torch

from benchmarks.common.policies import in_order
from oracles.tiny_policy import DECODE, TOKENS, tiny_model
from redraft.rl.models.llada2 import init_weights
from redraft.rollout.config import Limits
from redraft.rollout.trajectory import Completion, Prompt
from redraft.rollout.weights import WeightUpdate
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

    def install(self, update: WeightUpdate) -> None:
        init_weights(self.model, torch.Generator().manual_seed(update.version))
        self.version = update.version


def version_of(number: int) -> WeightUpdate:
    return WeightUpdate(number, fingerprint="", tensors={})


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
