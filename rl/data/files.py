"""Read rows from local files, packed or not, and from the hub.

JSONL is read here and not by the datasets library, so that an error names the file and the line.
"""

import bz2
import contextlib
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from redraft.rl.config.sections import DataConfig
from redraft.rl.data.tasks import GENERATORS, Row
from redraft.rl.files import expand
from redraft.words import did_you_mean

JSONL = (".jsonl", ".ndjson")
LOADERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".json": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".parquet": ("parquet", {}),
}
"""Local files that the datasets library reads, by ending."""
PACKED = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\x00"}
"""Endings of packed files, and how their content begins."""
READABLE = f"{', '.join([*JSONL, *LOADERS])}, all but .parquet also packed as {', '.join(PACKED)}"
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_OTHER_FILES = re.compile(
    r"\.(txt|md|yaml|yml|zip|tar|tgz|zst|lz4|7z|arrow|feather|orc|avro|xlsx?|pkl|npy|npz|pt|h5|py)$"
)
_HUB_NAME = re.compile(r"[\w.\-]+(/[\w.\-]+)?")
_ESCAPES = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL)
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError)
_ZSTANDARD = b"\x28\xb5\x2f\xfd"


class DataError(ValueError):
    """A data set or a row that cannot be used."""


def source_name(config: DataConfig) -> str:
    """Return what errors call a set of rows."""
    return f"{config.path} ({config.split})"


def read_jsonl(path: str | Path) -> list[tuple[int, Row]]:
    """Read a JSONL file, packed or not.

    Returns:
        Line numbers, from 1, and rows.

    Raises:
        DataError: There is no such file, it has no rows, or a line is no JSON object; names file and line.
    """
    path = expand(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder; a JSONL file is needed")
    if not path.exists():
        raise DataError(f"{path}: no such file")
    with open_lines(path) as lines:
        rows = [(number, _row(line, f"{path}:{number}")) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise DataError(f"{path}: the file has no rows")
    return rows


def load_files(config: DataConfig) -> list[tuple[str, Row]]:
    """Read a local file or folder, or a data set of the hub, into rows, each with what errors call it.

    Raises:
        DataError: There is no such file or data set, or it cannot be read.
    """
    path = expand(config.path)
    ending = _ending(path)
    if path.exists() and not path.is_dir():
        if ending is None:
            raise DataError(f"{path}: files that can be read end in {READABLE}")
        if ending in JSONL:
            return [(f"{config.path}:{line}", row) for line, row in read_jsonl(path)]
        if ending == ".json":
            _check_escapes(path)
    elif not path.exists():
        _refuse_files(config.path, ending)
    name = source_name(config)
    return [(f"{name}: row {number}", row) for number, row in enumerate(_load(config, path, ending), start=1)]


def _ending(path: Path) -> str | None:
    """Return a file's ending without that of its packing, or None if files of that ending cannot be read."""
    name = path.name.lower()
    packing = next((end for end in PACKED if name.endswith(end)), "")
    ending = Path(name.removesuffix(packing)).suffix
    return ending if ending in JSONL or (ending in LOADERS and not (packing and ending == ".parquet")) else None


def _refuse_files(path: str, ending: str | None) -> None:
    """Refuse a path that looks like a missing file: an error of the hub would send the user the wrong way."""
    packed = path.lower().endswith((*PACKED, *LOADERS))
    if ending or packed or _OTHER_FILES.search(path.lower()) or not _HUB_NAME.fullmatch(path) or path.startswith("."):
        raise DataError(f"{path}: no such file or folder")
    if guess := did_you_mean(path, GENERATORS, cutoff=0.8, kind="the generated data set"):
        raise DataError(f"{path}: {guess} a hub data set is written owner/name")


@contextlib.contextmanager
def open_lines(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading lines, unpacked. Its first bytes say how it is packed, not its name."""
    with path.open("rb") as raw:
        start = raw.peek(8)
        if start.startswith(_ZSTANDARD):
            raise DataError(f"{path}: packed with zstd; unpack it, or pack it as {' or '.join(PACKED)}")
        packing = next((end for end, magic in PACKED.items() if start.startswith(magic)), None)
        try:
            yield _OPENERS[packing](raw) if packing else raw
        except (*_DAMAGED, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: damaged, or cut off: {error}") from None


def _check_escapes(path: Path) -> None:
    """Refuse halves of surrogate pairs in a JSON file: the datasets library would drop them silently."""
    with open_lines(path) as lines:
        for number, line in enumerate(lines, start=1):
            half = next((found[1] for found in _ESCAPES.finditer(line) if found[1]), None)
            if half:
                raise DataError(
                    f"{path}:{number}: \\{half.decode(errors='replace')} is half of a surrogate pair and no character;"
                    " write the whole character, or U+FFFD"
                )


def _row(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not valid UTF-8: {error}") from None
    except (ValueError, RecursionError) as error:  # not only JSONDecodeError: Python converts at most 4300 digits
        raise DataError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: a row is a JSON object, got {type(row).__name__}")
    return row


def _load(config: DataConfig, path: Path, ending: str | None) -> list[Row]:
    import datasets
    from datasets.exceptions import DatasetsError

    is_local = path.exists()
    try:
        if is_local and not path.is_dir():
            assert ending is not None
            loader, options = LOADERS[ending]
            loaded = datasets.load_dataset(loader, data_files=str(path), split="train", **options)
        elif is_local:
            loaded = datasets.load_dataset(str(path), split=config.split)
        else:
            loaded = datasets.load_dataset(config.path, config.name, split=config.split)
        return [dict(row) for row in loaded]  # pyright: ignore[reportArgumentType, reportCallIssue]
    except (
        OSError,
        ValueError,
        StopIteration,
        *_DAMAGED,
        DatasetsError,
    ) as error:  # StopIteration: a file without rows
        for file in sorted(path.glob("*.jsonl*")):
            read_jsonl(file)  # names the file and the line where a row is malformed
        reason = str(error.__cause__ or error) or "a file has no rows"
        hint = "" if is_local else "; give a local copy with data.path=FOLDER (and evaluation.data.path, sft.data.path)"
        raise DataError(f"{source_name(config)}: cannot load the data set: {reason}{hint}") from error
