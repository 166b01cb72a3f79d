"""Write files of a run folder whole or not at all, and know which names in it are the run's own."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from redraft.rl.atomic import atomic_write

RESOLVED = "config.resolved.yaml"
"""The recipe with every default. A folder that holds this file is a run folder."""

ORIGIN = "origin.json"
"""Where the first policy came from; only of runs that began with a model of the hub."""


class Origin(TypedDict):
    """Content of `ORIGIN`: what the recipe named, and the commit of the hub that it meant when the run began."""

    path: str
    revision: str | None
    commit: str


_OWN_FOLDERS = {"checkpoints", "samples", "sft"}


class WriteError(OSError):
    """A file of the run cannot be written; the message names it."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in the error when it cannot be written: "No space left on device" does not say which it was.

    Raises:
        WriteError: What is written inside failed.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        if not is_write_error(error):
            raise
        raise WriteError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def is_write_error(error: BaseException) -> bool:
    """Tell whether writing failed. Writers in Rust (tokenizers, safetensors) say so only in the text of an error."""
    return isinstance(error, OSError) or re.search(r"\(os error \d+\)", str(error)) is not None


def write_whole(path: Path, text: str, durable: bool = True) -> None:
    """Write a file so that its content is either the old or the new one, whatever fails.

    Args:
        path: The file.
        text: Its new content.
        durable: It must survive a power loss too.

    Raises:
        WriteError: It cannot be written; the old one is intact.
    """
    with writing(path), atomic_write(path, durable) as partial:
        partial.write_text(text)


def read_json(path: Path, remedy: str) -> Any:
    """Read a JSON file of the run, which an editor or an incomplete copy may have damaged.

    Args:
        path: The file.
        remedy: What to do where it is damaged.

    Raises:
        ValueError: It is not there, or no JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}); {remedy}") from error


def append_line(path: Path, line: str) -> None:
    """Add one line to a file, or nothing of it.

    Raises:
        WriteError: It cannot be written.
    """
    with writing(path), path.open("ab", buffering=0) as file:  # closing would write a buffer again
        size, rest = file.tell(), memoryview(f"{line}\n".encode())
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            os.truncate(path, size)
            raise


def check_no_run_file(path: Path) -> None:
    """Refuse to write a policy where a run keeps its own: its checkpoints would no longer be what it saved.

    Raises:
        FileExistsError: The folder is that of a run, or one that a run writes itself.
    """
    place = path.resolve()
    for folder in (place, *place.parents):
        inside = place.relative_to(folder).parts[:1]
        if (folder / RESOLVED).is_file() and (not inside or inside[0] in _OWN_FOLDERS):
            raise FileExistsError(f"{path}: belongs to the run {folder}; write elsewhere, e.g. {folder}/export")


def step_number(name: str, ending: str = "") -> int | None:
    """Read the step in a name `step_<digits>` of a run's own file or folder; return None for any other name.

    Users keep copies beside them (`step_000100_best`), which the run must not read, count or remove.
    """
    found = re.fullmatch(rf"step_([0-9]+){re.escape(ending)}", name)
    return int(found[1]) if found else None
