"""Pages of the decoder: who shares them, who waits for them, when they are forgotten and what happens without them."""

import logging
import threading

import pytest
import torch

from benchmarks.common.policies import decode, in_order
from oracles.toy_policy import ToyPolicy
from redraft.rollout.config import DecodeConfig
from redraft.rollout.decoding.decoder import Decoder
from redraft.rollout.decoding.slots import FUSED_BLOCKS, PREFILL_BLOCKS
from redraft.rollout.trajectory import Prompt, SpecialTokens
from redraft.rollout.watchdog import StepTimeout, Watchdog

TOKENS = SpecialTokens(mask=11, pad=0, stops=(3, 7))
CONFIG = DecodeConfig(
    block_length=4, threshold=0.4, editing_threshold=0.3, max_post_steps=3, max_completion_length=14, temperature=1.0
)


def toy(seed: int = 0, max_length: int = 40) -> ToyPolicy:
    return ToyPolicy(vocab_size=12, max_length=max_length, sharpness=1.5, seed=seed)


def group(length: int, members: int, token: int = 1) -> list[Prompt]:
    """Completions of one prompt."""
    return [Prompt(f"{token}-{index}", (token,) * length, seed=index) for index in range(members)]


def run(decoder: Decoder, prompts: list[Prompt], config: DecodeConfig = CONFIG, version: int | None = None):
    return in_order(decoder.stream(prompts, config, version))


# --- sharing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_the_completions_of_a_prompt_run_its_whole_blocks_once(slots):
    policy, prompts = toy(), group(length=10, members=8)
    completions = decode(policy, prompts, CONFIG, TOKENS, slots)
    steps = sum(completion.num_forwards for completion in completions)
    stale = sum(policy.blocks_per_pass) - steps  # blocks besides active ones: the prompt's two, and stale final ones
    apart = toy()
    alone = [decode(apart, [prompt], CONFIG, TOKENS)[0] for prompt in prompts]
    assert alone == completions
    assert sum(apart.blocks_per_pass) - steps - stale == 7 * 2


def test_a_group_needs_the_memory_of_its_prompt_once():
    policy = toy()
    policy.pages = 5 + 4 * 3  # the prompt's whole blocks; and of each row its first block and those for 14 tokens
    prompts = group(length=20, members=4)
    decode(policy, prompts, CONFIG.model_copy(update={"max_completion_length": 12}), TOKENS)
    assert max(policy.rows_per_pass) == 4


def test_a_long_prompt_is_run_in_passes_of_many_blocks_and_shared():
    length = 4 * (PREFILL_BLOCKS + FUSED_BLOCKS + 2) + 3
    policy, other = toy(max_length=200), toy(max_length=200)
    prompts = [*group(length, members=3), Prompt("tail", (1,) * (length - 8) + (2,) * 30, seed=5)]
    together = decode(policy, prompts, CONFIG, TOKENS)
    # The group's blocks once; of the other prompt those that differ, with rows that wait for its pages before it.
    assert policy.prefilled[:2] == [PREFILL_BLOCKS, FUSED_BLOCKS + 2]
    assert sum(policy.prefilled) == PREFILL_BLOCKS + FUSED_BLOCKS + 2 + (length + 22) // 4 - (length - 8) // 4
    assert [decode(other, [prompt], CONFIG, TOKENS)[0] for prompt in prompts] == together


def test_a_prompt_that_extends_a_waiting_one_is_run_after_it():
    """The short one's blocks would be run in the joint pass, but the long one's own pass comes first and reads them."""
    policy, short = toy(max_length=100), (1,) * 4 * FUSED_BLOCKS
    prompts = [Prompt("short", short, seed=1), Prompt("long", short + (2,) * 4 * (FUSED_BLOCKS + 1), seed=2)]
    together = decode(policy, prompts, CONFIG, TOKENS)
    assert policy.prefilled == [FUSED_BLOCKS, FUSED_BLOCKS + 1]
    assert [decode(toy(max_length=100), [prompt], CONFIG, TOKENS)[0] for prompt in prompts] == together


# --- versions -----------------------------------------------------------------------------------------------------


def blocks_run(policy: ToyPolicy, decoder: Decoder, version: int | None) -> int:
    before = sum(policy.blocks_per_pass)
    run(decoder, group(length=8, members=2), version=version)
    return sum(policy.blocks_per_pass) - before


def test_pages_serve_later_calls_of_the_same_version_and_no_others():
    policy = toy()
    decoder = Decoder(policy, TOKENS, slots=2)
    cold = blocks_run(policy, decoder, version=4)
    assert blocks_run(policy, decoder, version=4) == cold - 2
    assert blocks_run(policy, decoder, version=5) == cold
    assert blocks_run(policy, decoder, version=None) == cold
    assert blocks_run(policy, decoder, version=None) == cold
    assert blocks_run(policy, decoder, version=5) == cold


def test_a_change_of_weights_changes_the_next_output():
    policy, prompts = toy(), group(length=9, members=4)
    decoder = Decoder(policy, TOKENS, slots=2)
    before = run(decoder, prompts, version=0)
    policy.tokens += 1.0
    after = run(decoder, prompts, version=1)
    assert after != before
    assert after == decode(policy, prompts, CONFIG, TOKENS)


def test_a_stream_that_its_reader_leaves_gives_its_pages_back():
    policy, prompts = toy(), group(length=8, members=6)
    policy.pages = 12
    decoder = Decoder(policy, TOKENS, slots=2)
    for _ in range(5):
        stream = decoder.stream(prompts, CONFIG, version=1)
        next(stream)
        stream.close()
    assert run(decoder, prompts, version=1) == decode(toy(), prompts, CONFIG, TOKENS)


def test_streams_may_be_read_in_turn():
    decoder, expected = Decoder(toy(), TOKENS, slots=2), decode(toy(), group(8, 5), CONFIG, TOKENS)
    first, second = (decoder.stream(group(8, 5), CONFIG, version=1) for _ in range(2))
    pairs = list(zip(first, second, strict=True))
    assert in_order([one for one, _ in pairs]) == in_order([other for _, other in pairs]) == expected


# --- too little memory --------------------------------------------------------------------------------------------


def test_rows_wait_for_pages_and_complete_as_if_they_had_not():
    prompts = [Prompt(f"p{n}", (n,) * n, seed=n) for n in range(1, 10)]
    policy = toy()
    policy.pages = 8  # each needs 4 to 6
    assert decode(policy, prompts, CONFIG, TOKENS) == decode(toy(), prompts, CONFIG, TOKENS)
    assert max(policy.rows_per_pass) < 3


def test_a_request_that_the_memory_can_never_hold_is_refused_with_its_lengths():
    policy = toy()
    policy.pages = 4
    message = (
        r"prompt 'x' has 6 tokens, max_completion_length is 14 .* it needs 20 tokens of cache, .* for 16: set more"
    )
    with pytest.raises(ValueError, match=message):
        decode(policy, [Prompt("x", (1,) * 6, seed=0)], CONFIG, TOKENS)


class TightPolicy(ToyPolicy):
    """Runs out of memory with more than a number of rows in a pass, in the middle of a decode."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__(vocab_size=12, max_length=40, sharpness=1.5, seed=0)
        self.most, self.error = most, error

    def open(self, num_pages, block_length, mask):
        session = super().open(num_pages, block_length, mask)
        forward = session.forward

        def tight(batch, num_active, record):
            if num_active > self.most and len(self.rows_per_pass) > 4:
                session.pages.fill_(0)  # what is left in the pages is not to be relied on
                raise self.error
            return forward(batch, num_active, record)

        session.forward = tight
        return session


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_out_of_memory_halves_the_slots_once_with_a_warning_and_loses_nothing(error, caplog):
    policy, prompts = TightPolicy(4, error), group(length=5, members=9)
    decoder = Decoder(policy, TOKENS, slots=8)
    streamed = list(decoder.stream(prompts, CONFIG, version=1))
    assert sorted(index for index, _ in streamed) == list(range(9))
    assert in_order(streamed) == decode(toy(), prompts, CONFIG, TOKENS)
    assert caplog.record_tuples == [
        ("redraft.rollout.decoding.decoder", logging.WARNING, "out of memory; going on with 4 slots instead of 8")
    ]
    policy.most = 3
    with pytest.raises(type(error)) as failure:
        run(decoder, prompts)
    assert failure.value.__notes__[-1].startswith(
        "decoding ran out of memory with 4 requests at a time; use fewer slots"
    )


def test_other_errors_are_not_taken_for_lack_of_memory():
    policy = TightPolicy(1, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        decode(policy, group(5, 4), CONFIG, TOKENS)


# --- deadlines ----------------------------------------------------------------------------------------------------


class HungPolicy(ToyPolicy):
    """Its fourth forward does not return before it is released."""

    def __init__(self) -> None:
        super().__init__(vocab_size=12, max_length=40, sharpness=1.5, seed=0)
        self.release, self.ended = threading.Event(), False

    def open(self, num_pages, block_length, mask):
        session = super().open(num_pages, block_length, mask)
        forward = session.forward

        def hung(batch, num_active, record):
            if len(self.rows_per_pass) == 3:
                self.release.wait(20)
                self.ended = True
            return forward(batch, num_active, record)

        session.forward = hung
        return session


def test_a_forward_that_hangs_meets_a_deadline_that_names_the_requests():
    policy = HungPolicy()
    decoder = Decoder(policy, TOKENS, slots=2, step_timeout_s=1.0)
    with pytest.raises(StepTimeout, match=r"a forward of 2 requests \(1-0, 1-1\) did not end within 1 s"):
        run(decoder, group(5, 4), version=1)
    assert not policy.ended  # nothing waited for the forward
    policy.release.set()
    # The memory that the lost forward may still write to is not used again.
    assert run(decoder, group(5, 4), version=1) == decode(toy(), group(5, 4), CONFIG, TOKENS)


def test_a_deadline_changes_no_completion_and_errors_come_through():
    prompts = group(length=9, members=5)
    assert run(Decoder(toy(), TOKENS, 2, step_timeout_s=60.0), prompts) == decode(toy(), prompts, CONFIG, TOKENS)
    broken = toy()
    broken.readout[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        run(Decoder(broken, TOKENS, 2, step_timeout_s=60.0), prompts)


def test_calls_under_a_deadline_run_with_the_callers_number_of_threads():
    watchdog, before = Watchdog(30.0), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert watchdog.run(torch.get_num_threads, lambda: "asking") == 3
    finally:
        torch.set_num_threads(before)
        watchdog.close()
