import contextlib
import random

import pytest
from trl.rewards import get_cosine_scaled_reward, get_repetition_penalty_reward, get_soft_overlong_punishment

from redraft.rewards import RewardError, RewardMixture, RewardTerm, Sample
from redraft.rewards.library.length import cosine_length, overlong_penalty, repetition_penalty, soft_overlong


@pytest.mark.parametrize(
    ("length", "penalty"), [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (100, -1.0), (130, -1.0)]
)
def test_the_overlong_penalty_grows_over_the_buffer(length, penalty):
    assert overlong_penalty(length, 100, 20) == penalty
    assert soft_overlong([[7] * length], max_completion_length=100, buffer=20) == [penalty]
    assert overlong_penalty(length, 100, 0) == 0.0


def test_soft_overlong_is_trls():
    ids = [[1] * length for length in range(130)]
    ours = soft_overlong(ids, max_completion_length=100, buffer=30)
    assert ours == pytest.approx(get_soft_overlong_punishment(100, 30)(ids), abs=1e-12)


@pytest.mark.parametrize("ngram_size", [1, 2, 3, 5])
def test_the_repetition_penalty_is_trls(ngram_size):
    draw = random.Random(0)
    ids = [[draw.randrange(6) for _ in range(length)] for length in range(40)]
    ours = repetition_penalty(ids, ngram_size=ngram_size, max_penalty=-0.7)
    assert ours == pytest.approx(get_repetition_penalty_reward(ngram_size, -0.7)(ids), abs=1e-12)


def test_the_repetition_penalty_by_hand():
    ids = [[1, 2, 3, 4], [5, 5, 5, 5, 5], [5], []]  # the second: 4 pairs, 1 of them new
    assert repetition_penalty(ids, ngram_size=2) == [0.0, -0.75, 0.0, 0.0]


def test_cosine_length_is_trls():
    ids = [[1] * length for length in (0, 1, 25, 50, 99, 100, 150) for _ in range(2)]
    answers = [r"\boxed{1}", r"\boxed{2}"] * 7
    messages = [[{"role": "assistant", "content": answer}] for answer in answers]
    theirs = get_cosine_scaled_reward(100, -0.9, -0.2, 0.4, 1.3)(messages, ["$1$"] * 14, ids)
    parts = [{"right": float(answer == answers[0])} for answer in answers]
    ours = cosine_length(ids, parts, "right", 100, correct_values=[1.3, 0.4], wrong_values=[-0.9, -0.2])
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_cosine_length_by_hand():
    ids = [[1] * length for length in (0, 50, 100, 0, 100, 50, 50)]
    parts = [{"a": 0.0, "b": score} for score in (1.0, 1.0, 1.0, 0.0, 0.0, 0.5, None)]
    expected = [1.0, 0.75, 0.5, -1.0, -0.5, 0.0]
    *scores, masked = cosine_length(ids, parts, "b", 100)
    assert scores == pytest.approx(expected, abs=1e-12)
    assert masked is None


def test_a_completion_without_token_ids_is_masked_and_says_why():
    ids = [[1, 2], None]
    shaped = [
        soft_overlong(ids, max_completion_length=8, buffer=2),
        repetition_penalty(ids),
        cosine_length(ids, [{"a": 1.0}] * 2, "a", 8),
    ]
    for known, unknown in shaped:
        assert isinstance(known, float)
        assert (unknown.score, unknown.status) == (None, "infra_error")
        assert "length rewards need the token ids" in unknown.detail


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_overlong([], 100, 0), "buffer=0 must be from 1 to max_completion_length=100"),
        (lambda: soft_overlong([], 100, 101), "buffer=101 must be from 1 to"),
        (lambda: repetition_penalty([], 0), "ngram_size=0 must be positive"),
        (lambda: repetition_penalty([], 3, 0.5), "max_penalty=0.5 at most 0"),
        (lambda: cosine_length([[1]], [{"a": 1.0}], "b", 9), "correct='b' is no earlier reward; valid: a"),
        (lambda: cosine_length([[1]], [{}], "b", 9), "valid: none, it stands first"),
        (lambda: cosine_length([[1]], [{"a": 7.0}], "a", 9), "scored 7; cosine_length needs a score from 0"),
        (lambda: cosine_length([], [], "a", 0), "max_completion_length must be positive"),
        (lambda: cosine_length([], [], "a", 9, wrong_values=[1.0]), "a .short, long. pair each"),
    ],
)
def test_arguments_that_make_no_sense_are_errors_that_say_what_would(call, message):
    with pytest.raises(RewardError, match=message):
        call()


def test_shaping_terms_work_by_name_in_a_mixture():
    terms = [
        RewardTerm(fn="soft_overlong", kwargs={"max_completion_length": 4, "buffer": 2}, weight=2.0),
        RewardTerm(fn="repetition_penalty", kwargs={"ngram_size": 1}),
    ]
    with contextlib.closing(RewardMixture(terms)) as mixture:
        (scored,) = mixture.score([Sample("p", "c", completion_ids=(5, 5, 5))])
    assert scored.parts == {"soft_overlong": -0.5, "repetition_penalty": pytest.approx(-2 / 3)}
    assert scored.total == pytest.approx(-1 - 2 / 3)
