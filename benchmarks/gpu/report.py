"""The record of `check` for readers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def name_of(record: Record) -> str:
    """Of the files: one per kind of GPU, so that one does not replace the other."""
    words = re.findall(r"[a-z]+\d+\w*|cpu", record["device"]["name"].lower())
    return f"gpu_check_{words[0] if words else 'gpu'}"


def as_markdown(record: Record) -> str:
    """Everything: what was run on what, a line per part, what does not hold, and the parts' own tables."""
    device, versions = record["device"], record["versions"]
    about = [
        f"# GPU check: {device['name']}",
        "",
        f"`{record['command']}` at commit {record['commit']}; {', '.join(f'{k} {v}' for k, v in device.items())};"
        f" {', '.join(f'{k} {v}' for k, v in versions.items() if v)}. {record.get('seconds', 0)} s of"
        f" {record['seconds_allowed']:g}.",
        "",
    ]
    if record["size"] == "tiny":
        about += ["**Tiny sizes: figures of speed say nothing; checks of what is computed do.**", ""]
    lines = [*about, *_table(("part", "state", "s", "checks that hold", ""), _states(record)), ""]
    broken = [(name, check) for name, part in record["parts"].items() for check in _failed(part)]
    if broken:
        rows = [[f"{name}: {one['name']}", one["measured"], one["wanted"]] for name, one in broken]
        lines += ["## What does not hold", "", *_table(("check", "measured", "wanted"), rows), ""]
    for name, part in record["parts"].items():
        lines += _part(name, part)
    return "\n".join(lines)


def summary(record: Record) -> str:
    """The last lines of the output."""
    rows = [
        f"{name:12} {state:10} {seconds:>6} {held:>8}  {why}" for name, state, seconds, held, why in _states(record)
    ]
    failed = [
        f"  {name}: {one['name']}: {one['measured']}, wanted {one['wanted']}"
        for name, part in record["parts"].items()
        for one in _failed(part)
    ]
    return "\n".join([f"{record['device']['name']}, {record['seconds']} s", *rows, *failed])


def _states(record: Record) -> list[list[str]]:
    rows = []
    for name, part in record["parts"].items():
        checks = part.get("checks", [])
        held = f"{len(checks) - len(_failed(part))}/{len(checks)}" if checks else ""
        rows.append([name, part["state"], str(part.get("seconds", "")), held, part.get("reason", "")])
    return rows


def _failed(part: Record) -> list[Record]:
    return [check for check in part.get("checks", []) if not check["holds"]]


def _part(name: str, part: Record) -> list[str]:
    lines = [f"## {name}: {part['title']}", ""]
    if part.get("checks"):
        rows = [
            [one["name"], one["measured"], one["wanted"], "yes" if one["holds"] else "NO"] for one in part["checks"]
        ]
        lines += [*_table(("check", "measured", "wanted", "holds"), rows), ""]
    for table in part.get("tables", []):
        lines += [f"### {table['title']}", "", table["note"], "", *_table(table["columns"], table["rows"]), ""]
    if part.get("output"):
        lines += ["The end of its output:", "", "```", *part["output"], "```", ""]
    return lines


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in cells]
