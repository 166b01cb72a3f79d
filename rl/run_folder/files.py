"""Files of a run folder: which names are a run's own, and writing so that nothing is left half or unsaid."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redraft.rl.atomic import atomic_write

RESOLVED = "config.resolved.yaml"
"""The recipe with every default; a folder that holds it is a run's."""

_OWN_FOLDERS = {"checkpoints", "samples", "sft"}


class WriteError(OSError):
    """A file of the run cannot be written; the message names it."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file that cannot be written, on a full disk for instance; the reason alone does not.

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
    """Python's own, and those of Rust writers (tokenizers, safetensors), which only say so in their text."""
    return isinstance(error, OSError) or re.search(r"\(os error \d+\)", str(error)) is not None


def write_whole(path: Path, text: str, durable: bool = True) -> None:
    """Write a file so that it is either the old or the new one, whatever fails.

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
    """Content of a file of the run; people's editors and copies damage them.

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
    with writing(path), path.open("ab", buffering=0) as file:  # a buffer would be written again when it closes
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
    """The step that a name `step_<digits>` of a run's own file or folder says; None for any other name.

    People keep copies beside them (`step_000100_best`), which are not the run's to read, count or remove.
    """
    found = re.fullmatch(rf"step_([0-9]+){re.escape(ending)}", name)
    return int(found[1]) if found else None
