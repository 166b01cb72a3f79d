"""Load or generate the rows of a data section, transform and check them, and choose those of each batch."""

import contextlib
import hashlib
import importlib
import inspect
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jinja2 import TemplateError

from redraft.rl.config.sections import DataConfig
from redraft.rl.data.files import DataError, load_files, source_name
from redraft.rl.data.rows import PlacedRow, Row, check_row
from redraft.rl.data.tasks import GENERATORS, TRANSFORMS
from redraft.rl.seeding import derive_seed, make_generator


def load_rows(config: DataConfig, seed: int) -> list[Row]:
    """Load, transform and check one set of rows.

    Args:
        config: Where the rows come from; a single local file has no splits.
        seed: Seed of the sample taken when `max_rows` is set.

    Returns:
        Rows with at least a `prompt`: text, or chat messages.

    Raises:
        DataError: The source is missing, unreadable or empty, or a row has no `prompt`.
    """
    named = _named_rows(config)
    if config.transform:
        named = _transformed(config, named)
    elif config.kwargs and config.path not in GENERATORS:
        raise DataError(
            f"data.kwargs of {config.path}: nothing takes {', '.join(config.kwargs)} without a transform; empty them"
            " with data.kwargs={} (evaluation.data.kwargs={}, sft.data.kwargs={})"
        )
    rows: list[Row] = []
    for where, row in named:
        with located(where):
            check_row(row)
        rows.append(PlacedRow(row, where))
    if not rows:
        raise DataError(f"{source_name(config)}: no rows" + " after the transform" * bool(config.transform))
    return sample_rows(rows, config.max_rows, seed)


def sample_rows(rows: list[Row], max_rows: int | None, seed: int) -> list[Row]:
    """Draw a seeded sample of `max_rows` rows; return all rows where there are no more."""
    if not max_rows or max_rows >= len(rows):
        return rows
    return random.Random(derive_seed(seed, "max_rows")).sample(rows, max_rows)


@contextlib.contextmanager
def located(where: str) -> Iterator[None]:
    """Put the place of a row before the error that is raised about it."""
    try:
        yield
    except (ValueError, TemplateError) as error:  # chat templates raise TemplateError about a message they refuse
        raise DataError(f"{where}: {error}") from error


def rows_fingerprint(rows: Sequence[Row]) -> str:
    """Hash all rows. Checkpoints keep the hash, so that a resumed run notices changed data."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def batch_indices(num_rows: int, prompts_per_step: int, seed: int, step: int) -> list[int]:
    """Choose the rows of one batch: batch after batch walks through seeded permutations of all rows.

    With 5 rows and 3 prompts per batch, batch 1 gets the last two rows of the first permutation and the first row of
    the second. The choice depends on the arguments only, so a resumed run makes the same one.
    """
    first = step * prompts_per_step
    indices: list[int] = []
    while len(indices) < prompts_per_step:
        epoch, offset = divmod(first + len(indices), num_rows)
        order = torch.randperm(num_rows, generator=make_generator(seed, "prompts", epoch))
        indices += order[offset : offset + prompts_per_step - len(indices)].tolist()
    return indices


def _named_rows(config: DataConfig) -> list[tuple[str, Row]]:
    """Load or generate rows, each with what errors call it."""
    if config.path not in GENERATORS:
        return load_files(config)
    generate = GENERATORS[config.path]
    _check_arguments(generate, config.path, config.kwargs)
    rows = generate(config.split, **config.kwargs)
    return [(f"{source_name(config)}: row {number}", row) for number, row in enumerate(rows, start=1)]


def _transformed(config: DataConfig, named: list[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """Transform every row into any number of rows; errors call each as the row that it was made from."""
    assert config.transform is not None
    transform = _find_transform(config.transform)
    kwargs = {} if config.path in GENERATORS else config.kwargs
    _check_arguments(transform, config.transform, kwargs)
    result = []
    for where, row in named:
        with located(where):
            made = transform(row, **kwargs)
        if not isinstance(made, list) or not all(isinstance(one, dict) for one in made):
            raise DataError(f"{where}: the transform {config.transform} must return a list of rows, got {made!r:.60}")
        result += [(where, one) for one in made]
    return result


def _check_arguments(function: Callable[..., Any], name: str, kwargs: dict[str, Any]) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(None, **kwargs)  # the split or the row comes first
    except TypeError as error:
        valid = ", ".join([*signature.parameters][1:]) or "none"
        raise DataError(f"data.kwargs of {name}: {error}; valid keys: {valid}") from None


def _find_transform(name: str) -> Callable[..., Any]:
    if name in TRANSFORMS:
        return TRANSFORMS[name]
    module, colon, function = name.partition(":")
    if not colon:
        known = ", ".join(sorted(TRANSFORMS))
        raise DataError(f"data.transform {name!r}: known transforms are {known}; or write pkg.module:function")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise DataError(f"data.transform {name!r}: {error}") from None
    if not callable(found):
        raise DataError(f"data.transform {name!r}: not a function but {type(found).__name__}")
    return found
