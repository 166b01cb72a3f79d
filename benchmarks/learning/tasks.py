"""Two tasks on small integers whose reward no collapsed policy earns; rewards are pure functions of token ids.

The demonstrations of both come from a careless teacher, who makes the same slip more often than not wherever it can
be made. A policy that imitates him and then only grows sure of itself therefore loses reward: its most probable
answer is the slip. RL has to turn the policy's preference around in every context where the slip is possible.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from redraft.rl.data.tasks import add_without_carry
from redraft.rl.seeding import derive_seed
from redraft.rollout.trajectory import SpecialTokens

PAD, STOP, MASK, PLUS, ANSWER, ZERO = range(6)
TOKENS = SpecialTokens(mask=MASK, pad=PAD, stops=(STOP,))
VOCAB_SIZE = ZERO + 10
HELD_OUT_FRACTION = 0.2
MODULUS, TERMS, LARGEST_TERM = 5, 6, 2  # of the prefix sums
SUMMANDS = range(100)


@dataclass(frozen=True)
class Problem:
    """A prompt and the only answer that is rewarded, as token ids."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """Problems, and a careless teacher.

    Attributes:
        name: Of the task.
        train: Problems to learn from.
        held_out: Other problems.
        max_completion_length: Tokens.
        slip: Probability that the teacher makes his slip where he can.
        demonstrate: The teacher's completion of a problem, up to the stop token; he asks the second argument whether
            he slips.
        settings: What the task was made with.
    """

    name: str
    train: tuple[Problem, ...]
    held_out: tuple[Problem, ...]
    max_completion_length: int
    slip: float
    demonstrate: Callable[[Problem, Callable[[], bool]], tuple[int, ...]]
    settings: tuple[float, ...]

    def demonstrations(self, count: int, seed: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Prompts and the teacher's completions, problems drawn with replacement."""
        random = np.random.default_rng(derive_seed(seed, "demonstrations"))
        chosen = [self.train[index] for index in random.integers(len(self.train), size=count)]
        return [(problem.prompt, self.demonstrate(problem, lambda: random.random() < self.slip)) for problem in chosen]


def reward(problem: Problem, completion: Sequence[int]) -> float:
    """1 if what stands between the first answer marker and the first stop token is the answer, otherwise 0."""
    if ANSWER not in completion:
        return 0.0
    said = tuple(completion[completion.index(ANSWER) + 1 :])
    return float(STOP in said and said[: said.index(STOP)] == problem.answer)


@functools.cache
def prefix_sum(slip: float = 0.6) -> Task:
    """Running sums modulo 5 as a chain of thought: `1 4 2 ...` is answered `1 0 2 ... ANSWER <last sum> STOP`.

    Args:
        slip: Probability that the teacher leaves a digit out where adding it would wrap around the modulus; he goes
            on from the wrong sum.
    """
    problems = [
        Problem(_digits(terms), _digits([sum(terms) % MODULUS]))
        for terms in itertools.product(range(LARGEST_TERM + 1), repeat=TERMS)
    ]

    def demonstrate(problem: Problem, slips: Callable[[], bool]) -> tuple[int, ...]:
        sums, total = [], 0
        for digit in (token - ZERO for token in problem.prompt):
            if total + digit < MODULUS or not slips():
                total = (total + digit) % MODULUS
            sums.append(total)
        return (*_digits(sums), ANSWER, *_digits(sums[-1:]), STOP)

    train, held_out = _split(problems, "prefix_sum")
    return Task("prefix_sum", train, held_out, TERMS + 3, slip, demonstrate, (slip, MODULUS, TERMS, LARGEST_TERM))


@functools.cache
def arithmetic(slip: float = 0.7) -> Task:
    """The quickstart's sums in a compact form: `2 7 PLUS 0 5` is answered `ANSWER 0 3 2 STOP`.

    Args:
        slip: Probability that the teacher forgets to carry, in all digits of a demonstration.
    """
    problems = [
        Problem((*_digits(divmod(a, 10)), PLUS, *_digits(divmod(b, 10))), _three_digits(a + b))
        for a, b in itertools.product(SUMMANDS, repeat=2)
    ]

    def demonstrate(problem: Problem, slips: Callable[[], bool]) -> tuple[int, ...]:
        tens_a, units_a, _, tens_b, units_b = (token - ZERO for token in problem.prompt)
        wrong = add_without_carry(10 * tens_a + units_a, 10 * tens_b + units_b)
        said = _three_digits(wrong) if slips() else problem.answer
        return (ANSWER, *said, STOP)

    train, held_out = _split(problems, "arithmetic")
    return Task("arithmetic", train, held_out, 5, slip, demonstrate, (slip, len(SUMMANDS)))


TASKS: dict[str, Callable[[], Task]] = {"prefix_sum": prefix_sum, "arithmetic": arithmetic}


def _digits(numbers: Sequence[int]) -> tuple[int, ...]:
    return tuple(ZERO + number for number in numbers)


def _three_digits(number: int) -> tuple[int, ...]:
    return _digits([number // 100, number // 10 % 10, number % 10])


def _split(problems: Sequence[Problem], name: str) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Training and held-out problems; which is which depends on the task only."""
    out = np.random.default_rng(derive_seed(0, name)).random(len(problems)) < HELD_OUT_FRACTION
    pairs = list(zip(problems, out, strict=True))
    return tuple(p for p, held in pairs if not held), tuple(p for p, held in pairs if held)
