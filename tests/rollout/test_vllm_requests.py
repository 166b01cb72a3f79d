"""What the block decoder makes of vLLM's SamplingParams: sampling, seeds, stops, lengths, log-probabilities."""

from dataclasses import replace

import pytest

from alike import assert_alike
from redraft.rollout.config import DecodeConfig
from redraft.rollout.request import Request
from redraft.rollout.trajectory import Prompt, SpecialTokens
from redraft.rollout.vllm.engine import VLLMEngine, fetch_traces
from vllm_setup import (
    LIMITS,
    MARKS,
    SAMPLED,
    TOKENS,
    by_torch,
    by_vllm,
    import_vllm,
    make_policy,
    options_for,
    ragged_prompts,
    start,
    worker_of,
)

import_vllm()
pytestmark = MARKS
PROMPT = ragged_prompts()[3]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def engine(path):
    engine = start(path)
    yield engine
    engine.close()


def generate(engine, prompt=PROMPT, **settings):
    """The samples of one request, as vLLM's users make them."""
    from vllm import SamplingParams

    params = SamplingParams(**{"detokenize": False, "max_tokens": 14, **settings})
    (output,) = engine.llm.generate([{"prompt_token_ids": list(prompt.token_ids)}], params, use_tqdm=False)
    return output


@pytest.mark.parametrize(
    "config",
    [
        SAMPLED,
        SAMPLED.model_copy(update={"temperature": 0.0, "record_routes": True}),
        SAMPLED.model_copy(update={"temperature": 0.002, "top_k": 3, "top_p": 0.5, "max_completion_length": 3}),
        DecodeConfig.preset("s", {"block_length": 4, "unmask_fallback": "leftmost", "max_completion_length": 50}),
    ],
)
def test_a_request_comes_back_from_sampling_params_as_it_was(config):
    from redraft.rollout.vllm.request import to_params, to_request

    request = Request(Prompt("x", (3, 4, 5), seed=7), config)
    params = to_params(request, TOKENS.stops)
    assert to_request("x", (3, 4, 5), params, options_for("unused"), max_length=64) == request


def test_sampling_params_override_the_engine_and_extra_args_override_both(path):
    from vllm import SamplingParams

    from redraft.rollout.vllm.request import to_request

    extra = {"decode": {"threshold": 0.9, "top_k": 7}}
    params = SamplingParams(temperature=0.6, top_k=5, top_p=0.4, max_tokens=9, seed=11, extra_args=extra)
    request = to_request("x", (3, 4), params, options_for(path), max_length=64)
    changes = {"temperature": 0.6, "top_k": 7, "top_p": 0.4, "max_completion_length": 9, "threshold": 0.9}
    assert request.config == SAMPLED.model_copy(update=changes)
    assert request.prompt.seed == 11


def test_generate_decodes_as_the_torch_engine_does_and_sample_k_has_the_seed_plus_k(engine, path):
    output = generate(engine, n=3, temperature=0.8, top_k=6, top_p=0.9, seed=5)
    config = SAMPLED.model_copy(update={"temperature": 0.8, "top_k": 6, "top_p": 0.9})
    expected = by_torch(path, [replace(PROMPT, seed=seed) for seed in (5, 6, 7)], config)
    assert [tuple(sample.token_ids) for sample in output.outputs] == [completion.token_ids for completion in expected]
    assert [sample.finish_reason for sample in output.outputs] == [completion.finish_reason for completion in expected]
    traces = fetch_traces(engine.llm, [output.request_id])
    for name, completion in traces.items():
        sample = int(name.partition("_")[0])
        assert_alike([replace(completion, prompt_id=PROMPT.id, policy_version=0)], [expected[sample]])
    assert len(traces) == 3
    assert fetch_traces(engine.llm, [output.request_id]) == {}  # each once


def test_samples_without_a_seed_differ(engine):
    output = generate(engine, n=6)
    assert len({tuple(sample.token_ids) for sample in output.outputs}) > 2


def test_the_engines_own_decoding_mode_is_vllms_default(engine):
    params = engine.llm.get_default_sampling_params()
    assert (params.temperature, params.top_k, params.top_p, params.max_tokens) == (1.0, 0, 1.0, 14)


@pytest.mark.parametrize("limit", range(1, 14))
def test_a_length_limit_inside_a_block_cuts_it(engine, path, limit):
    (expected,) = by_torch(path, [PROMPT], SAMPLED.model_copy(update={"max_completion_length": limit}))
    (sample,) = generate(engine, max_tokens=limit, seed=PROMPT.seed).outputs
    assert tuple(sample.token_ids) == expected.token_ids
    assert sample.finish_reason == expected.finish_reason


def test_a_stop_token_inside_a_block_cuts_it_and_further_ones_can_be_named(engine, path):
    (whole,) = by_torch(path, [PROMPT], SAMPLED)
    assert len(whole.token_ids) > 6
    stops = set(whole.token_ids[4:])
    for token in stops:
        tokens = SpecialTokens(mask=1, pad=0, stops=(2, token))
        (expected,) = by_torch(path, [PROMPT], SAMPLED, tokens)
        output = generate(engine, seed=PROMPT.seed, stop_token_ids=[token])
        (sample,) = output.outputs
        assert tuple(sample.token_ids) == expected.token_ids
        assert (sample.finish_reason, sample.stop_reason) == ("stop", expected.token_ids[-1])
        (completion,) = fetch_traces(engine.llm, [output.request_id]).values()
        assert_alike([replace(completion, prompt_id=PROMPT.id, policy_version=0)], [expected])


def test_a_request_is_cut_where_the_engine_has_no_more_room(engine):
    prompt = ragged_prompts(sizes=(50,))[0]
    (sample,) = generate(engine, prompt=prompt, max_tokens=1000, seed=1).outputs
    assert sample.finish_reason == "stop" or len(sample.token_ids) == 64 - 50


@pytest.mark.parametrize("settings", [{"temperature": 1.0}, {"temperature": 0.5, "top_k": 4}])
def test_log_probs_are_the_raw_ones_of_the_last_action_on_each_slot(engine, settings):
    output = generate(engine, n=2, seed=5, logprobs=0, **settings)
    for name, completion in fetch_traces(engine.llm, [output.request_id]).items():
        sample, trace = output.outputs[int(name.partition("_")[0])], completion.trace
        expected = []
        for slot in range(len(sample.token_ids)):
            last = max(i for i in range(len(trace.position)) if trace.position[i] == slot)
            assert trace.new[last] == sample.token_ids[slot]
            expected.append(trace.log_prob_raw[last])
        found = [entry[token].logprob for token, entry in zip(sample.token_ids, sample.logprobs, strict=True)]
        assert found == pytest.approx(expected, abs=1e-6)
        assert sample.cumulative_logprob == pytest.approx(sum(expected), abs=1e-5)
        assert any(old not in (1, new) for old, new in zip(trace.old, trace.new, strict=True))  # edits took part


def test_requests_with_and_without_log_probs_go_together(engine):
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": list(prompt.token_ids)} for prompt in ragged_prompts()[3:6]]
    params = [SamplingParams(detokenize=False, max_tokens=14, seed=3, logprobs=value) for value in (None, 1, None)]
    outputs = [output.outputs[0] for output in engine.llm.generate(prompts, params, use_tqdm=False)]
    assert [output.logprobs is None for output in outputs] == [True, False, True]
    assert len(outputs[1].logprobs) == len(outputs[1].token_ids)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_p": 0.1}, "min_p means nothing to block diffusion"),
        ({"ignore_eos": True}, "ignore_eos means nothing"),
        ({"repetition_penalty": 1.2}, "repetition_penalty means nothing"),
        ({"prompt_logprobs": 0}, "prompt_logprobs means nothing"),
        ({"logprobs": 5}, "logprobs must be 0 or 1"),
        ({"extra_args": {"decode": {"block_length": 8}}}, "cannot set block_length"),
        ({"extra_args": {"decode": {"max_completion_length": 8}}}, "cannot set max_completion_length"),
        ({"extra_args": {"decode": {"treshold": 0.5}}}, "treshold"),
        (
            {"extra_args": {"decode": {"editing_window": 2}}},
            "must be 1 with vLLM.* use the torch engine",
        ),
    ],
)
def test_a_wrong_request_is_refused_before_it_reaches_the_worker(engine, settings, message):
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match=message):
        generate(engine, **settings)
    assert len(by_vllm(engine, [PROMPT], SAMPLED)) == 1  # and the engine goes on


def test_completions_that_nobody_fetches_are_bounded(path):
    options = options_for(path).model_copy(update={"max_traces": 3})
    engine = start(path, additional_config=options.model_dump(mode="json"))
    outputs = [generate(engine, max_tokens=1, seed=seed) for seed in range(5)]
    assert len(worker_of(engine).running._traces) == 3
    found = fetch_traces(engine.llm, [output.request_id for output in outputs])
    assert [name.partition("-")[0] for name in found] == [output.request_id for output in outputs[2:]]
    engine.close()


def test_an_aborted_request_leaves_no_trace(engine):
    from redraft.rollout.vllm.request import to_params

    core = engine.llm.llm_engine
    params = to_params(Request(PROMPT, SAMPLED), TOKENS.stops)
    request_id = core.add_request("gone", {"type": "token", "prompt_token_ids": list(PROMPT.token_ids)}, params)
    core.step()
    assert request_id in worker_of(engine).running._unfinished
    core.abort_request([request_id], internal=True)
    by_vllm(engine, [PROMPT], SAMPLED)
    assert request_id not in worker_of(engine).running._unfinished
    assert fetch_traces(engine.llm, ["gone", request_id]) == {}


def test_text_goes_in_and_out_where_the_folder_has_a_tokenizer(tmp_path):
    """As vLLM's users do it: `vllm.LLM` with our arguments, text prompts, a stop string."""
    import tiny
    from redraft.rl.models.registry import load_text_side
    from redraft.rollout.chat import decode_text, encode_prompt

    path = str(tiny.make_policy(tmp_path / "text", dtype="float64"))
    tokenizer, tokens = load_text_side(path)
    config = DecodeConfig.model_validate({**tiny.DECODE, "max_completion_length": 16})
    engine = VLLMEngine(options_for(path, config, tokens), LIMITS, changes={"skip_tokenizer_init": False})
    prompts = [Prompt("t", tuple(encode_prompt(tokenizer, "12+34=")), seed=4)]
    (expected,) = by_torch(path, prompts, config, tokens)
    params = engine.llm.get_default_sampling_params()
    params.seed = 4
    (output,) = engine.llm.generate(["12+34="], params, use_tqdm=False)
    assert output.outputs[0].text == decode_text(tokenizer, expected.token_ids)
    assert len(output.outputs[0].text) >= 4
    params.stop = [output.outputs[0].text[2:4]]
    (cut,) = engine.llm.generate(["12+34="], params, use_tqdm=False)
    assert cut.outputs[0].text == output.outputs[0].text.partition(params.stop[0])[0]
    engine.close()
