"""Micro-batches: completions that are scored together, and their scored positions as terms of the loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from redraft.rl.likelihood.routes import trajectory_routes
from redraft.rl.objective.terms import LogProbs, Terms
from redraft.rl.protocols import Experience
from redraft.rl.views import View, draws_mark
from redraft.rl.views.canvas import CanvasBatch
from redraft.rollout.blocks import padded_length
from redraft.rollout.engine.route_tape import Routes


@dataclass
class MicroBatch:
    """Completions that are scored together, their views, and log-probabilities that do not change in an update.

    Attributes:
        batch: The canvases.
        views: What is scored; each view costs one composite forward.
        mark: `draws_mark` of the views as they were drawn.
        routes: Per view, the experts to replay or to compare with; None where there are none.
        old: Log-probabilities under the policy that wrote the rollouts. None while that policy is the one that takes
            the optimizer step: then all ratios are 1, whatever the values.
        reference: Log-probabilities under the reference policy; None if the loss has none.
    """

    batch: CanvasBatch
    views: list[View]
    mark: int
    routes: list[Routes | None]
    old: LogProbs | None = None
    reference: LogProbs | None = None

    @classmethod
    def of(cls, batch: CanvasBatch, views: list[View], recorded_routes: bool = False) -> "MicroBatch":
        """Put views together, perhaps with the routes that the rollout engine recorded for the states they show."""
        steps = [view.denoising_step if recorded_routes else None for view in views]
        routes = [None if step is None else trajectory_routes(batch, step) for step in steps]
        return cls(batch, views, draws_mark(views), routes)

    @property
    def sizes(self) -> list[int]:
        """Scored positions per view."""
        return [int(view.scored.sum()) for view in self.views]

    @property
    def old_or_zeros(self) -> LogProbs:
        """The old policy's log-probabilities, or zeros where only their differences matter, which are 0 then."""
        if self.old is not None:
            return self.old
        device = self.batch.tokens.device
        return LogProbs(torch.zeros(sum(self.sizes), dtype=torch.float64, device=device), self.mark)

    def leave_out(self, sequences: Bool[Tensor, " batch"]) -> None:
        """Score nothing of some sequences.

        An advantage of 0 alone would not do: the sequences would still count in a KL.
        """
        kept = ~sequences
        self.batch = replace(self.batch, advantages=self.batch.advantages * kept)
        self.views = [
            replace(view, scored=view.scored & kept[:, None], weight=view.weight * kept[:, None]) for view in self.views
        ]


def idle_microbatch(block_length: int, pad_id: int, device: torch.device) -> MicroBatch:
    """Make a micro-batch of one block of padding with one view that scores nothing.

    It stands for the rows of a rank that has none: it adds to no sum, and costs one forward per phase.
    """
    tokens = torch.full((1, block_length), pad_id, device=device)
    nothing, zero = torch.zeros_like(tokens, dtype=torch.bool), torch.zeros(1, dtype=torch.int64, device=device)
    batch = CanvasBatch(
        tokens=tokens,
        editable=nothing,
        advantages=zero.double(),
        noise_seeds=zero,
        groups=zero,
        traces=(),
        prompt_lengths=(0,),
        block_length=block_length,
    )
    views = [View(noisy=tokens, target=tokens, scored=nothing, weight=nothing.double(), edit=nothing)]
    return MicroBatch.of(batch, views)


def composite_tokens(rows: Sequence[Experience], block_length: int) -> int:
    """Count the tokens of the composite input of some completions: clean canvases, noisy copies of editable blocks.

    All completions are padded to the longest one, and all noisy halves start where the shortest prompt ends.
    """
    prompts = [len(row.prompt.token_ids) for row in rows]
    ends = [prompt + len(row.completion.canvas_ids) for prompt, row in zip(prompts, rows, strict=True)]
    start = min(prompts) // block_length * block_length
    return len(rows) * (2 * padded_length(max(ends), block_length) - start)


def split_by_tokens(rows: Sequence[Experience], block_length: int, budget: int) -> list[list[Experience]]:
    """Split completions into micro-batches whose padded composite inputs hold at most `budget` tokens.

    A completion that is larger than the budget gets a micro-batch of its own. Completions are sorted by size first, so
    that a micro-batch pads little. The sum of the gradients does not depend on the split: every normaliser is a
    constant of the whole batch.
    """
    groups: list[list[Experience]] = []
    for row in sorted(rows, key=lambda row: composite_tokens([row], block_length), reverse=True):
        if groups and composite_tokens([*groups[-1], row], block_length) <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def scored_terms(micros: Sequence[MicroBatch]) -> Terms:
    """List the scored positions of all views as terms: micro-batch by micro-batch, view by view.

    Sequences are numbered through all micro-batches.
    """
    of_positions: list[dict[str, Tensor]] = []
    of_sequences: list[dict[str, Tensor]] = []
    first_sequence = 0
    for micro in micros:
        for number, view in enumerate(micro.views):
            of_positions.append(_position_columns(view, number, first_sequence))
        of_sequences.append(_sequence_columns(micro.batch))
        first_sequence += len(micro.batch.tokens)
    return Terms(**_joined(of_positions), **_joined(of_sequences))


def _position_columns(view: View, number: int, first_sequence: int) -> dict[str, Tensor]:
    """The fields of `Terms` that have one entry per scored position, for one view."""
    scored = view.scored
    sequence, position = scored.nonzero(as_tuple=True)
    if view.rollout_log_prob is None:
        engine = torch.full(sequence.shape, torch.nan, dtype=torch.float64, device=sequence.device)
    else:
        engine = view.rollout_log_prob[scored].double()
    return {
        "sequence": first_sequence + sequence,
        "position": position,
        "view": torch.full_like(sequence, number),
        "weight": view.weight[scored].double(),
        "edit": view.edit[scored],
        "anchor": torch.full_like(sequence, view.anchor, dtype=torch.bool),
        "engine": engine,
    }


def _sequence_columns(batch: CanvasBatch) -> dict[str, Tensor]:
    """The fields of `Terms` that have one entry per sequence."""
    return {
        "advantage": batch.advantages,
        "editable": batch.editable.sum(-1).double(),
        "group": batch.groups,
    }


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
