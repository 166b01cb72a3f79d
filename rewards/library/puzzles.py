r"""Puzzles with a checkable answer: ``countdown`` (reach a number) and ``sudoku`` (fill a 4x4 grid).

Both read the answer as plain text by a grammar of their own, nothing is evaluated, and any valid answer counts.
"""

import ast
import functools
import itertools
import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from redraft.rewards.result import Status, Verdict
from redraft.rewards.reward import ATTACKS, reward
from redraft.rewards.text import extract_answer

DEFAULT_EXTRACT = ("answer_tag", "boxed_last")
MAX_EXPRESSION_CHARS = 500
_MAX_DEPTH = 20
_MAX_DETAIL_CHARS = 200

_TOKEN = re.compile(r"[0-9]+|[-+*/()=]")
_WHOLE = re.compile(r"\s*(-?[0-9]{1,18})\s*")
_LIST_SEPARATOR = re.compile(r"[\s,]+")
_SIGNS = {"\u00d7": "*", "\u22c5": "*", "\u00b7": "*", "\u00f7": "/", "\u2212": "-"}
_SIGNS |= {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\left(": "(", r"\right)": ")"}
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@reward("countdown", isolation="inline", attacks=ATTACKS)  # linear in an answer of at most 500 characters
def countdown(
    completions: Sequence[object],
    numbers: Sequence[object],
    target: Sequence[object],
    extract: Sequence[str] = DEFAULT_EXTRACT,
) -> list[Verdict]:
    """Score 1.0 for an expression that reaches the target with every number used exactly once, else 0.0.

    Args:
        completions: Strings or lists of messages.
        numbers: Per row the numbers from 0 to use: a list, or a text such as ``30,100,93``.
        target: Per row the whole number to reach, or a text of it.
        extract: Extraction policies in order, as in ``math_accuracy``.

    Returns:
        Per completion: ok, wrong with the reason, or no_answer; gold_error and no score for an unusable row.

    Raises:
        RewardError: Unknown extraction policy.
    """
    verdicts = []
    for row, (completion, given, wanted) in enumerate(zip(completions, numbers, target, strict=True)):
        answer = extract_answer(completion, extract)
        available, goal = _whole_numbers(given), _whole_number(wanted)
        if available is None or goal is None:
            detail = (
                f"row {row}: countdown needs whole numbers from 0 and a target, got {given!r:.80} and {wanted!r:.80}"
            )
            verdicts.append(Verdict(None, Status.GOLD_ERROR, detail))
        elif answer is None:
            verdicts.append(Verdict(0.0, Status.NO_ANSWER))
        else:
            verdicts.append(_verdict(countdown_fault(answer, available, goal)))
    return verdicts


def countdown_fault(answer: str, numbers: Sequence[int], target: int) -> str:
    """Say what is wrong with an expression; "" for nothing.

    Allowed are whole numbers, ``+ - * /`` between two values, round brackets, and ``= target`` at the end.
    """
    if len(answer) > MAX_EXPRESSION_CHARS:
        return f"an expression of {len(answer)} characters; at most {MAX_EXPRESSION_CHARS}"
    for sign, plain in _SIGNS.items():
        answer = answer.replace(sign, plain)
    if stray := _TOKEN.sub("", answer).strip():
        return f"{stray[:20]!r} is neither a number nor one of + - * / ( ) ="
    tokens = _TOKEN.findall(answer)
    if "=" in tokens:
        equals = tokens.index("=")
        if "".join(tokens[equals + 1 :]) != str(target):
            return f"what follows '=' is not the target {target}"
        tokens = tokens[:equals]
    if _depth(tokens) > _MAX_DEPTH:
        return f"brackets nested deeper than {_MAX_DEPTH}"
    if sorted(int(token) for token in tokens if token.isdigit()) != sorted(numbers):
        return f"does not use each of {', '.join(map(str, numbers))} exactly once"
    try:
        value = _value(ast.parse(" ".join(tokens), mode="eval").body)  # the blanks keep * * and / / apart
    except (SyntaxError, ZeroDivisionError) as error:
        return f"not an expression with a value: {type(error).__name__}"
    return "" if value == target else f"is {value} and not {target}"


# Each new puzzle is compared with 288 grids; the rest is linear in the answer.
@reward("sudoku", isolation="inline", attacks=ATTACKS)
def sudoku(
    completions: Sequence[object],
    puzzle: Sequence[object],
    solution: Sequence[object] | None = None,
    partial: bool = False,
    extract: Sequence[str] = DEFAULT_EXTRACT,
) -> list[Verdict]:
    """Score 1.0 for a valid 4x4 grid that keeps the clues, else 0.0.

    Args:
        completions: Strings or lists of messages; the answer is 16 digits from 1 to 4, with any white space between.
        puzzle: Per row 16 digits, row by row, 0 for a blank; a number that has lost its leading zeros will do.
        solution: Per row a solution, only to check the data.
        partial: Score a grid that keeps the clues by its share of right blanks, where only one solution exists.
        extract: Extraction policies in order, as in ``math_accuracy``.

    Returns:
        Per completion: ok, wrong with the reason, or no_answer; gold_error and no score for an unusable row.

    Raises:
        RewardError: Unknown extraction policy.
    """
    verdicts = []
    rows = zip(completions, puzzle, solution or itertools.repeat(None), strict=solution is not None)
    for row, (completion, given, known) in enumerate(rows):
        answer = extract_answer(completion, extract)
        cells = str(given).zfill(16) if isinstance(given, int) else str(given)
        solutions = sudoku_solutions(cells)
        if not solutions or (known is not None and str(known) not in solutions):
            detail = f"row {row}: no solution, or not this one: puzzle {given!r:.60}, solution {known!r:.60}"
            verdicts.append(Verdict(None, Status.GOLD_ERROR, detail))
        elif answer is None:
            verdicts.append(Verdict(0.0, Status.NO_ANSWER))
        else:
            grid = "".join(answer.split())
            share = _right_blanks(grid, cells, solutions[0]) if partial and len(solutions) == 1 else 0.0
            verdicts.append(_verdict(_sudoku_fault(grid, cells, solutions), share))
    return verdicts


@functools.lru_cache(maxsize=100_000)
def sudoku_solutions(puzzle: str) -> tuple[str, ...]:
    """Return all valid 4x4 grids that keep the clues; none for a text that is no puzzle."""
    if not re.fullmatch("[0-4]{16}", puzzle):
        return ()
    return tuple(grid for grid in _grids() if _keeps_clues(grid, puzzle))


def _sudoku_fault(grid: str, puzzle: str, solutions: Sequence[str]) -> str:
    if grid in solutions:
        return ""
    if not re.fullmatch("[1-4]{16}", grid):
        return f"needs 16 digits from 1 to 4 and nothing else, got {len(grid)} characters"
    return "a row, column or box holds a digit twice" if _keeps_clues(grid, puzzle) else "changes a clue"


def _right_blanks(grid: str, puzzle: str, solution: str) -> float:
    if not re.fullmatch("[1-4]{16}", grid) or not _keeps_clues(grid, puzzle):
        return 0.0
    blanks = [index for index, clue in enumerate(puzzle) if clue == "0"]
    return sum(grid[index] == solution[index] for index in blanks) / max(len(blanks), 1)


def _keeps_clues(grid: str, puzzle: str) -> bool:
    return all(clue in ("0", digit) for digit, clue in zip(grid, puzzle, strict=True))


@functools.cache
def _grids() -> tuple[str, ...]:
    """Return the 288 valid grids, row by row."""
    rows = ["".join(row) for row in itertools.permutations("1234")]
    grids = [""]
    for _ in range(4):
        grids = [grid + row for grid in grids for row in rows if _is_consistent(grid + row)]
    return tuple(grids)


def _is_consistent(cells: str) -> bool:
    """Tell whether no column and no box of the rows so far holds a digit twice."""
    columns = [cells[column::4] for column in range(4)]
    boxes = [cells[start : start + 2] + cells[start + 4 : start + 6] for start in (0, 2, 8, 10)]
    return all(len(set(group)) == len(group) for group in columns + boxes)


def _verdict(fault: str, share: float = 0.0) -> Verdict:
    return Verdict(share, Status.WRONG, fault[:_MAX_DETAIL_CHARS]) if fault else Verdict(1.0)


def _depth(tokens: Sequence[str]) -> int:
    return max(itertools.accumulate(((token == "(") - (token == ")") for token in tokens), initial=0))


def _value(node: ast.expr) -> Fraction:
    """Compute a tree of numbers and the four operations; a sign before a value is not one of them."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    raise SyntaxError(f"{type(node).__name__} is not allowed")


def _whole_number(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    match = _WHOLE.fullmatch(str(value))
    return int(match[1]) if match else None


def _whole_numbers(value: object) -> list[int] | None:
    """Read whole numbers from 0 from a list or a text; None where there are none or one is something else."""
    parts = _LIST_SEPARATOR.split(value.strip(" []")) if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not parts:
        return None
    numbers = [number for part in parts if (number := _whole_number(part)) is not None and number >= 0]
    return numbers if len(numbers) == len(parts) else None
