"""TRL's own rewards and rewards in TRL's shape, through the adapter in a real worker, against a direct call."""

import contextlib
import json
import threading

import pytest
import trl.rewards

from redraft.rewards import RewardError, RewardMixture, RewardTerm, Sample
from redraft.rewards.adapters.trl import trl_reward

COMPLETIONS = [
    r"<think>\nhalves\n</think>\nThe answer is \boxed{\frac{1}{2}}",
    r"<think>\nthirds\n</think>\nThe answer is \boxed{\frac{1}{3}}",
    r"no reasoning, \boxed{0.5}",
    "<think>\nnever closed",
    "",
]
GOLDS = [r"$\frac{1}{2}$", r"$\frac{1}{2}$", r"$\frac{1}{2}$", r"$\frac{1}{2}$", ""]  # the last one cannot be parsed
IDS = [[1, 2, 3, 4], [5] * 9, [1, 2, 1, 2, 1, 2, 1], [7] * 20, []]
MESSAGES = [[{"role": "assistant", "content": text}] for text in COMPLETIONS]

USER_REWARDS = """
import asyncio, functools, threading

BUILT = []

def text_length(completions, **kwargs):
    return [float(len(completion)) for completion in completions]

def logs(prompts, completions, solution, log_extra, log_metric, **kwargs):
    log_extra("answer", [completion.upper() for completion in completions])
    log_metric("mean_length", 2.5)
    return [float(completion == gold) for completion, gold in zip(completions, solution)]

async def slow(completions, tag, **kwargs):
    await asyncio.sleep(0.01)
    return [float(value == "x") for value in tag]

def roles(prompts, completions, **kwargs):
    return [float([m[0]["role"] for m in pair] == ["user", "assistant"]) for pair in zip(prompts, completions)]

def arrays(completions, **kwargs):
    import numpy
    return numpy.array([1.5 for _ in completions], dtype=numpy.float32)

def tensors(completions, **kwargs):
    import torch
    return [torch.tensor(2.0) for _ in completions]

def nothing(completions, **kwargs):
    return None

def words(completions, **kwargs):
    return ["1.0" for _ in completions]

def logs_words(completions, log_metric):
    log_metric("n", "many")
    return [0.0]

def logs_a_lot(completions, log_extra, log_metric, trainer_state=None, **kwargs):
    import numpy
    log_extra("words", numpy.array([len(text.split()) for text in completions]))
    log_extra("short", ["not one each"])
    log_metric("share", numpy.float32(0.25))
    log_metric("share", 0.75)
    log_metric("odd", float("nan"))
    return (1.0 for _ in completions)

async def logs_late(completions, log_extra):
    await asyncio.sleep(0)
    log_extra("seen", completions)
    return [0.5 for _ in completions]

def needs_step(completions, trainer_state):
    return [0.0 for _ in completions]

def in_main_thread(completions, **kwargs):
    return [float(threading.current_thread() is threading.main_thread()) for _ in completions]

class Constant:
    def __init__(self, value):
        BUILT.append(value)
        self.value = value

    def __call__(self, completions, **kwargs):
        return [self.value + len(BUILT) for _ in completions]

def builds_a_number(value):
    return value
"""


@pytest.fixture(scope="module")
def rewards_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("user") / "trl_rewards.py"
    path.write_text(USER_REWARDS)
    return path


def scored(completions, kwargs, ids=None, prompts=None, isolation="process", **columns):
    samples = [
        Sample(
            prompts[row] if prompts else f"prompt {row}",
            completion,
            ids[row] if ids else (1, 2),
            {name: column[row] for name, column in columns.items()},
        )
        for row, completion in enumerate(completions)
    ]
    term = RewardTerm(fn="trl_reward", kwargs=kwargs, isolation=isolation)
    with contextlib.closing(RewardMixture([term])) as mixture:
        return mixture.score(samples)


def totals(results):
    return [result.total for result in results]


OWN = [
    ("accuracy_reward", {}),
    ("reasoning_accuracy_reward", {}),
    ("reasoning_accuracy_reward", {"reasoning_delimiters": ["halves"]}),
    ("think_format_reward", {}),
    ("get_cosine_scaled_reward", {"max_len": 10}),
    ("get_repetition_penalty_reward", {"ngram_size": 2}),
    ("get_repetition_penalty_reward", {}),
    ("get_soft_overlong_punishment", {"max_completion_len": 10, "soft_punish_cache": 6}),
]


@pytest.mark.parametrize(("name", "arguments"), OWN)
def test_every_reward_of_trl_scores_as_in_a_direct_call(name, arguments):
    function = getattr(trl.rewards, name)
    if name.startswith("get_"):
        expected = function(**arguments)(completions=MESSAGES, solution=GOLDS, completion_ids=IDS)
    else:
        expected = function(completions=MESSAGES, solution=GOLDS, **arguments)
    assert len(set(expected)) > 1  # the witness can tell rewards apart
    # Here, because every worker process would import TRL anew; the other tests have workers.
    kwargs = {"function": name, "arguments": arguments}
    results = scored(COMPLETIONS, kwargs, ids=IDS, isolation="inline", ground_truth=GOLDS)
    assert totals(results) == expected
    masked = [result.status["trl_reward"] == "masked" for result in results]
    assert masked == [score is None for score in expected]


def test_the_comparison_covers_everything_that_trl_offers():
    offered = {name for name in trl.rewards.__all__ if callable(getattr(trl.rewards, name))}
    assert offered == {name for name, _ in OWN}


def test_the_known_scores_of_trls_accuracy_reward():
    results = scored(COMPLETIONS, {"function": "accuracy_reward"}, ground_truth=GOLDS)
    assert totals(results) == [1.0, 0.0, 1.0, 0.0, None]
    assert json.loads(results[1].detail["trl_reward"])["answer_parsed"].startswith("[1/3")
    by_module = scored(COMPLETIONS, {"function": "trl.rewards:accuracy_reward"}, ground_truth=GOLDS)
    assert totals(by_module) == totals(results)


def test_columns_go_by_the_names_that_the_function_reads():
    kwargs = {"function": "accuracy_reward", "columns": {"solution": "gold"}}
    assert totals(scored(COMPLETIONS[:2], kwargs, isolation="inline", gold=GOLDS[:2], ground_truth=["1", "1"])) == [
        1.0,
        0.0,
    ]
    assert totals(scored(COMPLETIONS[:2], {"function": "accuracy_reward"}, isolation="inline", solution=GOLDS[:2])) == [
        1.0,
        0.0,
    ]
    with pytest.raises(RewardError, match=r"columns\.solution: the data has no column 'glod'; valid: gold"):
        scored(
            COMPLETIONS[:1],
            {"function": "accuracy_reward", "columns": {"solution": "glod"}},
            isolation="inline",
            gold=GOLDS[:1],
        )
    with pytest.raises(RewardError, match=r"needs 'solution'; the data has the columns: gold$"):
        scored(COMPLETIONS[:1], {"function": "accuracy_reward"}, isolation="inline", gold=GOLDS[:1])


def test_a_function_of_ones_own_gets_text_for_text_and_messages_for_messages(rewards_file):
    assert totals(scored(["ab", "abc"], {"function": f"{rewards_file}:text_length"})) == [2.0, 3.0]
    prompts = [[{"role": "user", "content": "hello"}]]
    assert totals(scored(["ab"], {"function": f"{rewards_file}:roles"}, prompts=prompts)) == [1.0]


def test_what_a_function_logs_becomes_the_detail(rewards_file):
    results = scored(["ab", "abc"], {"function": f"{rewards_file}:logs"}, ground_truth=["ab", "ab"])
    assert totals(results) == [1.0, 0.0]
    assert [result.detail["trl_reward"] for result in results] == ['{"answer": "AB"}', '{"answer": "ABC"}']
    assert [result.verdicts["trl_reward"].metrics for result in results] == [{"mean_length": 2.5}] * 2


@pytest.mark.parametrize("adapted", [True, False])
def test_what_trls_callbacks_log_is_told_with_the_adapter_and_without(rewards_file, adapted):
    def verdicts(function):
        fn = f"{rewards_file}:{function}"
        term = (
            RewardTerm(fn="trl_reward", kwargs={"function": fn}, name="r") if adapted else RewardTerm(fn=fn, name="r")
        )
        with contextlib.closing(RewardMixture([term])) as mixture:
            return [result.verdicts["r"] for result in mixture.score([Sample("p", "a b"), Sample("p", "c")])]

    found = verdicts("logs_a_lot")
    assert [verdict.score for verdict in found] == [1.0, 1.0]
    assert [verdict.detail for verdict in found] == ['{"words": 2}', '{"words": 1}']
    assert [verdict.metrics for verdict in found] == [{"share": 0.5, "words": 2.0}, {"share": 0.5, "words": 1.0}]
    assert [verdict.detail for verdict in verdicts("logs_late")] == ['{"seen": "a b"}', '{"seen": "c"}']


def test_async_functions_and_arrays_and_tensors_are_scores_too(rewards_file):
    assert totals(scored(["a", "b"], {"function": f"{rewards_file}:slow"}, tag=["x", "y"])) == [1.0, 0.0]
    assert totals(scored(["a", "b"], {"function": f"{rewards_file}:arrays"})) == [1.5, 1.5]
    assert totals(scored(["a"], {"function": f"{rewards_file}:tensors"})) == [2.0]


def test_a_sync_function_runs_in_the_workers_main_thread_where_alarms_work(rewards_file):
    results = []
    thread = threading.Thread(
        target=lambda: results.extend(scored(["a"], {"function": f"{rewards_file}:in_main_thread"}))
    )
    thread.start()
    thread.join()
    assert totals(results) == [1.0]


def test_a_class_is_built_once_with_its_arguments(rewards_file):
    term = RewardTerm(fn="trl_reward", kwargs={"function": f"{rewards_file}:Constant", "arguments": {"value": 4}})
    with contextlib.closing(RewardMixture([term])) as mixture:
        for _ in range(2):
            assert totals(mixture.score([Sample("p", "c", (1,))])) == [5.0]  # 4, and one object built


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (
            "acuracy_reward",
            {},
            r"no 'acuracy_reward' in trl\.rewards; valid: accuracy_reward, get_cosine_scaled_reward",
        ),
        ("accuracy_rewards", {}, r"no 'accuracy_rewards' in trl\.rewards"),  # a module of that name exists
        ("FILE:txt_length", {}, r"no 'txt_length' in .*did you mean 'text_length'"),
        (
            "get_soft_overlong_punishment",
            {"max_len": 3},
            r"arguments\.max_len is no argument.*valid: max_completion_len",
        ),
        ("get_soft_overlong_punishment", {"max_completion_len": 3}, r"needs arguments: soft_punish_cache"),
        ("FILE:builds_a_number", {"value": 3}, r"built a int, not a reward function"),
        ("FILE:nothing", {}, r"returned a NoneType"),
        ("FILE:words", {}, r"row 0 .*returned '1\.0' \(str\)"),
        (
            "FILE:needs_step",
            {},
            r"needs 'trainer_state'; only TRL's trainer has a trainer_state: make None its default",
        ),
        ("FILE:logs_words", {}, r"log_metric\('n', \.\.\.\) got 'many'; it takes a number"),
    ],
)
def test_a_wrong_name_argument_or_result_is_one_clear_error(rewards_file, function, arguments, message):
    kwargs = {"function": function.replace("FILE", str(rewards_file)), "arguments": arguments}
    with pytest.raises(RewardError, match=f"^reward 'trl_reward'.*{message}"):
        scored(["a"], kwargs, isolation="inline")


def test_arguments_and_columns_are_mappings():
    # In workers, which have no checks of types: those would come first.
    with pytest.raises(RewardError, match=r"arguments must be a mapping of names, got \['x'\]"):
        scored(["a"], {"function": "think_format_reward", "arguments": ["x"]})
    with pytest.raises(RewardError, match="columns must be a mapping"):
        scored(["a"], {"function": "think_format_reward", "columns": "solution"})


def test_the_adapter_works_in_a_thread_of_this_process_too():
    verdicts = trl_reward(["p"], [COMPLETIONS[0]], "think_format_reward")
    assert [verdict.score for verdict in verdicts] == [1.0]
