"""The golden decode traces of the official model (under the strict mask), token for token and edit for edit."""

from typing import Any

import pytest
import torch

from oracles.golden_llada2 import BLOCK_LENGTH, EOS, MASK, golden_cases, golden_folder
from rl.models.llada2.checkpoint import load_pretrained
from rollout.config import DecodeConfig
from rollout.decoder import decode
from rollout.torch_engine import TorchEngine
from rollout.trajectory import Completion, Prompt, SpecialTokens

TOKENS = SpecialTokens(mask=MASK, pad=0, stops=(EOS,))


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(load_pretrained(golden_folder(), dtype=torch.float64))


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    return golden_cases("decode")


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


@pytest.mark.parametrize("index", range(6))
def test_each_golden_case_is_decoded_exactly_on_its_own(engine, cases, index):
    case = cases[index]
    (completion,) = decode(engine, [prompt_of(index, case)], config_of(case), TOKENS)
    assert_matches(completion, case)


def test_all_golden_cases_are_decoded_exactly_in_one_ragged_batch(engine, cases):
    assert len(cases) == 6
    prompts = [prompt_of(index, case) for index, case in enumerate(cases)]
    completions = decode(engine, prompts, [config_of(case) for case in cases], TOKENS)
    for completion, prompt, case in zip(completions, prompts, cases, strict=True):
        assert completion.prompt_id == prompt.id
        assert_matches(completion, case)
