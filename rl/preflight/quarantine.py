"""Find training rows that a verifier cannot judge, and leave them out, each with a reason."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from redraft.rewards.result import RewardError
from redraft.rewards.scoring.trial import audit_rows
from redraft.rl.config.schema import RunConfig
from redraft.rl.data.load import source_name
from redraft.rl.data.rows import Row, place_of
from redraft.rl.run_folder.files import write_whole

QUARANTINE = "quarantine.jsonl"
_PORTION = 256  # rows per call of an audit, because a call of a verifier in a process has a deadline
_SHOWN = 3


def find_unfit(config: RunConfig, rows: Sequence[Row], say: Callable[[str], None]) -> dict[int, str]:
    """Find the rows that the recipe's verifiers cannot judge.

    Args:
        config: The recipe; without `reward_test.audit` no row is audited.
        rows: Training rows.
        say: Called with one line if rows are left out.

    Returns:
        The reason, by index of the row.

    Raises:
        RewardError: More rows cannot be judged than `reward_test.threshold` allows.
    """
    found: dict[int, str] = {}
    for term in config.rewards:
        for start in range(0, len(rows) if term.attacks and config.reward_test.audit else 0, _PORTION):
            reasons = audit_rows(term, rows[start : start + _PORTION])
            found |= {start + index: f"{term.name}: {reason}" for index, reason in reasons.items()}
    if len(rows) - len(found) < config.reward_test.threshold * len(rows):
        raise RewardError(_refusal(config, rows, found))
    if found:
        say(f"{len(found)} of {len(rows)} training rows left out, no verifier can judge them: see {QUARANTINE}")
    return found


def _refusal(config: RunConfig, rows: Sequence[Row], found: Mapping[int, str]) -> str:
    places = {index: place_of(rows[index], source_name(config.data), index + 1) for index in list(found)[:_SHOWN]}
    shown = [f"  {place}: {found[index]}" for index, place in places.items()]
    return "\n".join(
        [
            f"the recipe's verifiers cannot judge {len(found)} of {len(rows)} training rows, more than"
            f" reward_test.threshold={config.reward_test.threshold:g} allows; nothing was trained",
            *shown,
            "look closer with: redraft reward test RECIPE; or keep them all by reward_test.audit=false",
        ]
    )


def write_quarantine(run: Path, rows: Sequence[Row], found: Mapping[int, str]) -> None:
    """Write into the run folder which rows were left out, for people and for a resumed run.

    A resumed run does not audit again: verifiers have deadlines, so a second audit might leave out other rows.
    """
    lines = [{"index": index, "reason": reason, "row": rows[index]} for index, reason in sorted(found.items())]
    write_whole(run / QUARANTINE, "".join(json.dumps(line, default=str) + "\n" for line in lines))


def read_quarantine(run: Path) -> dict[int, str]:
    """Read which rows the run left out when it began.

    Raises:
        ValueError: The file is damaged.
    """
    path = run / QUARANTINE
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        return {line["index"]: line["reason"] for line in lines}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); without the list of rows left out, start anew") from error
