"""What a benchmark leaves behind: one JSON file with everything measured, and the same as Markdown tables."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from rl.recorder import environment


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

    def to_rich(self) -> Table:
        """For the terminal."""
        table = Table(title=self.title, caption=self.note, title_justify="left", caption_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def to_markdown(self) -> str:
        """For a file."""
        lines = [self.columns, ["---", *["--:"] * (len(self.columns) - 1)], *self.rows]
        return "\n".join([f"## {self.title}", "", self.note, "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def write_report(folder: Path, name: str, record: Mapping[str, Any], markdown: str) -> None:
    """Write NAME.json and NAME.md.

    Args:
        folder: Made if it is not there.
        name: Of the benchmark.
        record: What was measured; command, commit, device and versions are added.
        markdown: The same for readers, without a heading of the first level.
    """
    folder.mkdir(parents=True, exist_ok=True)
    origin = {
        "command": " ".join(["redraft", *sys.argv[1:]]),
        "commit": _commit(),
        "device": _device(),
        "versions": environment()["versions"],
    }
    (folder / f"{name}.json").write_text(json.dumps({**origin, **record}, indent=1) + "\n")
    made = f"`{origin['command']}` at {origin['commit'][:12]} on {origin['device']}"
    (folder / f"{name}.md").write_text(f"# {name}\n\n{made}\n\n{markdown}")


def _commit() -> str:
    """Of the checkout that holds this code; "+" behind it where files differ from it."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
