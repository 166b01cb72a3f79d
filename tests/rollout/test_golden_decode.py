"""The golden decode traces of the official model (under the strict mask), token for token and edit for edit."""

from typing import Any

import pytest
import torch

from benchmarks.common.policies import decode
from oracles.golden_llada2 import golden_cases, golden_folder
from oracles.golden_traces import TOKENS, assert_matches, config_of, prompt_of
from redraft.rl.models.llada2.checkpoint import load_pretrained
from redraft.rollout.engine.torch_engine import TorchEngine


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(load_pretrained(golden_folder(), dtype=torch.float64))


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    return golden_cases("decode")


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
