"""Where a benchmark's results go: a JSON record with its circumstances, and a Markdown table."""

import json
import subprocess
from pathlib import Path
from typing import Any

from rl.recorder import environment


def write_report(folder: Path, name: str, record: dict[str, Any], markdown: str) -> None:
    """Write NAME.json (the record with command, commit and versions) and NAME.md."""
    folder.mkdir(parents=True, exist_ok=True)
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    circumstances = {"commit": found.stdout.strip() or "unknown", "environment": environment()}
    (folder / f"{name}.json").write_text(json.dumps(circumstances | record, indent=1) + "\n")
    (folder / f"{name}.md").write_text(markdown)
