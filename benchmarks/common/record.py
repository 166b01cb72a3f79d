"""What every benchmark writes beside its figures: command, commit, machine and versions."""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.common.report import where_from
from redraft.rl.run_folder.files import write_whole


def write_record(path: Path, results: Any, device: str | None = None) -> None:
    """Write `results` with where they come from; `device` names what they were measured on if it was no CPU."""
    record = (
        where_from(["python", "-m", getattr(sys.modules["__main__"].__spec__, "name", "?"), *sys.argv[1:]])
        | ({"device": device} if device else {})
        | {"results": results}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(record, indent=1) + "\n")
