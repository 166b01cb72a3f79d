"""Test whether a verifier gives right answers 1 and cheap ones 0: on a sample before every run, or by command."""

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redraft.rewards.library.answers.gold import gold_text
from redraft.rewards.library.code.formats import holds_tests
from redraft.rewards.result import RewardError, Status, Verdict
from redraft.rewards.reward import ATTACKS, registered, resolve
from redraft.rewards.scoring.combine import is_failure
from redraft.rewards.scoring.configured import ConfiguredReward
from redraft.rewards.scoring.mixture import Sample, as_batch
from redraft.rewards.term import RewardTerm

GOLD = "gold"
GOLD_COLUMNS = ("ground_truth", "canonical_solution", "solution", "code", "answer")
"""Columns that may hold a right answer; a row passes when any of them, written in any usual form, scores 1."""

_CALLED = re.compile(r"([A-Za-z_]\w*)\s*\(")
_ALWAYS_EQUAL = """\
class Same:
    __hash__ = None
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __call__(self, *args, **kwargs): return self
    def __getattr__(self, name): return self
    def __iter__(self): return iter(())
    def __len__(self): return 0
"""


@dataclass(frozen=True)
class Check:
    """One answer to one row under one reward.

    Attributes:
        row: Index of the data row.
        kind: `GOLD`, or the attack's name.
        verdict: Of the reward; for a gold answer, on the form of it that scored best.
    """

    row: int
    kind: str
    verdict: Verdict

    @property
    def passed(self) -> bool:
        """Whether the score is 1 for a right answer, or 0 for an attack."""
        return self.verdict.score == (1.0 if self.kind == GOLD else 0.0)


def try_reward(term: RewardTerm, rows: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Score right and cheap answers to data rows.

    Args:
        term: The reward; its `when` chooses rows, its `attacks` the cheap answers.
        rows: Data rows; one without a known right answer is only attacked.

    Returns:
        The checks that could be made, row by row.

    Raises:
        RewardError: The reward cannot be started or lacks a column.
    """
    answers = [answer for index, row in enumerate(rows) if term.applies(row) for answer in _answers(term, index, row)]
    verdicts = _score(term, answers, rows)
    best: dict[tuple[int, str], Verdict] = {}
    for answer, verdict in zip(answers, verdicts, strict=True):
        key = answer.row, answer.kind
        if key not in best or (verdict.score or 0.0) > (best[key].score or 0.0):
            best[key] = verdict
    return [Check(row, kind, verdict) for (row, kind), verdict in best.items()]


class _Answer(NamedTuple):
    """An answer to try: one form of a right answer (kind `GOLD`), or the one that an attack makes."""

    row: int
    kind: str
    text: str


def _answers(term: RewardTerm, index: int, row: Mapping[str, Any]) -> list[_Answer]:
    right = [_Answer(index, GOLD, form) for form in gold_forms(row)]
    return right + [_Answer(index, name, _MAKERS[name](row)) for name in term.attacks]


def _score(term: RewardTerm, answers: Sequence[_Answer], rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Score answers to their rows, each as a group of its own; failures are verdicts, and do not raise."""
    if not answers:
        return []
    samples = [
        Sample(rows[answer.row].get("prompt", ""), answer.text, columns=_columns(rows[answer.row]))
        for answer in answers
    ]
    with contextlib.closing(ConfiguredReward(term.model_copy(update={"on_error": "mask"}))) as reward:
        reward.start()
        return reward.score(as_batch(samples), range(len(samples)))


def audit_rows(term: RewardTerm, rows: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Find rows that must not be trained on under a verifier, because it rejects their right answer.

    A verifier with an audit of its own is asked for that instead.

    Args:
        term: A verifier.
        rows: Data rows; those without a known right answer are kept, unless the reward's own audit objects.

    Returns:
        The reason, by index of the row.

    Raises:
        RewardError: The reward cannot be started, lacks a column, or fails.
    """
    chosen = [index for index, row in enumerate(rows) if term.applies(row)]
    own = "" if ":" in term.fn else registered(term.fn).declared.audit
    if own:
        found = resolve(own)([rows[index] for index in chosen], term.kwargs)
        return {chosen[index]: reason for index, reason in found.items()}
    # Without a known right answer, an empty one still shows whether the row can be used.
    checks = try_reward(term.model_copy(update={"attacks": ("empty",)}), rows)
    return {check.row: reason for check in reversed(checks) if (reason := _objection(term, check))}


def _objection(term: RewardTerm, check: Check) -> str:
    if check.verdict.status == Status.GOLD_ERROR:
        return check.verdict.detail
    if is_failure(check.verdict):  # an outage must not put rows aside
        raise RewardError(
            f"reward {term.name!r} could not score row {check.row} ({check.kind}): {check.verdict.detail}"
        )
    if check.kind != GOLD or check.passed:
        return ""
    return f"its right answer scores {check.verdict.score} ({check.verdict.status}) {check.verdict.detail}".rstrip()


def gold_forms(row: Mapping[str, Any]) -> list[str]:
    """Return a row's right answers in all forms that extraction policies read; none where no answer is known."""
    forms: list[str] = []
    for name in GOLD_COLUMNS:
        value = row.get(name)
        if value is None or isinstance(value, bool) or value == "" or holds_tests(value):
            continue
        for text in dict.fromkeys((str(value), gold_text(value) or str(value))):
            marked = [f"\\boxed{{{text}}}", f"<answer>{text}</answer>", f"#### {text}", f"The answer is {text}"]
            forms += [text, *marked, _fenced(text)]
        text = str(value)
        if isinstance(row.get("prompt"), str):
            forms.append(_fenced(row["prompt"] + text))
    return list(dict.fromkeys(forms))


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in {"prompt", "completion"}}


def _fenced(code: str) -> str:
    return f"```python\n{code}\n```"


def _empty(row: Mapping[str, Any]) -> str:
    return ""


def _list_everything(row: Mapping[str, Any]) -> str:
    """Write every small number and the right answer, in words, in a box and in a tag."""
    listed = [str(row.get("ground_truth", "")), *map(str, range(-20, 101))]
    return f"{' '.join(listed)} \\boxed{{{', '.join(listed)}}} <answer>{', '.join(listed)}</answer>"


def _sys_exit(row: Mapping[str, Any]) -> str:
    return _fenced("import sys\nsys.exit(0)")


def _always_equal(row: Mapping[str, Any]) -> str:
    """Write code in which every function that the row's tests call returns an object that equals everything."""
    tests = " ".join(str(row.get(name) or "") for name in ("test", "test_list", "fn_name"))
    called = {*_CALLED.findall(tests), row.get("entry_point"), row.get("fn_name")} - {None, "", "candidate", "check"}
    named = sorted(name for name in called if str(name).isidentifier())
    return _fenced(_ALWAYS_EQUAL + "".join(f"def {name}(*args, **kwargs): return Same()\n" for name in named))


_MAKERS: dict[str, Callable[[Mapping[str, Any]], str]] = dict(
    zip(ATTACKS, (_empty, _list_everything, _sys_exit, _always_equal), strict=True)
)
