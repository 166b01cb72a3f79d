"""What one part finds: checks that hold or do not, figures and tables; on disk after every one of them."""

import contextlib
import json
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redraft.rl.atomic import atomic_write


@dataclass(frozen=True)
class Setting:
    """Where and how large.

    Attributes:
        device: "cuda" or "cpu".
        size: "full", or "tiny": the same code at sizes for a CPU.
    """

    device: str
    size: str

    @property
    def on_gpu(self) -> bool:
        """There is a GPU, and it is used."""
        return self.device == "cuda"

    @property
    def tiny(self) -> bool:
        """Figures of speed mean nothing."""
        return self.size == "tiny"


class Findings:
    """Collects what a part finds.

    Args:
        path: JSON file that always holds all of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.checks: list[dict[str, Any]] = []
        self.figures: dict[str, Any] = {}
        self.tables: list[dict[str, Any]] = []
        self._save()

    def at_most(self, name: str, measured: float, limit: float) -> None:
        """A number that must not be larger (and must be a number)."""
        self._check(name, f"{measured:.3g}", f"at most {limit:g}", measured <= limit)

    def at_least(self, name: str, measured: float, limit: float) -> None:
        """A number that must not be smaller."""
        self._check(name, f"{measured:.6g}", f"at least {limit:g}", measured >= limit)

    def equal(self, name: str, measured: object, wanted: object) -> None:
        """What must be the same."""
        self._check(name, str(measured), str(wanted), measured == wanted)

    def figure(self, name: str, value: object) -> None:
        """A number without a bound, or any JSON."""
        self.figures[name] = value
        self._save()

    def table(self, title: str, note: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; one of the same title takes its place."""
        self.tables = [one for one in self.tables if one["title"] != title]
        self.tables.append(
            {"title": title, "note": note, "columns": list(columns), "rows": [list(row) for row in rows]}
        )
        self._save()

    @contextlib.contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Something that may fail alone: its error is a check that does not hold, and the part goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (whatever a GPU does to us is a finding)
            traceback.print_exc()
            sys.stderr.flush()
            told = str(error).strip().splitlines() or ["no reason given"]
            self._check(name, f"{type(error).__name__}: {told[0][:300]}", "no error", False)

    def _check(self, name: str, measured: str, wanted: str, holds: bool) -> None:
        self.checks.append({"name": name, "measured": measured, "wanted": wanted, "holds": bool(holds)})
        print(f"{'ok  ' if holds else 'FAIL'} {name}: {measured} ({wanted})", flush=True)
        self._save()

    def _save(self) -> None:
        content = {"checks": self.checks, "figures": self.figures, "tables": self.tables}
        write_whole(self._path, json.dumps(content, indent=1))


def write_whole(path: Path, text: str) -> None:
    """Write a file that is never seen half, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(text)
