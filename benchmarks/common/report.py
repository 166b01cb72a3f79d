"""What a benchmark leaves behind: one JSON file with everything measured, and the same as Markdown tables."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from redraft.rl.run_folder.files import write_whole
from redraft.rl.run_folder.recorder import environment


@dataclass(frozen=True)
class Section:
    """One table of a report.

    Attributes:
        title: Above it.
        note: What was measured, and on what.
        columns: Heads; the first column names the rows.
        rows: Cells.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        """As Markdown."""
        return f"## {self.title}\n\n{self.note}\n\n{markdown_table(self.columns, self.rows)}\n"


class Target(NamedTuple):
    """A number that the design promises.

    Attributes:
        name: What is measured.
        measured: Its value.
        limit: Its bound.
        at_most: The bound is an upper one.
    """

    name: str
    measured: float
    limit: float
    at_most: bool

    @property
    def holds(self) -> bool:
        """The value is within its bound."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit


def target_section(targets: Sequence[Target], note: str) -> Section:
    """Promises, and whether they hold."""
    rows = [
        [
            one.name,
            f"{one.measured:.3g}",
            f"{'at most' if one.at_most else 'at least'} {one.limit:.3g}",
            "holds" if one.holds else "FAILS",
        ]
        for one in targets
    ]
    return Section("Targets", note, ["number", "measured", "target", ""], rows)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with its first column to the left and the others to the right."""
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_report(folder: Path, name: str, record: Mapping[str, Any], markdown: str | None) -> None:
    """Write NAME.json and NAME.md, each of them whole or not at all.

    Args:
        folder: Made if it is not there.
        name: Of the benchmark.
        record: What was measured; command, commit, device and versions are added.
        markdown: The same for readers; where it comes from is added. None: only JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    origin = where_from(["redraft", *sys.argv[1:]])
    write_whole(folder / f"{name}.json", json.dumps({**origin, **record}, indent=1) + "\n")
    if markdown is not None:
        made = f"Made by `{origin['command']}` at commit {origin['commit'][:12]} on {origin['device']}."
        write_whole(folder / f"{name}.md", f"{markdown.rstrip()}\n\n{made}\n")


def where_from(command: Sequence[str]) -> dict[str, Any]:
    """What every record says beside its figures: the command, the code's commit, the machine and the versions."""
    return {
        "command": " ".join(command),
        "commit": _commit(),
        "device": _device(),
        "versions": environment()["versions"],
    }


def headless_matplotlib() -> Any:
    """matplotlib, for files only.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ValueError("figures need matplotlib: pip install 'redraft[bench]'") from None
    matplotlib.use("Agg")
    return matplotlib


def _commit() -> str:
    """Of the checkout that holds this code, or, in a copy without its history, as whoever made the copy says."""
    words = ["git", "rev-parse", "HEAD"]
    try:
        found = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("REDRAFT_COMMIT", "unknown (not a git checkout)")
    return found.stdout.strip()


def _device() -> str:
    cpu = (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
    )
    return f"{cpu}; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else cpu
