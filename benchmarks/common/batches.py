"""Batches that the measurements cut and repeat."""

from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from redraft.rl.views.canvas import CanvasBatch


def take_rows(batch: CanvasBatch, rows: Sequence[int]) -> CanvasBatch:
    """Some rows of a batch, any number of times; what the batch holds for no row stays empty."""
    index, columns = torch.tensor(rows, device=batch.tokens.device), {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            columns[field.name] = value[index]
        elif isinstance(value, tuple) and value:
            columns[field.name] = tuple(value[row] for row in rows)
    return replace(batch, **columns)
