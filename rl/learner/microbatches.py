"""Micro-batches: completions that are scored together, and their scored positions as terms of the loss."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redraft.rl.models.route_tape import Routes
from redraft.rl.objective.terms import LogProbs, Terms
from redraft.rl.protocols import Experience
from redraft.rl.views import View
from redraft.rl.views.canvas import CanvasBatch
from redraft.rollout.blocks import padded_length


@dataclass
class MicroBatch:
    """Completions that are scored together, their views, and log-probabilities that do not change in an update."""

    batch: CanvasBatch
    views: list[View]
    mark: int
    routes: list[Routes | None]  # per view: experts to replay or to compare with
    old: LogProbs | None = None  # None: scored only while the policy is the one that made the rollouts
    reference: LogProbs | None = None

    @property
    def sizes(self) -> list[int]:
        """Scored positions per view."""
        return [int(view.scored.sum()) for view in self.views]


def composite_tokens(rows: Sequence[Experience], block_length: int) -> int:
    """Tokens of the composite input of some rows together: clean canvases and noisy copies of editable blocks.

    All rows are padded to the longest one, and their noisy halves start where the shortest prompt ends.
    """
    prompts = [len(row.prompt.token_ids) for row in rows]
    ends = [prompt + len(row.completion.canvas_ids) for prompt, row in zip(prompts, rows, strict=True)]
    start = min(prompts) // block_length * block_length
    return len(rows) * (2 * padded_length(max(ends), block_length) - start)


def split_by_tokens(rows: Sequence[Experience], block_length: int, budget: int) -> list[list[Experience]]:
    """Micro-batches whose padded composite inputs hold at most `budget` tokens (at least one row each).

    Rows are sorted by size first, so that a micro-batch pads little. The sum of the gradients does not depend on the
    split: every normaliser is a constant of the whole batch.
    """
    groups: list[list[Experience]] = []
    for row in sorted(rows, key=lambda row: composite_tokens([row], block_length), reverse=True):
        if groups and composite_tokens([*groups[-1], row], block_length) <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def scored_terms(micros: Sequence[MicroBatch]) -> Terms:
    """The scored positions of all views, view by view, with rows numbered through."""
    columns: dict[str, list[Tensor]] = defaultdict(list)
    first = 0
    for micro in micros:
        for number, view in enumerate(micro.views):
            row, position = view.scored.nonzero(as_tuple=True)
            columns["sequence"].append(row + first)
            columns["position"].append(position)
            columns["view"].append(torch.full_like(row, number))
            columns["weight"].append(view.weight[view.scored].double())
            columns["edit"].append(view.edit[view.scored])
            columns["anchor"].append(torch.full_like(row, view.anchor, dtype=torch.bool))
            engine = view.rollout_log_prob
            nothing = torch.full(row.shape, torch.nan, dtype=torch.float64, device=row.device)
            columns["engine"].append(nothing if engine is None else engine[view.scored].double())
        columns["advantage"].append(micro.batch.advantages)
        columns["editable"].append(micro.batch.editable.sum(-1).double())
        columns["group"].append(micro.batch.groups)
        first += len(micro.batch.tokens)
    return Terms(**{name: torch.cat(parts) for name, parts in columns.items()})
