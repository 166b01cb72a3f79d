"""``ifeval``: does an answer follow the instructions of its prompt."""

from collections.abc import Mapping, Sequence

from redraft.rewards.library.instructions.arguments import is_absent, unwritten
from redraft.rewards.library.instructions.table import Follows, bind, follows, follows_loosely
from redraft.rewards.result import RewardError, Status, Verdict
from redraft.rewards.reward import reward
from redraft.rewards.text import MAX_COMPLETION_CHARS, answer_region

_MODES = {"strict": follows, "loose": follows_loosely}
_SCORES = ("all", "fraction")
_MAX_DETAIL_CHARS = 500


# In a worker: the two tokenizers and the language detector are not ours. Cheap answers may follow an instruction.
@reward("ifeval", attacks=("empty",))
def ifeval(
    completions: Sequence[object],
    instruction_id_list: Sequence[object],
    kwargs: Sequence[object] | None = None,
    mode: str = "strict",
    score: str = "all",
) -> list[Verdict]:
    """Check each answer against the instructions of its row, with the columns of the official data.

    Args:
        completions: Strings or lists of messages; what counts is the text after the reasoning, stripped.
        instruction_id_list: Per row the names of its instructions; one may come twice.
        kwargs: Per row the arguments of each instruction, in the same order. Both may be written as JSON text, as a
            whole or each entry, or be arrays; no kwargs at all are none for every instruction.
        mode: ``strict``, or ``loose``: without first line, last line or asterisks it may follow too.
        score: ``all`` scores 1.0 for an answer that follows every instruction, else 0.0; ``fraction`` is the share of
            instructions that it follows.

    Returns:
        Per completion: ok, wrong or no_answer; gold_error and no score for a row whose instructions are unusable.

    Raises:
        RewardError: An unknown mode or score.
    """
    if mode not in _MODES or score not in _SCORES:
        valid = f"mode: {' | '.join(_MODES)} and score: {' | '.join(_SCORES)}"
        raise RewardError(f"mode={mode!r}, score={score!r} must be {valid}")
    arguments = [None] * len(completions) if kwargs is None else kwargs
    rows = zip(completions, instruction_id_list, arguments, strict=True)
    return [_verdict(row, columns, mode, score) for row, columns in enumerate(rows)]


def _verdict(row: int, columns: tuple[object, object, object], mode: str, score: str) -> Verdict:
    completion, names, arguments = columns
    try:
        bound = _bind_all(names, arguments)
    except RewardError as error:
        return Verdict(None, Status.GOLD_ERROR, f"row {row}: {error}")
    text = answer_region(completion)
    if not text.strip():
        return Verdict(0.0, Status.NO_ANSWER)
    if len(text) >= MAX_COMPLETION_CHARS:  # what was cut off may be what breaks an instruction
        return Verdict(0.0, Status.WRONG, f"an answer of {MAX_COMPLETION_CHARS} characters or more is not checked")
    results = [_MODES[mode](check, text.strip()) for check in bound]
    if all(results):
        return Verdict(1.0)
    failed = [f"{index} {name}" for index, name in enumerate(_names(names)) if not results[index]]
    detail = f"{len(failed)} of {len(results)} not followed: {', '.join(failed)}"
    share = sum(results) / len(results) if score == "fraction" else 0.0
    return Verdict(share, Status.WRONG, detail[:_MAX_DETAIL_CHARS])


def _bind_all(names: object, arguments: object) -> list[Follows]:
    """Bind all instructions of one row.

    Raises:
        RewardError: One is unusable, or the two columns do not go together.
    """
    listed = _names(names)
    given = _entries(arguments, len(listed))
    if not listed or len(listed) != len(given):
        shown = f"{names!r:.120} and {arguments!r:.120}"
        raise RewardError(f"instruction_id_list and kwargs must be lists of equal length, at least 1; got {shown}")
    bound = []
    for index, (name, argument) in enumerate(zip(listed, given, strict=True)):
        try:
            bound.append(bind(name, argument))
        except RewardError as error:
            raise RewardError(f"instruction {index}: {error}") from error
    return bound


def _names(value: object) -> list[object]:
    """Return the names of a row's instructions; a single one may stand without a list."""
    names = unwritten(value)
    return [unwritten(name) for name in names] if isinstance(names, list) else [names] if names else []


def _entries(value: object, size: int) -> list[object]:
    """Return the arguments of each of `size` instructions, from any layout that tables have for a list of mappings."""
    entries = unwritten(value)
    if is_absent(entries) or entries in ("", {}):
        return [None] * size
    if not isinstance(entries, Mapping):
        return entries if isinstance(entries, list) else []
    columns = {name: unwritten(column) for name, column in entries.items()}
    if all(isinstance(column, list) and len(column) == size for column in columns.values()) and not (
        size == 1 and all(isinstance(item, str) for column in columns.values() for item in column)
    ):
        return [{name: column[index] for name, column in columns.items()} for index in range(size)]
    return [entries]
