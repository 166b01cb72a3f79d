"""The vLLM engine against the torch engine, on a random policy in float64: same completions in any schedule."""

from dataclasses import replace

import pytest

from alike import assert_alike
from redraft.rollout.config import DecodeConfig, Limits
from redraft.rollout.trajectory import Prompt
from vllm_setup import (
    MARKS,
    SAMPLED,
    by_torch,
    by_vllm,
    count_preemptions,
    import_vllm,
    make_policy,
    ragged_prompts,
    scheduler_of,
    start,
    unversioned,
    worker_of,
)

import_vllm()
pytestmark = MARKS

CONFIGS = [
    SAMPLED,
    SAMPLED.model_copy(update={"temperature": 0.7, "top_k": 5, "edit_sampling": "argmax"}),
    SAMPLED.model_copy(update={"temperature": 1.5, "top_p": 0.8, "unmask_confidence": "drawn"}),
    SAMPLED.model_copy(update={"temperature": 0.005, "editing_threshold": 0.0}),
    DecodeConfig(
        block_length=4, threshold=1.0, editing_threshold=1.0, unmask_fallback="leftmost", max_completion_length=21
    ),
    DecodeConfig(block_length=4, threshold=0.2, editing_threshold=0.0, max_post_steps=0, max_completion_length=9),
    DecodeConfig(block_length=4, threshold=0.2, max_post_steps=1, max_completion_length=1),
]
CONFIGS = [
    config.model_copy(update={"max_completion_length": min(config.max_completion_length, 21)}) for config in CONFIGS
]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def engine(path):
    engine = start(path)
    yield engine
    engine.close()


@pytest.mark.parametrize("config", CONFIGS)
def test_completions_and_traces_are_those_of_the_torch_engine(engine, path, config):
    prompts = ragged_prompts()
    assert_alike(unversioned(by_vllm(engine, prompts, config)), by_torch(path, prompts, config))


def test_every_request_of_a_batch_has_its_own_config(engine, path):
    prompts = ragged_prompts()
    assert len(prompts) == len(CONFIGS)
    assert_alike(unversioned(by_vllm(engine, prompts, CONFIGS)), by_torch(path, prompts, CONFIGS))


def test_seeds_of_any_size_are_those_of_the_torch_engine(engine, path):
    prompts = [replace(ragged_prompts()[3], seed=seed) for seed in (0, 2**63 - 1, 2**63, 2**64 - 1, 2**70 + 5)]
    completions = by_vllm(engine, prompts, SAMPLED)
    assert_alike(unversioned(completions), by_torch(path, prompts, SAMPLED))
    assert len({completion.token_ids for completion in completions}) > 2


def test_routes_are_those_of_the_torch_engine_and_are_kept_where_they_are_asked_for(engine, path):
    prompts, recorded = ragged_prompts(), SAMPLED.model_copy(update={"record_routes": True})
    mixed = [recorded if index % 2 else SAMPLED for index in range(len(prompts))]
    ours, theirs = by_vllm(engine, prompts, mixed), by_torch(path, prompts, recorded)
    assert_alike(unversioned(ours[1::2]), theirs[1::2])
    assert all(completion.trace.routes is None for completion in ours[::2])


def test_a_completion_is_handed_out_when_it_is_done_and_not_at_the_end_of_its_batch(engine):
    prompts = ragged_prompts()
    configs = [SAMPLED.model_copy(update={"max_completion_length": size}) for size in (40, 30, 20, 1, 1, 1, 1)]
    assert [index for index, _ in engine.stream(prompts, configs)][-1] in (0, 1, 2)


def test_more_prompts_than_slots_are_completed(path):
    engine, prompts = start(path, limits=Limits(slots=2)), ragged_prompts()
    assert_alike(unversioned(by_vllm(engine, prompts, SAMPLED)), by_torch(path, prompts, SAMPLED))
    engine.close()


# --- pages ----------------------------------------------------------------------------------------------------------


def spy_on_admissions(engine, monkeypatch):
    """A list that will hold (pages, committed tokens) of every request that takes a slot."""
    slots, seen = worker_of(engine).running.slots, []
    plain = slots.admit

    def noted(request, pages, committed):
        seen.append((list(pages), committed))
        return plain(request, pages, committed)

    monkeypatch.setattr(slots, "admit", noted)
    return seen


def test_siblings_of_one_step_share_the_pages_of_their_prompt(path, monkeypatch):
    engine = start(path)
    seen = spy_on_admissions(engine, monkeypatch)
    prompt = ragged_prompts()[-1]
    siblings = [replace(prompt, id=f"s{seed}", seed=seed) for seed in range(4)]
    completions = by_vllm(engine, siblings, SAMPLED)
    assert len(prompt.token_ids) == 22
    assert [committed for _, committed in seen] == [0, 20, 20, 20]  # five whole blocks, run once
    assert len({tuple(pages[:5]) for pages, _ in seen}) == 1
    assert len({pages[5] for pages, _ in seen}) == 4  # the block that holds the prompt's tail is each one's own
    assert 0 not in {page for pages, _ in seen for page in pages}
    assert_alike(unversioned(completions), by_torch(path, siblings, SAMPLED))
    seen.clear()
    by_vllm(engine, siblings[:1], SAMPLED)
    assert [committed for _, committed in seen] == [20]  # and is still there for the next call
    engine.close()


def test_a_block_that_a_completion_wrote_is_shared_with_prompts_that_begin_with_it(path, monkeypatch):
    engine = start(path)
    (first,) = by_vllm(engine, ragged_prompts()[3:4], SAMPLED)
    seen = spy_on_admissions(engine, monkeypatch)
    known = ragged_prompts()[3].token_ids + first.canvas_ids
    longer = Prompt("longer", known[:13], seed=9)
    assert_alike(unversioned(by_vllm(engine, [longer], SAMPLED)), by_torch(path, [longer], SAMPLED))
    assert [committed for _, committed in seen] == [12]  # 4 of the prompt, 8 that were generated
    engine.close()


@pytest.mark.parametrize(("pages", "as_on_a_gpu"), [(17, False), (19, True), (23, False)])
def test_requests_that_give_their_pages_away_and_come_back_are_completed_alike(path, monkeypatch, pages, as_on_a_gpu):
    """Also with the scheduler's way for the newer model runner, where such a request comes back as a new one."""
    engine = start(path, num_gpu_blocks_override=pages)
    monkeypatch.setattr(scheduler_of(engine), "use_v2_model_runner", as_on_a_gpu)
    preempted = count_preemptions(engine, monkeypatch)
    config = SAMPLED.model_copy(update={"max_completion_length": 40})
    prompts = [*ragged_prompts(), *ragged_prompts(sizes=(24, 24, 20, 9), seed=4)]
    greedy = config.model_copy(update={"temperature": 0.0})  # siblings that write the same blocks share them too
    configs = [greedy if index % 3 else config for index in range(len(prompts))]
    assert_alike(unversioned(by_vllm(engine, prompts, configs)), by_torch(path, prompts, configs))
    assert len(preempted) > 3
    assert_nothing_is_left(engine)
    engine.close()


def assert_nothing_is_left(engine):
    """Of requests that ended, after the step in which the worker hears of the last ones."""
    by_vllm(engine, ragged_prompts()[:1], SAMPLED)
    rows, scheduler = worker_of(engine).running, scheduler_of(engine)
    assert not rows._unfinished
    assert not rows._traces
    assert not rows.slots.running
    assert not scheduler.requests
    pool = scheduler.kv_cache_manager.block_pool
    assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1  # all but page 0


def test_a_reader_that_leaves_aborts_its_requests_and_the_next_one_is_served(engine, path):
    prompts = ragged_prompts()
    stream = engine.stream(prompts, SAMPLED)
    next(stream)
    stream.close()
    assert_nothing_is_left(engine)
    assert_alike(unversioned(by_vllm(engine, prompts, SAMPLED)), by_torch(path, prompts, SAMPLED))


def test_pages_take_the_memory_that_vllm_counts_for_them(engine):
    manager = scheduler_of(engine).kv_cache_config
    counted = sum(tensor.size for tensor in manager.kv_cache_tensors)
    cache = worker_of(engine).running.slots.session._cache
    assert cache._pages.nbytes == counted
    # Keys and values of 3 layers, 2 heads of 8 numbers, 8 bytes each, for the 4 tokens of a page.
    assert counted == manager.num_blocks * 2 * 3 * 2 * 8 * 8 * 4
