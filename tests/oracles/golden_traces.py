"""The golden decodes of the official model as requests, and the comparison of a completion with one of them."""

from typing import Any

from oracles.golden_llada2 import BLOCK_LENGTH, EOS, MASK
from redraft.rollout.config import DecodeConfig
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens

TOKENS = SpecialTokens(mask=MASK, pad=0, stops=(EOS,))


def prompt_of(index: int, case: dict[str, Any]) -> Prompt:
    return Prompt(f"golden-{index}", tuple(case["prompt"]), seed=index)


def config_of(case: dict[str, Any]) -> DecodeConfig:
    return DecodeConfig(
        block_length=BLOCK_LENGTH,
        threshold=case["threshold"],
        editing_threshold=case["editing_threshold"],
        max_post_steps=case["max_post_steps"],
        max_completion_length=case["max_new_tokens"],
    )


def actions_by_forward(completion: Completion, prompt_length: int) -> list[dict[str, list[list[int]]]]:
    """The trace in the golden layout: per forward, what was unmasked and what was edited, at absolute positions."""
    trace = completion.trace
    forwards: list[dict[str, list[list[int]]]] = [{"unmask": [], "edit": []} for _ in range(trace.num_forwards)]
    for forward, position, old, new in zip(trace.forward, trace.position, trace.old, trace.new, strict=True):
        where = prompt_length + position
        if old == MASK:
            forwards[forward]["unmask"].append([where, new])
        else:
            forwards[forward]["edit"].append([where, old, new])
    return forwards


def assert_matches(completion: Completion, case: dict[str, Any]) -> None:
    assert list(completion.token_ids) == case["tokens"]
    assert case["prompt"] + list(completion.canvas_ids) == case["canvas"]
    assert completion.num_forwards == case["num_forwards"]
    assert completion.trace.num_edits == case["num_edits"]
    golden = [{"unmask": forward["unmask"], "edit": forward["edit"]} for forward in case["trace"]]
    assert actions_by_forward(completion, len(case["prompt"])) == golden
