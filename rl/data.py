"""Rows for learning and evaluation: generated tasks, hub data sets and local files, and their order."""

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rl.config import DataConfig
from rl.seeding import derive_seed, make_generator
from rl.tasks import GENERATORS, TRANSFORMS, Row


class DataError(ValueError):
    """A data set or a row that cannot be used."""


def load_rows(config: DataConfig, seed: int) -> list[Row]:
    """Load, transform and check one set of rows.

    Args:
        config: Where the rows come from.
        seed: Seed of the sample taken when `max_rows` is set.

    Returns:
        Rows with at least a `prompt`.

    Raises:
        DataError: The source is missing, unreadable, empty, or its rows have no `prompt`.
    """
    if config.path in GENERATORS:
        rows = GENERATORS[config.path](config.split, **config.kwargs)
    else:
        rows = _load_dataset(config)
        if config.transform:
            transform = _find_transform(config.transform)
            rows = [made for row in rows for made in transform(row, **config.kwargs)]
    if not rows:
        raise DataError(f"{config.path} ({config.split}): no rows" + (" after the transform" * bool(config.transform)))
    if "prompt" not in rows[0]:
        raise DataError(
            f"{config.path} ({config.split}): rows need a `prompt`, got the columns {', '.join(rows[0])};"
            " write a transform (pkg.module:function, row -> list of rows) and name it in data.transform"
        )
    if config.max_rows and config.max_rows < len(rows):
        rows = random.Random(derive_seed(seed, "max_rows")).sample(rows, config.max_rows)
    return rows


def read_jsonl(path: str | Path) -> list[Row]:
    """Rows of a JSONL file; a bad row is named by file and line."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}:{number}: not valid JSON: {error}") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: a row is a JSON object, got {type(row).__name__}")
            rows.append(row)
    if not rows:
        raise DataError(f"{path}: the file has no rows")
    return rows


def rows_fingerprint(rows: Sequence[Row]) -> str:
    """Hash of all rows, kept in checkpoints so that a resumed run notices changed data."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def step_indices(num_rows: int, prompts_per_step: int, seed: int, step: int) -> list[int]:
    """Which rows optimizer step `step` learns from: epochs of seeded permutations, as a pure function of the step."""
    first = step * prompts_per_step
    indices: list[int] = []
    while len(indices) < prompts_per_step:
        epoch, offset = divmod(first + len(indices), num_rows)
        order = torch.randperm(num_rows, generator=make_generator(seed, "prompts", epoch))
        indices += order[offset : offset + prompts_per_step - len(indices)].tolist()
    return indices


def _load_dataset(config: DataConfig) -> list[Row]:
    if config.path.endswith(".jsonl"):
        return read_jsonl(config.path)
    import datasets
    from datasets.exceptions import DatasetsError

    # A path that looks local must not be looked up on the hub: the error would send the user the wrong way.
    if config.path.startswith((".", "/", "~")) and not Path(config.path).expanduser().exists():
        raise DataError(f"{config.path}: no such file or folder")
    path = str(Path(config.path).expanduser()) if config.path.startswith("~") else config.path
    try:
        loaded = datasets.load_dataset(path, config.name, split=config.split)
    except (OSError, ValueError, DatasetsError) as error:
        for file in sorted(Path(path).glob(f"*{config.split}*.jsonl")):
            read_jsonl(file)  # names the file and the line where a row is malformed
        raise DataError(
            f"{config.path} ({config.split}): cannot load the data set: {error};"
            " give a local copy with data.path=FOLDER (and evaluation.data.path, sft.data.path)"
        ) from error
    return [dict(row) for row in loaded]  # pyright: ignore[reportArgumentType, reportCallIssue]


def _find_transform(name: str) -> Any:
    if name in TRANSFORMS:
        return TRANSFORMS[name]
    module, colon, function = name.partition(":")
    if not colon:
        known = ", ".join(sorted(TRANSFORMS))
        raise DataError(f"data.transform {name!r}: known transforms are {known}; or write pkg.module:function")
    import importlib

    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise DataError(f"data.transform {name!r}: {error}") from None
