"""What every benchmark writes beside its figures: command, commit, machine and versions."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from rl.recorder import environment


def write_record(path: Path, results: Any, device: str | None = None) -> None:
    """Write `results` with where they come from; `device` names what they were measured on if it was no CPU."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    record = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit,
        "device": device or f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": environment()["versions"],
        "results": results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
