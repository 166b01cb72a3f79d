"""Decoding and scoring side by side: what is scored when, with whom, and what stops it."""

import contextlib
import threading
import time
from concurrent.futures import Future

import pytest

from redraft.rewards.result import RewardError
from redraft.rewards.scoring.mixture import RewardMixture, SampleScore
from redraft.rewards.term import RewardTerm
from redraft.rewards.worker import LocalRewards
from redraft.rl.data.codec import Codec
from redraft.rl.experience.pipeline import Pipeline, covered_s, largest_scope
from redraft.rl.protocols import RewardPool, RolloutPool
from redraft.rollout.config import DecodeConfig
from redraft.rollout.trajectory import Completion, DecodeTrace

DECODE = DecodeConfig(block_length=4, max_completion_length=4)
ORDER = [3, 0, 5, 1, 2, 4]  # in which the completions of two groups of three are done
ROWS = [{"prompt": "a", "tag": "x"}, {"prompt": "b", "note": "n"}]


class Characters:
    """A token per character."""

    def encode(self, text, add_special_tokens=False):
        return [ord(c) for c in text]

    def decode(self, token_ids, skip_special_tokens):
        return "".join(map(chr, token_ids))


class Rollouts:
    """Completes prompt i with i letters; says when it was left."""

    def __init__(self, before_each=lambda place: None):
        self.before_each, self.left_at = before_each, None

    def sync(self, weights):
        return 0

    def release(self):
        pass

    def restore(self):
        pass

    def stream(self, prompts, config):
        place = 0
        try:
            for place, index in enumerate(ORDER):
                self.before_each(place)
                ids = tuple(b"abcdef"[:index])
                trace = DecodeTrace(0, 1, (), (), (), (), (), ())
                yield index, Completion(prompts[index].id, ids, ids, "length", trace)
        finally:
            self.left_at = place


class Rewards:
    """Keeps what it is asked; answers a call of the test's choice, or at once."""

    def __init__(self, answer=lambda number: True):
        self.answer, self.asked, self.futures = answer, [], []

    def submit(self, samples):
        future = Future()
        self.asked.append([sample.completion for sample in samples])
        self.futures.append(future)
        if self.answer(len(self.asked)):
            future.set_result([SampleScore(float(len(sample.completion)), None, {}) for sample in samples])
        return future


def run(rollouts, rewards, scope="rows", timeout_s=60.0):
    codec = Codec(Characters(), 0)
    assert isinstance(rollouts, RolloutPool)
    assert isinstance(rewards, RewardPool)
    return Pipeline(rollouts, rewards, codec, scope, timeout_s).run(ROWS, codec.prompts(ROWS, 3, "t", 0), DECODE)


@pytest.mark.parametrize(
    ("scope", "asked"),
    [
        ("rows", [["abc"], [""], ["abcde"], ["a"], ["ab"], ["abcd"]]),
        ("group", [["", "a", "ab"], ["abc", "abcd", "abcde"]]),
        ("batch", [["", "a", "ab", "abc", "abcd", "abcde"]]),
    ],
)
def test_a_completion_is_scored_when_those_it_is_compared_with_are_there(scope, asked):
    rewards = Rewards()
    answers = run(Rollouts(), rewards, scope)
    assert rewards.asked == asked
    assert [completion.prompt_id for completion in answers.completions] == [
        f"t-0-{group}-{member}" for group in (0, 1) for member in (0, 1, 2)
    ]
    assert [sample.completion for sample in answers.samples] == ["", "a", "ab", "abc", "abcd", "abcde"]
    assert [one.total for one in answers.scored] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_the_scores_of_completions_that_are_scored_alone_have_the_columns_of_all_rows():
    """Else a reward that reads `note` would fail on the rows without it, which in one big call are None."""
    answers = run(Rollouts(), Rewards())
    assert [dict(sample.columns) for sample in answers.samples[2:4]] == [
        {"tag": "x", "note": None},
        {"tag": None, "note": "n"},
    ]


def test_the_largest_scope_of_the_rewards_counts():
    def terms(*scopes):
        return [RewardTerm(fn="boxed_format", scope=scope) for scope in scopes]

    assert largest_scope([RewardTerm(fn="boxed_format")]) == "rows"
    assert largest_scope(terms("rows", "group")) == "group"
    assert largest_scope(terms("batch", "group", "rows")) == "batch"


def test_the_times_of_a_step_are_those_of_decoding_of_what_hid_behind_it_and_of_the_rest():
    """Hand-made: decoding takes 6 x 0.05 s; every score is there 0.12 s after the question."""
    rewards = Rewards(lambda number: False)
    submit = rewards.submit

    def later(samples):
        future = submit(samples)
        answer = [SampleScore(0.0, None, {}) for _ in samples]
        threading.Timer(0.12, future.set_result, (answer,)).start()
        return future

    rewards.submit = later
    answers = run(Rollouts(lambda place: time.sleep(0.05)), rewards)
    assert answers.rollout_s >= 0.3
    assert answers.rollout_s + answers.reward_s >= 0.42
    # From the first completion to the last, the rewards always had something to do.
    assert 0.25 <= answers.reward_overlap_s <= answers.rollout_s - 0.05


def test_time_that_is_covered_twice_counts_once():
    assert covered_s([(0.0, 2.0), (1.0, 3.0), (1.5, 1.7), (5.0, 6.0), (9.0, 8.0)]) == pytest.approx(4.0)
    assert covered_s([]) == 0.0


def test_a_broken_reward_stops_the_decoding_with_its_own_words_and_withdraws_what_waits():
    rewards = Rewards(lambda number: False)

    def fail(place):
        if place == 3:
            rewards.futures[1].set_exception(RewardError("reward 'r' raised on row 0"))

    rollouts = Rollouts(fail)
    with pytest.raises(RewardError, match="reward 'r' raised on row 0"):
        run(rollouts, rewards)
    assert rollouts.left_at == 3  # the fourth completion had just come when the failure was seen
    assert [future.cancelled() for future in rewards.futures] == [True, False, True, True]


def test_scores_that_never_come_stop_the_step(monkeypatch):
    monkeypatch.setattr("redraft.rl.experience.pipeline.GRACE_S", 0.0)
    with pytest.raises(RewardError, match=r"2 completions wait for a score, and none came within 0.1 s; see cluster"):
        run(Rollouts(), Rewards(lambda number: number not in (2, 5)), timeout_s=0.1)


def test_rewards_in_this_process_score_while_the_caller_decodes(tmp_path):
    (tmp_path / "stamped.py").write_text(
        "import time\n"
        "def stamped(prompts, completions, **columns):\n"
        "    return [time.monotonic() for _ in completions]\n"
    )
    term = RewardTerm(fn=f"{tmp_path}/stamped.py:stamped", isolation="inline")
    done = []

    def wait_for_the_first_score(place):
        if place == 1:
            deadline = time.monotonic() + 30
            while not done and time.monotonic() < deadline:
                time.sleep(0.01)

    rewards = LocalRewards([term])
    submit = rewards.submit

    def watched(samples):
        future = submit(samples)
        future.add_done_callback(done.append)
        return future

    rewards.submit = watched
    answers = run(Rollouts(wait_for_the_first_score), rewards)
    rewards.close()
    assert done
    first = answers.scored[ORDER[0]].total
    assert all(first < one.total for index, one in enumerate(answers.scored) if index != ORDER[0])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reward-lane")]


def test_scores_do_not_depend_on_how_completions_are_cut_into_calls(tmp_path):
    (tmp_path / "size.py").write_text(
        "def size(prompts, completions, tag, note):\n"
        "    return [len(text) + (1 if one else 2) for text, one in zip(completions, tag)]\n"
    )
    terms = [RewardTerm(fn=f"{tmp_path}/size.py:size"), RewardTerm(fn="boxed_format")]
    with contextlib.closing(LocalRewards(terms)) as rewards, contextlib.closing(RewardMixture(terms)) as mixture:
        answers = run(Rollouts(), rewards)
        assert answers.scored == mixture.score(answers.samples)
    assert [one.total for one in answers.scored] == [1.0, 2.0, 3.0, 5.0, 6.0, 7.0]
