"""Generate the quickstart's task, and transform the rows of public data sets.

A task row has `prompt` (text), `ground_truth`, and for supervised training `completion`.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

from redraft.rewards.text import boxed_last
from redraft.rl.data.rows import Row
from redraft.rl.seeding import derive_seed

CALCULATOR = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
HELD_OUT_FRACTION = 0.2


def arithmetic(split: str, *, max_a: int = 99, max_b: int = 99, careless: float = 0.0, rows: int = 0) -> list[Row]:
    r"""Generate sums `a+b=` answered by `\boxed{c}`, split into disjoint `train` and `test` problems.

    Args:
        split: `train` or `test`; which problem is in which split does not depend on the run's seed.
        max_a: Largest first summand.
        max_b: Largest second summand.
        careless: Probability that a demonstration forgets to carry, as a careless teacher would. Ground truths are
            always right.
        rows: Draw this many rows with replacement, each with its own demonstration. 0 gives every problem once.

    Returns:
        Rows in a fixed order.
    """
    if split not in {"train", "test"}:
        raise ValueError(f"arithmetic has the splits train and test, got {split!r}")
    problems = [(a, b) for a in range(max_a + 1) for b in range(max_b + 1)]
    random = np.random.default_rng(derive_seed(0, "arithmetic", max_a, max_b))
    held_out = random.random(len(problems)) < HELD_OUT_FRACTION
    chosen = [problem for problem, out in zip(problems, held_out, strict=True) if out == (split == "test")]
    if rows:
        chosen = [chosen[index] for index in random.integers(len(chosen), size=rows)]
    slips = random.random(len(chosen)) < careless
    return [
        {**_row(f"{a}+{b}", str(a + b)), "completion": _boxed(add_without_carry(a, b) if slip else a + b)}
        for (a, b), slip in zip(chosen, slips, strict=True)
    ]


def add_without_carry(a: int, b: int) -> int:
    """Add digit by digit, each modulo 10: 27 + 5 gives 22."""
    if not a and not b:
        return 0
    return 10 * add_without_carry(a // 10, b // 10) + (a + b) % 10


def gsm8k_calculator(row: Row, *, max_length: int = 12) -> list[Row]:
    r"""Make a row of each calculator annotation in a GSM8K answer: `<<48/2=24>>` asks `48/2=` and expects `24`.

    Args:
        row: A GSM8K row with `answer`.
        max_length: Leave out annotations whose left side has more characters.
    """
    found = CALCULATOR.findall(_text(row, "answer"))
    pairs = [(left.replace(" ", ""), right.strip().replace(",", "")) for left, right in found]
    return [_row(left, right) for left, right in pairs if len(left) <= max_length]


def gsm8k(row: Row, *, suffix: str = "", chat: bool = False) -> list[Row]:
    """Make a question with its final answer of a GSM8K row, for `math_accuracy`.

    Args:
        row: With `question` and `answer`, which ends in `#### answer`.
        suffix: Added to the question: how to answer.
        chat: Ask in a user's message, which the tokenizer's chat template renders, as instruction-tuned models expect.
    """
    question, answer = _text(row, "question"), _text(row, "answer")
    return [{"prompt": _asked(question + suffix, chat), "ground_truth": answer.rpartition("####")[2].strip()}]


def math(row: Row, *, suffix: str = "", chat: bool = False) -> list[Row]:
    r"""Make a problem with its final answer of a MATH row, for `math_accuracy`.

    The answer alone is the ground truth: beside a whole solution, a completion that repeats it could not be told from
    one that lists numbers until a right one comes.

    Args:
        row: With `problem`, and `answer` (MATH-500) or a `solution` that ends in `\boxed{answer}`; a row without either
            is left out.
        suffix: As for `gsm8k`.
        chat: As for `gsm8k`.
    """
    answer = row.get("answer") or boxed_last(_text(row, "solution"))
    prompt = _asked(_text(row, "problem") + suffix, chat)
    return [{"prompt": prompt, "ground_truth": answer, "level": row.get("level")}] if answer else []


def mbpp(row: Row, *, suffix: str = "", chat: bool = False) -> list[Row]:
    """Make a task with its first test in sight of an MBPP row, for `code_tests`, which runs all tests.

    Without a test the name of the function would be a guess.

    Args:
        row: With `text` (configuration full) or `prompt` (sanitized), and `test_list`.
        suffix: Added to the task: how to answer.
        chat: As for `gsm8k`.
    """
    task, tests = _text(row, "text" if "text" in row else "prompt"), row.get("test_list")
    if not isinstance(tests, list) or not tests:
        raise ValueError(f"`test_list` must be a list of assertions; got {tests!r:.60}")
    return [row | {"prompt": _asked(f"{task}\nYour code must pass this test:\n{tests[0]}{suffix}", chat)}]


def rename(
    row: Row, *, columns: Mapping[str, str], prefix: str = "", suffix: str = "", chat: bool = False
) -> list[Row]:
    """Give the columns of a row the names that rewards read; the other columns stay.

    Args:
        row: A row.
        columns: New name to present name, such as `{prompt: problem, ground_truth: answer}`.
        prefix: Stands before a prompt that is no list of messages.
        suffix: Added to a prompt that is no list of messages: how to answer.
        chat: As for `gsm8k`.

    Raises:
        ValueError: The row lacks a column.
    """
    missing = [name for name in columns.values() if name not in row]
    if missing:
        raise ValueError(f"rename: no column {missing[0]!r}; the row has: {', '.join(row)}")
    kept = {name: value for name, value in row.items() if name not in columns.values()}
    renamed = kept | {new: row[old] for new, old in columns.items()}
    prompt = renamed.get("prompt")
    is_text = isinstance(prompt, str | int)
    return [renamed | {"prompt": _asked(f"{prefix}{prompt}{suffix}", chat)} if is_text else renamed]


def _asked(question: str, chat: bool) -> str | list[dict[str, str]]:
    return [{"role": "user", "content": question}] if chat else question


def _text(row: Row, column: str) -> str:
    """Return a column that must hold text.

    Raises:
        ValueError: It does not, or is not there.
    """
    value = row.get(column)
    if not isinstance(value, str):
        found = f"got {value!r:.60}" if column in row else f"the row has: {', '.join(row) or 'nothing'}"
        raise ValueError(f"`{column}` must be text; {found}")
    return value


def _row(question: str, answer: str) -> Row:
    return {"prompt": f"{question}=", "ground_truth": answer, "completion": _boxed(answer)}


def _boxed(answer: str | int) -> str:
    return rf"\boxed{{{answer}}}"


GENERATORS: dict[str, Callable[..., list[Row]]] = {"arithmetic": arithmetic}
TRANSFORMS: dict[str, Callable[..., list[Row]]] = {
    "gsm8k": gsm8k,
    "gsm8k_calculator": gsm8k_calculator,
    "math": math,
    "mbpp": mbpp,
    "rename": rename,
}
