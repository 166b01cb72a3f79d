"""Functions in the shape of verl's `compute_score`, unchanged, in a real worker."""

import contextlib
import json

import pytest

import redraft.rewards.adapters.verl  # noqa: F401 - registers the name
from redraft.rewards import RewardError, RewardMixture, RewardTerm, Sample

USER_REWARDS = """
import asyncio, signal

RUNNING = [0, 0]

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    if data_source == "gsm8k":
        return solution_str.split("####")[-1].strip() == ground_truth
    return 0.25

def with_alarm(data_source, solution_str, ground_truth, extra_info=None):
    signal.alarm(5)  # only a main thread may
    signal.alarm(0)
    return 1.0

def with_extra(data_source, solution_str, ground_truth, extra_info):
    return float(extra_info["index"]) + 10 * extra_info.get("bonus", 0) - 100 * ("ground_truth" in extra_info)

def as_dict(data_source, solution_str, ground_truth, extra_info=None, strict=False, **kwargs):
    import numpy
    right = solution_str == ground_truth
    score = 1.0 if right else (-1.0 if strict else 0.0)
    return {"score": numpy.float32(score), "acc": right, "length": len(solution_str), "pred": solution_str}

def no_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"reward": 1.0}

def bare(solution_str, ground_truth, method="strict"):
    return int(solution_str == ground_truth) if method == "strict" else 7

async def slow(data_source, solution_str, ground_truth, extra_info=None):
    RUNNING[0] += 1
    RUNNING[1] = max(RUNNING)
    await asyncio.sleep(0.05)
    RUNNING[0] -= 1
    return {"score": float(solution_str == ground_truth), "together": RUNNING[1]}

class Judge:
    async def __call__(self, data_source, solution_str, ground_truth, extra_info=None):
        await asyncio.sleep(0)
        return 0.5

judge = Judge()

def breaks(data_source, solution_str, ground_truth, extra_info=None):
    return float(solution_str)

def infinite(data_source, solution_str, ground_truth, extra_info=None):
    return float("inf") if solution_str == "bad" else 0.0

def none(data_source, solution_str, ground_truth, extra_info=None):
    return None

import collections, dataclasses, functools, types

def by_name(**kwargs):
    import numpy
    return {
        "tuple": (1.0, True, "x"),
        "tuple with a dict": (numpy.float32(0.5), {"acc": 0.25, "pred": "x"}),
        "list": [True, "why"],
        "array": numpy.array([0.75, 9.0]),
        "array of one": numpy.array([0.5]),
        "array of no dimension": numpy.array(2),
        "numpy bool": numpy.bool_(True),
        "dict with an array": {"score": numpy.array([1.0]), "acc": numpy.float64(0.5)},
        "dict with a tuple": {"score": (1.0, "x"), "acc": 0.5},
        "named tuple": collections.namedtuple("Graded", "pred score")("x", 0.5),
        "object": types.SimpleNamespace(score=0.5, acc=0.25, _held="no"),
        "data class": dataclasses.make_dataclass("Graded", ["score", "acc"])(1, 0.5),
        "empty tuple": (),
        "empty dict": {},
        "text": "1.0",
        "tuple with text": ("1.0", 1),
        "nan": (float("nan"),),
        "nothing": None,
        "tuple with nothing": (None, "cannot tell"),
    }[kwargs["solution_str"]]

async def with_three(data_source, solution_str, ground_truth, extra_info=None, *, scale=1.0):
    return (scale * (solution_str == ground_truth), True)

partial = functools.partial(with_three, scale=2.0)
wrapped = lambda solution_str, ground_truth: with_three("", solution_str, ground_truth)

def batch(data_sources, solution_strs, ground_truths, extra_infos, bonus=0.0):
    return [{"score": (a == b) + bonus, "n": len(solution_strs)} for a, b in zip(solution_strs, ground_truths)]
"""


@pytest.fixture(scope="module")
def rewards_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("user") / "verl_rewards.py"
    path.write_text(USER_REWARDS)
    return path


def scored(completions, kwargs, **columns):
    samples = [
        Sample(f"prompt {row}", completion, (1, 2), {name: column[row] for name, column in columns.items()})
        for row, completion in enumerate(completions)
    ]
    with contextlib.closing(RewardMixture([RewardTerm(fn="verl_score", kwargs=kwargs)])) as mixture:
        return mixture.score(samples)


def totals(results):
    return [result.total for result in results]


def test_a_compute_score_gets_verls_four_arguments(rewards_file):
    kwargs = {"function": f"{rewards_file}:compute_score"}
    answers, golds = ["so #### 4", "so #### 5", "x"], ["4", "4", "4"]
    sources = ["gsm8k", "gsm8k", "other"]
    assert totals(scored(answers, kwargs, ground_truth=golds, data_source=sources)) == [1.0, 0.0, 0.25]
    assert totals(scored(answers, {**kwargs, "data_source": "gsm8k"}, ground_truth=golds)) == [1.0, 0.0, 0.0]
    assert totals(scored(answers, kwargs, ground_truth=golds)) == [0.25] * 3


def test_messages_are_read_as_text(rewards_file):
    kwargs = {"function": f"{rewards_file}:bare"}
    assert totals(scored([[{"role": "assistant", "content": "4"}]], kwargs, ground_truth=["4"])) == [1.0]


def test_a_sync_function_may_use_alarms(rewards_file):
    assert totals(scored(["a"], {"function": f"{rewards_file}:with_alarm"}, ground_truth=["a"])) == [1.0]


def test_extra_info_is_the_column_of_that_name_or_else_the_rows_other_columns(rewards_file):
    kwargs = {"function": f"{rewards_file}:with_extra"}
    info = [{"index": 3, "bonus": 1}, {"index": 4}]
    assert totals(scored(["a", "b"], kwargs, ground_truth=["a", "b"], extra_info=info, index=[7, 7])) == [13.0, 4.0]
    assert totals(scored(["a", "b"], kwargs, ground_truth=["a", "b"], index=[7, 8])) == [7.0, 8.0]


def test_a_dict_gives_its_score_and_keeps_the_rest_as_detail(rewards_file):
    kwargs = {"function": f"{rewards_file}:as_dict", "arguments": {"strict": True}}
    results = scored(["4", "5" * 300], kwargs, ground_truth=["4", "4"])
    assert totals(results) == [1.0, -1.0]
    assert json.loads(results[0].detail["verl_score"]) == {"acc": True, "length": 1, "pred": "4"}
    assert results[0].verdicts["verl_score"].metrics == {"acc": 1.0, "length": 1.0}
    assert json.loads(results[1].detail["verl_score"]) == {"acc": False, "length": 300, "pred": "5" * 197 + "..."}
    assert totals(scored(["5"], {"function": kwargs["function"]}, ground_truth=["4"])) == [0.0]


def test_a_function_with_fewer_arguments_and_reward_kwargs(rewards_file):
    kwargs = {"function": f"{rewards_file}:bare"}
    assert totals(scored(["4", "5"], kwargs, ground_truth=["4", "4"])) == [1.0, 0.0]
    assert totals(scored(["4"], {**kwargs, "arguments": {"method": "flexible"}}, ground_truth=["4"])) == [7.0]


def test_the_ground_truth_may_have_another_name_or_sit_in_verls_own_column(rewards_file):
    kwargs = {"function": f"{rewards_file}:bare"}
    assert totals(scored(["4"], {**kwargs, "columns": {"ground_truth": "answer"}}, answer=["4"])) == [1.0]
    own = [{"style": "rule", "ground_truth": "4"}]
    assert totals(scored(["4"], kwargs, reward_model=own)) == [1.0]
    assert totals(scored(["4"], kwargs, reward_model=[json.dumps(model) for model in own])) == [1.0]


def test_async_functions_run_together(rewards_file):
    results = scored(["4", "5", "4"], {"function": f"{rewards_file}:slow"}, ground_truth=["4"] * 3)
    assert totals(results) == [1.0, 0.0, 1.0]
    assert json.loads(results[2].detail["verl_score"]) == {"together": 3}
    assert totals(scored(["a"], {"function": f"{rewards_file}:judge"}, ground_truth=["a"])) == [0.5]


SHAPES = {
    "tuple": (1.0, {"more": "[True, 'x']"}),
    "tuple with a dict": (0.5, {"acc": 0.25, "pred": "x"}),
    "list": (1.0, {"more": "['why']"}),
    "array": (0.75, {"more": "[np.float64(9.0)]"}),
    "array of one": (0.5, None),
    "array of no dimension": (2.0, None),
    "numpy bool": (1.0, None),
    "dict with an array": (1.0, {"acc": 0.5}),
    "dict with a tuple": (1.0, {"acc": 0.5, "more": "['x']"}),
    "named tuple": (0.5, {"pred": "x"}),
    "object": (0.5, {"acc": 0.25}),
    "data class": (1.0, {"acc": 0.5}),
    "nothing": (None, None),
    "tuple with nothing": (None, {"more": "['cannot tell']"}),
}
REFUSED = {
    "empty tuple": "returned an empty tuple; its first item is the score",
    "empty dict": "a verl function's dict needs 'score', got an empty one",
    "text": "returned '1.0' (str)",
    "tuple with text": "returned '1.0' (str)",
    "nan": "returned nan",
}


def test_a_score_may_come_in_any_shape_that_verls_managers_take_it_from(rewards_file):
    names = [*SHAPES, *REFUSED]
    term = RewardTerm(fn="verl_score", kwargs={"function": f"{rewards_file}:by_name"}, on_error="mask")
    with contextlib.closing(RewardMixture([term])) as mixture:
        found = [scored.verdicts["verl_score"] for scored in mixture.score([Sample("p", name) for name in names])]
    for name, verdict in zip(names, found, strict=True):
        if name in SHAPES:
            detail = json.loads(verdict.detail) if verdict.detail else None
            assert (verdict.score, detail) == SHAPES[name], name
            assert verdict.metrics == ({"acc": detail["acc"]} if detail and "acc" in detail else {}), name
        else:
            assert (verdict.score, verdict.status) == (None, "infra_error"), name
            assert REFUSED[name] in verdict.detail, name


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [("with_three", {"scale": 3.0}, 3.0), ("partial", {}, 2.0), ("wrapped", {}, 1.0), ("batch", {"bonus": 0.5}, 1.5)],
)
def test_async_functions_of_any_kind_and_verls_batch_shape_are_called(rewards_file, function, arguments, expected):
    kwargs = {"function": f"{rewards_file}:{function}", "arguments": arguments}
    assert totals(scored(["4", "5"], kwargs, ground_truth=["4", "4"])) == [expected, arguments.get("bonus", 0.0)]


def test_one_row_without_a_ground_truth_is_a_broken_row_and_leaves_the_others_their_scores(rewards_file):
    own = [{"style": "rule", "ground_truth": "4"}, {"style": "rule"}]
    samples = [Sample("p", "4", None, {"reward_model": model, "extra_info": None}) for model in own]
    term = RewardTerm(fn="verl_score", kwargs={"function": f"{rewards_file}:bare"}, on_error="mask")
    with contextlib.closing(RewardMixture([term])) as mixture:
        found = mixture.score(samples)
    assert [(one.total, one.status["verl_score"]) for one in found] == [(1.0, "ok"), (None, "gold_error")]


def test_none_masks(rewards_file):
    results = scored(["a"], {"function": f"{rewards_file}:none"}, ground_truth=["a"])
    assert totals(results) == [None]
    assert results[0].status == {"verl_score": "masked"}


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("FILE:compute_scores", {}, r"no 'compute_scores' in .*did you mean 'compute_score'"),
        ("compute_score", {}, r"function='compute_score' must be 'pkg\.module:function' or 'path/file\.py:function'"),
        ("FILE:bare", {"methd": "x"}, r"arguments\.methd is no argument .*valid: solution_str, ground_truth, method"),
        ("FILE:no_score", {}, r"on row 0 \(prompt 'prompt 0'\): a verl function's dict needs 'score', got 'reward'"),
        ("FILE:breaks", {}, r"raised on row 1 \(prompt 'prompt 1'\): ValueError: could not convert .*'bad'"),
        ("FILE:infinite", {}, r"on row 1 \(prompt 'prompt 1'\): returned inf"),
    ],
)
def test_a_wrong_name_argument_or_result_is_one_clear_error(rewards_file, function, arguments, message):
    kwargs = {"function": function.replace("FILE", str(rewards_file)), "arguments": arguments}
    with pytest.raises(RewardError, match=f"^reward 'verl_score'.*{message}"):
        scored(["1", "bad"], kwargs, ground_truth=["1", "1"])


def test_a_missing_ground_truth_is_named(rewards_file):
    with pytest.raises(RewardError, match=r"needs 'ground_truth'; name its data column in columns; valid: answer$"):
        scored(["1"], {"function": f"{rewards_file}:bare"}, answer=["1"])
