"""The learning benchmark's tasks: what is rewarded, and what the careless teacher shows."""

import numpy as np
import pytest

from benchmarks.learning.tasks import (
    ANSWER,
    MASK,
    PLUS,
    STOP,
    TASKS,
    VOCAB_SIZE,
    ZERO,
    Problem,
    arithmetic,
    prefix_sum,
    reward,
)


def digits(text):
    return tuple(ZERO + int(one) for one in text)


def problem(task, prompt):
    (found,) = [one for one in (*task.train, *task.held_out) if one.prompt == prompt]
    return found


def shown(task, prompt, slips):
    """The demonstration of one problem by a teacher who slips always or never."""
    return task.demonstrate(problem(task, prompt), lambda: slips)


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ((*digits("12"), ANSWER, *digits("3"), STOP), 1.0),
        ((ANSWER, *digits("3"), STOP), 1.0),  # only the answer is graded
        ((ANSWER, *digits("4"), STOP), 0.0),
        ((ANSWER, *digits("33"), STOP), 0.0),
        ((ANSWER, STOP), 0.0),
        ((ANSWER, *digits("3")), 0.0),  # cut short
        ((*digits("3"), STOP), 0.0),
        ((ANSWER, *digits("4"), STOP, ANSWER, *digits("3"), STOP), 0.0),  # the first answer counts
        ((), 0.0),
    ],
)
def test_the_reward_is_one_for_the_answer_between_marker_and_stop(completion, value):
    assert reward(Problem((), digits("3")), completion) == value


def test_a_careful_teacher_shows_running_sums_and_a_careless_one_leaves_out_what_wraps_around():
    task = prefix_sum()
    prompt = digits("212022")
    assert problem(task, prompt).answer == digits("4")
    # 2, 3, 5 = 0, 0, 2, 4.
    assert shown(task, prompt, False) == (*digits("230024"), ANSWER, *digits("4"), STOP)
    # 2, 3, (5 wraps: left out) 3, 3, (5 wraps) 3, (5 wraps) 3.
    assert shown(task, prompt, True) == (*digits("233333"), ANSWER, *digits("3"), STOP)


def test_a_careful_teacher_carries_and_a_careless_one_forgets_to():
    task = arithmetic()
    prompt = (*digits("67"), PLUS, *digits("85"))
    assert shown(task, prompt, False) == (ANSWER, *digits("152"), STOP)
    assert shown(task, prompt, True) == (ANSWER, *digits("042"), STOP)


@pytest.mark.parametrize("name", TASKS)
def test_held_out_problems_are_others_and_demonstrations_come_from_training_problems_only(name):
    task = TASKS[name]()
    train, held_out = {one.prompt for one in task.train}, {one.prompt for one in task.held_out}
    assert not train & held_out
    assert 0.15 < len(held_out) / (len(train) + len(held_out)) < 0.25
    rows = task.demonstrations(500, seed=0)
    assert {prompt for prompt, _ in rows} <= train
    assert rows == task.demonstrations(500, seed=0) != task.demonstrations(500, seed=1)
    for prompt, completion in rows:
        assert len(completion) == task.max_completion_length
        assert MASK not in completion
        assert max((*prompt, *completion)) < VOCAB_SIZE


@pytest.mark.parametrize(("name", "lowest", "highest"), [("prefix_sum", 0.35, 0.55), ("arithmetic", 0.4, 0.6)])
def test_the_teacher_is_right_about_half_of_the_time_and_no_constant_answer_pays(name, lowest, highest):
    task = TASKS[name]()
    rows = task.demonstrations(4000, seed=0)
    problems = {one.prompt: one for one in task.train}
    assert lowest < np.mean([reward(problems[prompt], completion) for prompt, completion in rows]) < highest
    answers = [one.answer for one in task.train]
    assert max(answers.count(answer) for answer in set(answers)) / len(answers) < 0.3


@pytest.mark.parametrize("name", TASKS)
def test_who_always_follows_the_teachers_habit_earns_less_than_the_teacher(name):
    task = TASKS[name]()
    habit = np.mean([reward(one, shown(task, one.prompt, True)) for one in task.train[::7]])
    rows = task.demonstrations(4000, seed=0)
    problems = {one.prompt: one for one in task.train}
    assert habit < np.mean([reward(problems[prompt], completion) for prompt, completion in rows]) - 0.1
