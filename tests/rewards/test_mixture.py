import asyncio
import contextlib
import threading

import pytest

from redraft.rewards import RewardError, RewardMixture, RewardTerm, Sample, status_counts

USER_REWARDS = """
import asyncio, os, sys, time

def length(prompts, completions, scale=1.0):
    return [scale * len(completion) for completion in completions]

async def slow_async(completions, **columns):
    await asyncio.sleep(0.01)
    return [float(tag == "x") for tag in columns["tag"]]

def everything(prompts, completions, completion_ids=None, **columns):
    return [float(len(ids)) + sum(column[row] for column in columns.values()) for row, ids in enumerate(completion_ids)]

def none_for_long(prompts, completions):
    return [None if len(completion) > 3 else 1.0 for completion in completions]

def raises_on_bad(prompts, completions):
    return [int(completion) for completion in completions]

def raises_on_pairs(prompts, completions):
    if len(completions) > 1:
        raise RuntimeError("pairs only")
    return [0.0]

def not_a_number(prompts, completions):
    return [float("nan") if completion == "bad" else 0.0 for completion in completions]

def wrong_length(prompts, completions):
    return [0.0]

def never_returns(prompts, completions):
    while True:
        pass

def exits(prompts, completions):
    sys.exit(0)

def dies(prompts, completions):
    os._exit(0)

def chatty(prompts, completions):
    print("half a line", end="")
    sys.stdout.write("{}")
    os.write(1, b"\\0" * 16)
    return [1.0 for _ in completions]

def needs_tag(completions, tag):
    return [1.0 for _ in completions]
"""


@pytest.fixture(scope="module")
def rewards_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("user") / "user_rewards.py"
    path.write_text(USER_REWARDS)
    return path


def samples(*completions, **columns):
    return [
        Sample(f"prompt {row}", completion, (1, 2, 3), {name: column[row] for name, column in columns.items()})
        for row, completion in enumerate(completions)
    ]


def totals(scored):
    return [sample.total for sample in scored]


def test_parts_are_recorded_beside_the_total():
    terms = [RewardTerm(fn="math_accuracy"), RewardTerm(fn="boxed_format", weight=0.1)]
    with contextlib.closing(RewardMixture(terms)) as mixture:
        scored = mixture.score(samples(r"\boxed{4}", r"\boxed{5}", "4", ground_truth=["4", "4", "4"]))
    assert [sample.parts for sample in scored] == [
        {"math_accuracy": 1.0, "boxed_format": 1.0},
        {"math_accuracy": 0.0, "boxed_format": 1.0},
        {"math_accuracy": 0.0, "boxed_format": 0.0},
    ]
    assert totals(scored) == [1.1, 0.1, 0.0]
    assert status_counts(scored)["math_accuracy"] == {"ok": 1, "wrong": 1, "no_answer": 1}


def test_user_rewards_run_in_workers_sync_and_async_with_the_columns_they_accept(rewards_file):
    terms = [
        RewardTerm(fn=f"{rewards_file}:length", kwargs={"scale": 2.0}),
        RewardTerm(fn=f"{rewards_file}:slow_async", weight=10.0),
    ]
    with contextlib.closing(RewardMixture(terms)) as mixture:
        unpicklable = [threading.Lock(), threading.Lock()]  # `length` does not take it, and never sees it
        assert totals(mixture.score(samples("ab", "abc", tag=["x", "y"]))) == [14.0, 6.0]
        with pytest.raises(RewardError, match="'slow_async': 'lock' cannot be sent to a worker process"):
            mixture.score(samples("ab", "abc", tag=["x", "y"], lock=unpicklable))


def test_a_function_with_open_keywords_receives_every_column_and_the_completion_ids(rewards_file):
    with contextlib.closing(RewardMixture([RewardTerm(fn=f"{rewards_file}:everything")])) as mixture:
        assert totals(mixture.score(samples("a", "b", one=[1, 2], ten=[10, 20]))) == [14.0, 25.0]
        assert mixture.score([]) == []


@pytest.mark.parametrize("isolation", ["process", "inline"])
def test_none_masks_a_sample(rewards_file, isolation):
    with contextlib.closing(
        RewardMixture([RewardTerm(fn=f"{rewards_file}:none_for_long", isolation=isolation)])
    ) as mixture:
        scored = mixture.score(samples("abc", "abcd"))
    assert totals(scored) == [1.0, None]
    assert [sample.status["none_for_long"] for sample in scored] == ["ok", "masked"]


@pytest.mark.parametrize("isolation", ["process", "inline"])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raises_on_bad", r"raised on row 1 \(prompt 'prompt 1'\): ValueError: invalid literal for int\(\).*'bad'"),
        ("raises_on_pairs", r"raised on a batch of 3 \(first prompt 'prompt 0'\): RuntimeError: pairs only"),
        ("not_a_number", r"on row 1 \(prompt 'prompt 1'\): returned nan"),
        ("wrong_length", r"on a batch of 3 \(first prompt 'prompt 0'\): returned 1 scores for 3 completions"),
        ("exits", r"raised on row 0 \(prompt 'prompt 0'\): SystemExit: 0"),
        ("needs_tag", r"needs 'tag'; the data has the columns: other"),
    ],
)
def test_a_broken_reward_stops_the_run_and_says_where(rewards_file, isolation, function, message):
    with (
        contextlib.closing(
            RewardMixture([RewardTerm(fn=f"{rewards_file}:{function}", isolation=isolation)])
        ) as mixture,
        pytest.raises(RewardError, match=f"^reward '{function}'.*{message}") as caught,
    ):
        mixture.score(samples("1", "bad", "3", other=[0, 0, 0]))
    assert caught.value.__cause__ is not None
    if function == "raises_on_bad" and isolation == "process":
        assert "user_rewards.py" in str(caught.value.__cause__)  # the user's own traceback


def test_a_reward_that_never_returns_is_killed_at_its_deadline(rewards_file):
    with contextlib.closing(RewardMixture([RewardTerm(fn=f"{rewards_file}:never_returns", timeout_s=0.3)])) as mixture:
        mixture.start()
        with pytest.raises(
            RewardError, match=r"'never_returns' did not return within timeout_s=0\.3.*raise this reward's"
        ):
            mixture.score(samples("a", "b", "c"))


def test_a_reward_that_kills_its_process_is_an_error_not_a_score(rewards_file):
    with (
        contextlib.closing(RewardMixture([RewardTerm(fn=f"{rewards_file}:dies")])) as mixture,
        pytest.raises(RewardError, match=r"'dies' on a batch of 1 .*process died \(exit code 0\)"),
    ):
        mixture.score(samples("a"))


def test_printing_in_a_reward_changes_nothing(rewards_file):
    with contextlib.closing(RewardMixture([RewardTerm(fn=f"{rewards_file}:chatty")])) as mixture:
        for _ in range(3):
            assert totals(mixture.score(samples("a", "b"))) == [1.0, 1.0]


def test_start_finds_a_broken_term_before_the_first_batch(rewards_file):
    for fn, kwargs, message in [
        (f"{rewards_file}:lenght", {}, r"'lenght': no 'lenght' in .*did you mean 'length'"),
        (f"{rewards_file}:length", {"scael": 1}, r"'length': kwargs.scael is no argument .*valid: scale"),
        (f"{rewards_file}:length", {"prompts": 1}, r"kwargs.prompts is no argument"),
        ("format_match", {}, None),
    ]:
        with contextlib.closing(RewardMixture([RewardTerm(fn=fn, kwargs=kwargs)])) as mixture:
            if message is None:
                mixture.start()
                continue
            with pytest.raises(RewardError, match=message):
                mixture.start()


def test_an_async_reward_runs_inline_inside_a_running_event_loop(rewards_file):
    mixture = RewardMixture([RewardTerm(fn=f"{rewards_file}:slow_async", isolation="inline")])

    async def score():
        return totals(mixture.score(samples("a", "b", tag=["x", "y"])))

    assert asyncio.run(score()) == [1.0, 0.0]


def test_a_mixture_is_checked_when_it_is_built():
    with pytest.raises(RewardError, match="weight other than 0"):
        RewardMixture([])
    with pytest.raises(RewardError, match="weight other than 0"):
        RewardMixture([RewardTerm(fn="boxed_format", weight=0)])
    with pytest.raises(RewardError, match="two rewards are named 'boxed_format'"):
        RewardMixture([RewardTerm(fn="boxed_format"), RewardTerm(fn="boxed_format")])


def test_a_column_that_hides_a_rollout_argument_is_refused():
    with pytest.raises(RewardError, match="column 'prompts'"):
        RewardMixture([RewardTerm(fn="boxed_format")]).score(samples("a", prompts=["x"]))
