"""The batched decoder against a slow one in plain loops, on toy policies whose cache can go stale."""

import dataclasses
import random

import pytest
import torch

from benchmarks.common.policies import decode, stream
from oracles.slow_decode import slow_decode
from oracles.toy_policy import ToyPolicy
from redraft.rollout.config import DecodeConfig
from redraft.rollout.sampling import seed_tensor, uniform
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens

TOKENS = SpecialTokens(mask=11, pad=0, stops=(3, 7))
GREEDY = [
    DecodeConfig.preset("q", {"block_length": 4, "max_completion_length": 13}),
    DecodeConfig.preset("s", {"block_length": 4, "max_completion_length": 13, "max_post_steps": 3}),
    DecodeConfig.preset("llada2.0", {"block_length": 4, "max_completion_length": 13}),
    DecodeConfig(block_length=5, threshold=1.0, editing_threshold=0.2, max_post_steps=1, max_completion_length=20),
    DecodeConfig(block_length=1, threshold=0.5, editing_threshold=0.5, max_completion_length=6),
    DecodeConfig(block_length=8, threshold=0.3, editing_threshold=0.0, max_post_steps=0, max_completion_length=17),
]
SAMPLED = [
    DecodeConfig.preset(
        "q",
        {
            "block_length": 4,
            "threshold": 0.4,
            "editing_threshold": 0.3,
            "max_post_steps": 3,
            "max_completion_length": 14,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "edit_sampling": edit_sampling,
            "unmask_confidence": unmask_confidence,
        },
    )
    for temperature, top_k, top_p in [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.5, 4, 1.0), (1.0, 0, 0.8), (0.9, 6, 0.7)]
    for edit_sampling in ["argmax", "sample"]
    for unmask_confidence in ["drawn", "top"]
]


WINDOWED = [
    DecodeConfig.preset("q", {"block_length": 4, "max_completion_length": 20, "editing_window": 3, "threshold": 0.3}),
    DecodeConfig.preset(
        "s", {"block_length": 4, "max_completion_length": 21, "editing_window": 9, "max_post_steps": 2}
    ),
    SAMPLED[3].model_copy(update={"editing_window": 2, "max_completion_length": 20, "editing_threshold": 0.15}),
    SAMPLED[-1].model_copy(update={"editing_window": 3, "max_completion_length": 18, "editing_threshold": 0.0}),
]
"""Earlier blocks are opened again."""


def toy(seed: int = 0, sharpness: float = 1.5) -> ToyPolicy:
    return ToyPolicy(vocab_size=12, max_length=40, sharpness=sharpness, seed=seed)


def ragged_prompts(count: int, seed: int) -> list[Prompt]:
    """Prompts of 0 to 13 tokens that hold any ids, the mask and the stops among them."""
    source = random.Random(seed)
    return [
        Prompt(f"p{i}", tuple(source.randrange(12) for _ in range(source.randrange(14))), seed=source.randrange(2**64))
        for i in range(count)
    ]


def assert_is_what_the_slow_decoder_does(
    completion: Completion, policy: ToyPolicy, prompt: Prompt, config: DecodeConfig
) -> None:
    seed = seed_tensor([prompt.seed])
    slow = slow_decode(
        lambda canvas, end: policy.block_logits(torch.tensor(canvas), config.block_length, end).tolist(),
        lambda forward, where: uniform(seed, torch.tensor([forward]), torch.tensor([[where]])).item(),
        prompt,
        config,
        TOKENS,
    )
    trace = completion.trace
    assert completion.token_ids == tuple(slow.token_ids)
    assert completion.canvas_ids == tuple(slow.canvas_ids)
    assert completion.finish_reason == slow.finish_reason
    assert completion.num_forwards == slow.num_forwards
    forward, position, old, new, log_prob, log_prob_raw = zip(*slow.actions, strict=True)
    assert (trace.forward, trace.position, trace.old, trace.new) == (forward, position, old, new)
    assert trace.log_prob == pytest.approx(log_prob, abs=1e-9)
    assert trace.log_prob_raw == pytest.approx(log_prob_raw, abs=1e-9)


ALL = GREEDY + SAMPLED + WINDOWED


@pytest.mark.parametrize("sharpness", [0.5, 2.5])
@pytest.mark.parametrize("config", ALL, ids=range(len(ALL)))
def test_a_ragged_batch_is_decoded_as_the_slow_decoder_decodes_each_row(config, sharpness):
    policy, prompts = toy(seed=1, sharpness=sharpness), ragged_prompts(6, seed=2)
    for prompt, completion in zip(prompts, decode(policy, prompts, config, TOKENS), strict=True):
        assert completion.prompt_id == prompt.id
        assert_is_what_the_slow_decoder_does(completion, policy, prompt, config)


def test_rows_of_one_batch_may_differ_in_thresholds_post_steps_and_length():
    policy, prompts = toy(), ragged_prompts(12, seed=3)
    source = random.Random(4)
    configs = [
        DecodeConfig(
            block_length=4,
            threshold=source.random(),
            editing_threshold=source.choice([0.0, 0.2, 0.6, 1.0]),
            max_post_steps=source.randrange(5),
            max_completion_length=source.randrange(1, 20),
            temperature=1.0,
        )
        for _ in prompts
    ]
    completions = decode(policy, prompts, configs, TOKENS)
    for prompt, config, completion in zip(prompts, configs, completions, strict=True):
        assert_is_what_the_slow_decoder_does(completion, policy, prompt, config)


def test_opened_blocks_are_edited_and_cost_nothing_where_the_window_is_one_block():
    prompts = ragged_prompts(6, seed=2)
    for config in WINDOWED:
        policy = toy(seed=1, sharpness=2.5)
        block_of = {  # of every edit: its block, and the newest block at the time
            (edit.position + len(prompt.token_ids)) // 4
            - (newest(completion, edit.forward) + len(prompt.token_ids)) // 4
            for prompt, completion in zip(prompts, decode(policy, prompts, config, TOKENS), strict=True)
            for edit in completion.trace.edits
        }
        assert min(block_of) < 0
        assert min(block_of) > -config.editing_window
        assert max(policy.blocks_per_pass) > max(policy.rows_per_pass)  # blocks behind an edited one are run again
        alone = config.model_copy(update={"editing_window": 1})
        assert all(
            completion.trace.num_forwards > other.trace.num_forwards
            for completion, other in zip(
                decode(policy, prompts, config, TOKENS), decode(policy, prompts, alone, TOKENS), strict=True
            )
            if len(other.canvas_ids) == len(completion.canvas_ids) > 8
        )


def newest(completion: Completion, forward: int) -> int:
    """The highest slot filled up to a forward."""
    return max(slot for slot, when in enumerate(completion.trace.unmask_forward) if when <= forward)


def branches(completion: Completion) -> set[str]:
    """What happened in a decode."""
    trace = completion.trace
    actions = list(zip(trace.forward, trace.old, trace.new, strict=True))
    unmasks = [forward for forward, old, _ in actions if old == trace.mask]
    edits = {edit.forward for edit in trace.edits}
    happened = {
        "post-stop tokens": len(completion.canvas_ids) > len(completion.token_ids),
        "parallel unmask": len(set(unmasks)) < len(unmasks),
        "edit beside unmask": bool(edits & set(unmasks)),
        "edit after unmask": bool(edits - set(unmasks)),
        "kept redraw": any(old == new for _, old, new in actions),
        completion.finish_reason: True,
    }
    return {name for name, holds in happened.items() if holds}


def test_the_toy_runs_reach_every_branch():
    """Without this, agreement with the slow decoder could be agreement on easy cases."""
    seen = set()
    for config in GREEDY + SAMPLED:
        for completion in decode(toy(seed=1, sharpness=2.5), ragged_prompts(6, seed=2), config, TOKENS):
            seen |= branches(completion)
    assert len(seen) == 7, seen


@pytest.mark.parametrize("config", [GREEDY[0], SAMPLED[1], SAMPLED[2]], ids=["greedy", "top", "redrawn edits"])
def test_a_completion_depends_on_its_prompt_and_seed_and_not_on_its_batch(config):
    policy, prompts = toy(), ragged_prompts(6, seed=5)
    together = decode(policy, prompts, config, TOKENS)
    assert [decode(policy, [prompt], config, TOKENS)[0] for prompt in prompts] == together
    assert decode(policy, prompts[::-1], config, TOKENS) == together[::-1]
    assert decode(policy, prompts, config, TOKENS, slots=4) == together


def test_a_seed_gives_its_completion_again_and_another_seed_another():
    prompts = [Prompt(f"p{seed}", (1, 2), seed=seed) for seed in [5, 5, *range(10, 40)]]
    first, again, *others = decode(toy(sharpness=0.5), prompts, SAMPLED[0], TOKENS)
    assert first.token_ids == again.token_ids
    assert len({completion.token_ids for completion in others}) > 25


def test_finished_rows_leave_the_batch():
    policy = toy()
    completions = decode(policy, ragged_prompts(9, seed=6), GREEDY[0], TOKENS)
    assert policy.rows_per_pass[0] == 9
    assert sum(policy.rows_per_pass) == sum(completion.num_forwards for completion in completions)
    assert len(policy.rows_per_pass) == max(completion.num_forwards for completion in completions)


@pytest.mark.parametrize("slots", [1, 2, 4, 9])
def test_a_completion_is_streamed_after_its_own_last_forward_and_the_next_prompt_takes_its_slot(slots):
    policy, prompts = toy(), ragged_prompts(9, seed=6)
    streamed = [
        (index, completion, len(policy.rows_per_pass))
        for index, completion in stream(policy, prompts, SAMPLED[0], TOKENS, slots)
    ]
    together = decode(toy(), prompts, SAMPLED[0], TOKENS)
    assert {index: completion for index, completion, _ in streamed} == dict(enumerate(together))
    expected = schedule([completion.num_forwards for completion in together], slots)
    assert {index: end for index, _, end in streamed} == expected
    assert len(set(expected.values())) > 4  # they do end one by one


def schedule(forwards: list[int], slots: int) -> dict[int, int]:
    """When each row ends if rows start in order, each as soon as a slot is free."""
    free_at, ends = [0] * slots, {}
    for index, count in enumerate(forwards):
        slot = free_at.index(min(free_at))
        free_at[slot] += count
        ends[index] = free_at[slot]
    return ends


def test_the_reader_of_a_stream_is_not_in_inference_mode():
    for _ in stream(toy(), ragged_prompts(3, seed=0), GREEDY[0], TOKENS):
        assert not torch.is_inference_mode_enabled()


def test_no_forward_is_spent_on_committing_a_block():
    """A prompt is prefilled, and a block that ended by budget committed, inside the forward of an active block."""
    config = DecodeConfig(block_length=4, threshold=0.0, editing_threshold=1.0, max_completion_length=12)
    policy = toy()
    (completion,) = decode(
        policy, [Prompt("p", (1, 2, 4, 5, 6, 8, 9, 1), seed=0)], config, dataclasses.replace(TOKENS, stops=())
    )
    assert completion.num_forwards == 3  # three blocks, each filled by one forward
    assert policy.blocks_per_pass == [3, 2, 2]  # two prompt blocks and the first; then each with the stale one before


def test_a_block_that_ends_unchanged_is_not_run_again():
    config = DecodeConfig(block_length=4, threshold=0.0, editing_threshold=0.999, max_completion_length=12)
    policy = toy()
    (completion,) = decode(policy, [Prompt("p", (), seed=0)], config, dataclasses.replace(TOKENS, stops=()))
    assert completion.trace.num_edits == 0
    assert policy.blocks_per_pass == [1] * 6  # per block: one forward that fills, one that changes nothing


def test_the_canvas_is_rebuilt_by_replaying_the_actions():
    for config in GREEDY + SAMPLED:
        for completion in decode(toy(), ragged_prompts(2, seed=7), config, TOKENS):
            trace = completion.trace
            canvas = [TOKENS.mask] * len(completion.canvas_ids)
            for position, old, new in zip(trace.position, trace.old, trace.new, strict=True):
                assert canvas[position] == old
                canvas[position] = new
            assert tuple(canvas) == completion.canvas_ids
            assert completion.token_ids == completion.canvas_ids[: len(completion.token_ids)]
            assert len(trace.unmask_forward) == len(completion.canvas_ids)
            assert max(trace.forward) < trace.num_forwards


def test_at_temperature_zero_every_choice_of_sampling_settings_is_greedy():
    prompts = ragged_prompts(6, seed=8)
    base = {"block_length": 4, "max_completion_length": 9}
    greedy = decode(toy(), prompts, DecodeConfig.model_validate(base), TOKENS)
    for changes in [{"edit_sampling": "sample"}, {"unmask_confidence": "top"}, {"top_k": 2, "top_p": 0.3}]:
        assert decode(toy(), prompts, DecodeConfig.model_validate(base | changes), TOKENS) == greedy
    assert {lp for completion in greedy for lp in completion.trace.log_prob} == {0.0}


def test_nothing_is_decoded_for_no_prompts():
    assert decode(toy(), [], GREEDY[0], TOKENS) == []
    assert decode(toy(), [], [], TOKENS) == []


def test_an_empty_prompt_is_completed():
    (completion,) = decode(toy(), [Prompt("empty", (), seed=0)], GREEDY[0], TOKENS)
    assert completion.token_ids


def test_a_stop_token_in_the_prompt_or_behind_the_length_limit_stops_nothing():
    config = DecodeConfig(block_length=8, max_completion_length=2)
    stops = tuple(range(11))
    policy = toy()
    (whole,) = decode(policy, [Prompt("p", (1,), seed=0)], config, dataclasses.replace(TOKENS, stops=()))
    behind = next(token for token in whole.canvas_ids if token not in whole.token_ids)
    (cut,) = decode(policy, [Prompt("p", (1,), seed=0)], config, dataclasses.replace(TOKENS, stops=(behind,)))
    assert (cut.finish_reason, cut.token_ids) == ("length", whole.token_ids)
    (stopped,) = decode(policy, [Prompt("p", (1,), seed=0)], config, dataclasses.replace(TOKENS, stops=stops))
    assert (stopped.finish_reason, len(stopped.token_ids)) == ("stop", 1)


def test_a_request_longer_than_the_context_is_refused_by_name():
    prompts = [Prompt("short", (1,), seed=0), Prompt("long", (1,) * 30, seed=0)]
    with pytest.raises(
        ValueError, match=r"prompt 'long' has 30 tokens.*is 13.*blocks have 4; it needs 44 positions.*has 40"
    ):
        decode(toy(), prompts, GREEDY[0], TOKENS)


@pytest.mark.parametrize("token", [-1, 12])
def test_a_token_id_outside_the_vocabulary_is_refused_by_name(token):
    with pytest.raises(ValueError, match=f"prompt 'odd' holds token id {token}; valid: 0 to 11"):
        decode(toy(), [Prompt("odd", (1, token), seed=0)], GREEDY[0], TOKENS)
    with pytest.raises(ValueError, match=f"mask token id must be in 0 to 11, got {token}"):
        decode(toy(), [], GREEDY[0], dataclasses.replace(TOKENS, mask=token))


def test_configs_that_do_not_go_together_are_refused_with_the_field():
    prompts = ragged_prompts(2, seed=0)
    with pytest.raises(ValueError, match="got 1 decode configs for 2 prompts"):
        decode(toy(), prompts, [GREEDY[0]], TOKENS)
    with pytest.raises(ValueError, match=r"block_length must be the same for all prompts of one decode, got \[4, 5\]"):
        decode(toy(), prompts, [GREEDY[0], GREEDY[3]], TOKENS)
    with pytest.raises(ValueError, match="slots must be at least 1, got 0"):
        decode(toy(), prompts, GREEDY[0], TOKENS, slots=0)


def test_logits_that_are_not_finite_stop_the_decode():
    policy = toy()
    policy.readout[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        decode(policy, ragged_prompts(2, seed=0), GREEDY[0], TOKENS)


def test_a_policy_that_records_no_routes_is_asked_in_vain():
    with pytest.raises(TypeError, match="ToyPolicy has no route_tape"):
        decode(toy(), ragged_prompts(1, seed=0), GREEDY[0].model_copy(update={"record_routes": True}), TOKENS)


def test_thresholds_of_one_with_the_leftmost_fallback_write_from_left_to_right():
    config = DecodeConfig(
        block_length=4, threshold=1.0, editing_threshold=1.0, max_completion_length=8, temperature=1.0,
        unmask_confidence="top", unmask_fallback="leftmost",
    )  # fmt: skip
    for completion in decode(toy(), ragged_prompts(4, seed=0), config, TOKENS):
        trace = completion.trace
        assert trace.position == trace.forward == tuple(range(len(completion.canvas_ids)))
        assert trace.num_edits == 0
