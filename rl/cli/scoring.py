"""Score a file of completions: every line gets a verdict, whatever is wrong with the lines around it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from redraft.rewards.chats import as_completion
from redraft.rewards.result import RewardError, Status, Verdict
from redraft.rewards.scoring.configured import ConfiguredReward
from redraft.rewards.scoring.mixture import Sample, as_batch
from redraft.rl.data.codec import TEXT_COLUMNS
from redraft.rl.data.files import open_lines

_SHOWN = 3
_ALL_ALIKE = 32  # rows refused in a row from the first one on, after which the reward is to blame


@dataclass
class Line:
    """One line of a file of completions.

    Attributes:
        number: Its number, from 1.
        row: What it holds; only its number where it cannot be read.
        sample: What to score; None where the line cannot be scored.
        verdict: The score, or the reason why there is none.
    """

    number: int
    row: dict[str, Any]
    sample: Sample | None = None
    verdict: Verdict = field(default_factory=lambda: Verdict(None, Status.INFRA_ERROR, "not scored"))

    def as_row(self) -> dict[str, Any]:
        """Return the row with its verdict as further columns."""
        scored = {name: getattr(self.verdict, name) for name in ("score", "status", "detail", "ms")}
        return {**self.row, **scored, **({"metrics": self.verdict.metrics} if self.verdict.metrics else {})}


def read_lines(path: Path) -> list[Line]:
    """Read the lines of a JSONL file that are not blank; the verdict of a bad line says what is wrong with it.

    Raises:
        ValueError: No such file, or nothing in it.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    with open_lines(path) as file:
        lines = [_line(number, text) for number, text in enumerate(file, start=1) if text.strip()]
    if not lines:
        raise ValueError(f"{path}: no rows")
    # Every sample gets every column: a call must not lack a column because its rows happen to lack it.
    columns = dict.fromkeys(name for line in lines if line.sample for name in line.sample.columns)
    for line in lines:
        if line.sample:
            line.sample = replace(line.sample, columns={name: line.sample.columns.get(name) for name in columns})
    return lines


def _line(number: int, text: bytes) -> Line:
    try:
        row = json.loads(text.decode("utf-8-sig" if number == 1 else "utf-8"))
        if not isinstance(row, dict):
            raise ValueError(f"a row is a JSON object, got {type(row).__name__}")
    except (ValueError, RecursionError) as error:
        kinds = {UnicodeDecodeError: "not valid UTF-8: ", json.JSONDecodeError: "not valid JSON: "}
        return Line(number, {"line": number}, verdict=_odd(number, f"{kinds.get(type(error), '')}{error}"))
    try:
        return Line(number, row, _sample(row))
    except ValueError as error:
        return Line(number, row, verdict=_odd(number, str(error)))


def _sample(row: dict[str, Any]) -> Sample:
    if "completion" not in row:
        raise ValueError(f"no `completion` to score; columns: {', '.join(row) or 'none'}")
    ids = row.get("completion_ids")
    if ids is not None and not (isinstance(ids, list) and all(isinstance(token, int) for token in ids)):
        raise ValueError(f"completion_ids is a list of token ids, got {ids!r:.80}")
    prompt = "" if row.get("prompt") is None else row["prompt"]
    columns = {name: value for name, value in row.items() if name not in {*TEXT_COLUMNS, "completion_ids"}}
    return Sample(prompt, as_completion(row["completion"]), ids, columns, group=str(prompt))


def _odd(number: int, why: str) -> Verdict:
    return Verdict(None, Status.INFRA_ERROR, f"line {number}: {why}")


def score_lines(
    configured: ConfiguredReward, lines: Sequence[Line], batch_size: int, advance: Callable[[int, int], None]
) -> None:
    """Put the reward's verdict on every line that has something to score.

    Raises:
        RewardError: The reward does not start, or refuses every row of the file.
    """
    configured.start()
    scorable = [line for line in lines if line.sample]
    refused: list[RewardError] = []
    for start in range(0, len(scorable), batch_size):
        portion = scorable[start : start + batch_size]
        try:
            _score(configured, portion)
        except RewardError:
            refused += _score_singly(configured, portion)
        done = min(start + batch_size, len(scorable))
        if len(refused) == done >= min(_ALL_ALIKE, len(scorable)):
            raise refused[0]
        advance(done, len(scorable))


def _score_singly(configured: ConfiguredReward, portion: Sequence[Line]) -> list[RewardError]:
    """Score the lines of a portion one by one; return the errors of those that cannot be scored."""
    refused = []
    for line in portion:
        try:
            _score(configured, [line])
        except RewardError as error:
            line.verdict = _odd(line.number, str(error).partition("\n")[0])
            refused.append(error)
    return refused


def _score(configured: ConfiguredReward, portion: Sequence[Line]) -> None:
    samples = [line.sample for line in portion if line.sample]
    verdicts = configured.score(as_batch(samples), [sample.group for sample in samples])
    for line, verdict in zip(portion, verdicts, strict=True):
        line.verdict = verdict


def failures(lines: Sequence[Line]) -> list[str]:
    """Describe the first lines that have no score although the reward did not mask them."""
    failed = [line for line in lines if line.verdict.score is None and line.verdict.status != Status.MASKED]
    shown = [f"line {line.number}: {line.verdict.status}: {_reason(line)}" for line in failed[:_SHOWN]]
    return shown + ([f"and {len(failed) - _SHOWN} more lines"] if len(failed) > _SHOWN else [])


def _reason(line: Line) -> str:
    return line.verdict.detail.removeprefix(f"line {line.number}: ")[:300]
