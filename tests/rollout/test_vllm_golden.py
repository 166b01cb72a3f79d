"""The golden decode traces of the official model through vLLM, token for token and edit for edit."""

from typing import Any

import pytest

from oracles.golden_llada2 import golden_cases, golden_folder
from oracles.golden_traces import TOKENS, assert_matches, config_of, prompt_of
from redraft.rollout.config import DecodeConfig, Limits
from redraft.rollout.vllm.engine import VLLMEngine, fetch_traces
from vllm_setup import MARKS, by_vllm, count_preemptions, import_vllm, options_for

import_vllm()
pytestmark = MARKS


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    return golden_cases("decode")


def start(pages: int | None = None) -> VLLMEngine:
    options = options_for(str(golden_folder()), DecodeConfig(block_length=32), TOKENS)
    return VLLMEngine(options, Limits(slots=8), max_length=192, changes={"num_gpu_blocks_override": pages})


@pytest.fixture(scope="module")
def engine():
    engine = start()
    yield engine
    engine.close()


def test_all_golden_cases_are_decoded_exactly_in_one_batch(engine, cases):
    prompts = [prompt_of(index, case) for index, case in enumerate(cases)]
    completions = by_vllm(engine, prompts, [config_of(case) for case in cases])
    assert len(completions) == 6
    for completion, prompt, case in zip(completions, prompts, cases, strict=True):
        assert completion.prompt_id == prompt.id
        assert_matches(completion, case)


def test_all_golden_cases_are_decoded_exactly_while_requests_give_their_pages_away(cases, monkeypatch):
    engine = start(pages=1 + 13)
    preempted = count_preemptions(engine, monkeypatch)
    prompts = [prompt_of(index, case) for index, case in enumerate(cases)]
    for completion, case in zip(by_vllm(engine, prompts, [config_of(c) for c in cases]), cases, strict=True):
        assert_matches(completion, case)
    engine.close()
    assert preempted


@pytest.mark.parametrize("index", range(6))
def test_each_golden_case_is_decoded_exactly_by_generate_with_four_samples(engine, cases, index):
    from vllm import SamplingParams

    case = cases[index]
    config = config_of(case)
    overrides = config.model_dump(exclude={"block_length", "max_completion_length"})
    params = SamplingParams(n=4, max_tokens=case["max_new_tokens"], detokenize=False, extra_args={"decode": overrides})
    (output,) = engine.llm.generate([{"prompt_token_ids": case["prompt"]}], params, use_tqdm=False)
    assert [list(sample.token_ids) for sample in output.outputs] == [case["tokens"]] * 4
    traces = fetch_traces(engine.llm, [output.request_id])
    assert len(traces) == 4
    for completion in traces.values():
        assert_matches(completion, case)
