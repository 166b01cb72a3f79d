"""The queue in front of the reward workers: who takes what when, how failures travel, and how it ends."""

import functools
import threading
import time
from concurrent.futures import CancelledError

import pytest

from redraft.rewards.result import RewardError, SampleScore
from redraft.rewards.scoring.dispatch import Dispatcher
from redraft.rewards.scoring.mixture import Sample
from redraft.rewards.term import RewardTerm
from redraft.rewards.worker import LocalRewards

WAIT_S = 30


class Scorer:
    """Scores a number by itself; each call waits until it is let go."""

    def __init__(self):
        self.calls = []
        self.began = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)

    def __call__(self, samples):
        self.calls.append([sample.completion for sample in samples])
        self.began.release()
        assert self.may_end.acquire(timeout=WAIT_S)
        return [SampleScore(float(sample.completion), None, {}) for sample in samples]

    def let_go(self, calls=100):
        self.may_end.release(calls)


def begun(scorer):
    assert scorer.began.acquire(timeout=WAIT_S)


def samples(*numbers):
    return [Sample("p", str(number)) for number in numbers]


def totals(futures):
    return [[one.total for one in future.result(WAIT_S)] for future in futures]


@pytest.fixture
def scorer():
    return Scorer()


@pytest.fixture
def queue(scorer):
    dispatcher = Dispatcher([scorer], max_batch=5)
    yield dispatcher
    scorer.let_go()
    dispatcher.close(WAIT_S)


def test_an_idle_lane_takes_a_completion_at_once_and_what_comes_meanwhile_is_its_next_call(queue, scorer):
    first = queue.submit(samples(1))
    begun(scorer)  # before anything else is submitted
    others = [queue.submit(samples(number)) for number in (2, 3, 4)]
    scorer.let_go()
    assert totals([first, *others]) == [[1.0], [2.0], [3.0], [4.0]]
    assert scorer.calls == [["1"], ["2", "3", "4"]]


def test_what_is_submitted_together_is_scored_together_and_a_call_is_filled_up_to_its_limit(queue, scorer):
    first = queue.submit(samples(0))
    begun(scorer)
    parts = [queue.submit(samples(*numbers)) for numbers in ((1, 2), (3, 4), (5, 6), tuple(range(10, 17)), ())]
    scorer.let_go()
    assert totals([first, *parts])[1:] == [[1, 2], [3, 4], [5, 6], [10, 11, 12, 13, 14, 15, 16], []]
    # five at most: 2 + 2; then 2, for the next would be too many; then 7, which nothing may cut
    assert scorer.calls == [["0"], ["1", "2", "3", "4"], ["5", "6"], [str(number) for number in range(10, 17)]]


def test_two_lanes_share_what_waits(scorer):
    other = Scorer()
    queue = Dispatcher([scorer, other])
    busy = [queue.submit(samples(0)), queue.submit(samples(0))]
    begun(scorer)
    begun(other)
    waiting = [queue.submit(samples(number)) for number in range(1, 9)]
    scorer.let_go()
    assert totals(waiting) == [[float(number)] for number in range(1, 9)]
    # Half of what waits, again and again: the other lane could come back any moment.
    assert scorer.calls == [["0"], ["1", "2", "3", "4"], ["5", "6"], ["7"], ["8"]]
    assert other.calls == [["0"]]
    other.let_go()
    assert totals(busy) == [[0.0], [0.0]]
    queue.close(WAIT_S)


def test_what_a_scorer_raises_reaches_those_of_its_call_and_the_lane_goes_on():
    def fussy(samples):
        if samples[0].completion == "bad":
            raise RewardError("reward 'fussy' does not like it")
        return [SampleScore(1.0, None, {}) for _ in samples]

    queue = Dispatcher([fussy])
    with pytest.raises(RewardError, match="fussy"):
        queue.submit(samples("bad")).result(WAIT_S)
    assert totals([queue.submit(samples(1))]) == [[1.0]]
    queue.close(WAIT_S)


def test_a_scorer_that_loses_a_score_is_an_error():
    queue = Dispatcher([lambda samples: []])
    with pytest.raises(RewardError, match="got 0 scores for 2 completions"):
        queue.submit(samples(1, 2)).result(WAIT_S)
    queue.close(WAIT_S)


def test_what_is_cancelled_before_its_turn_is_not_scored(queue, scorer):
    first = queue.submit(samples(1))
    begun(scorer)
    dropped, kept = queue.submit(samples(2)), queue.submit(samples(3))
    assert dropped.cancel()
    scorer.let_go()
    assert totals([first, kept]) == [[1.0], [3.0]]
    assert scorer.calls == [["1"], ["3"]]
    with pytest.raises(CancelledError):
        dropped.result(WAIT_S)


def test_closing_fails_what_waits_lets_a_call_end_and_leaves_no_thread(queue, scorer):
    running = queue.submit(samples(1))
    begun(scorer)
    waiting = queue.submit(samples(2))
    threading.Timer(0.2, scorer.let_go).start()
    queue.close(WAIT_S)
    assert totals([running]) == [[1.0]]
    with pytest.raises(RewardError, match="closed before they scored this completion"):
        waiting.result(WAIT_S)
    assert scorer.calls == [["1"]]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reward-lane")]
    with pytest.raises(RewardError, match="after the rewards were closed"):
        queue.submit(samples(3))


def test_closing_does_not_wait_for_a_call_that_never_ends(queue, scorer):
    queue.submit(samples(1))
    begun(scorer)
    queue.close(timeout_s=0.05)  # returns; the fixture lets the call end
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("reward-lane")]


def test_closing_local_rewards_ends_a_hung_reward_and_scores_no_further_rows_even_under_mask(tmp_path, monkeypatch):
    (tmp_path / "hung.py").write_text(
        "import time\n"
        "def hung(prompts, completions, **columns):\n"
        f"    open({str(tmp_path / 'calls')!r}, 'a').write(f'{{len(completions)}}\\n')\n"
        "    if len(completions) > 1:\n"
        "        raise ValueError('row by row, please')\n"
        "    time.sleep(600)\n"
    )
    term = RewardTerm(fn=f"{tmp_path}/hung.py:hung", isolation="process", timeout_s=900, on_error="mask")
    rewards = LocalRewards([term])
    monkeypatch.setattr(rewards.dispatcher, "close", functools.partial(rewards.dispatcher.close, 0.5))
    future = rewards.submit(samples(1, 2, 3, 4))
    deadline = time.monotonic() + WAIT_S
    while not (tmp_path / "calls").exists() or "1" not in (tmp_path / "calls").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    rewards.close()
    with pytest.raises(RewardError, match="closed before the call was done"):
        future.result(1)
    assert (tmp_path / "calls").read_text() == "4\n1\n"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reward-lane")]


def test_a_dispatcher_without_lanes_or_room_is_refused():
    with pytest.raises(ValueError, match="at least one lane and a max_batch of at least 1, got 0 and 64"):
        Dispatcher([])
    with pytest.raises(ValueError, match="got 1 and 0"):
        Dispatcher([lambda samples: []], max_batch=0)
