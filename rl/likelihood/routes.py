"""Routes for the composite forward of a view: those of the rollout's own forwards, and those of an earlier pass.

A tape holds the composite inputs `[noisy ; clean]` of the canvases one after the other, see
`likelihood.score.composite_layout`.
"""

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from redraft.rl.likelihood.score import composite_layout
from redraft.rl.views import View
from redraft.rl.views.canvas import CanvasBatch
from redraft.rollout.engine.route_tape import Routes


def trajectory_routes(batch: CanvasBatch, step: Int[Tensor, "batch blocks"]) -> Routes:
    """Look up the routes of a trajectory view as the rollout engine recorded them.

    A noisy block that shows the state before decoder forward f gets the routes of that forward, prompt positions in it
    included: the engine ran them in the same state. All other positions are -1 and routed live. Those are the blocks
    without a state, and the clean half: the engine does not record its pass over a final block.

    Args:
        batch: Canvases whose traces hold routes.
        step: Forward whose state a block shows, counted within the completion; -1 for a block without a state.

    Raises:
        ValueError: A trace has no routes, or no such forward.
    """
    recorded = [_recorded(batch, sequence) for sequence in range(len(batch.traces))]
    _, layers, _, k = recorded[0].shape
    layout = composite_layout(batch)
    noisy = step[:, layout.start // layout.block_length :].tolist()
    blocks = layout.num_rows // layout.block_length  # of one canvas's composite input
    table = np.full((layers, len(noisy), blocks, batch.block_length, k), -1, dtype=np.int16)
    for sequence, forwards in enumerate(noisy):
        for block, forward in enumerate(forwards):
            if forward >= len(recorded[sequence]):
                raise ValueError(
                    f"sequence {sequence} has no forward {forward}; it took part in {len(recorded[sequence])}"
                )
            if forward >= 0:
                table[:, sequence, block] = recorded[sequence][forward]
    return torch.from_numpy(table).flatten(1, 3).to(batch.tokens.device)


def earlier_routes(batch: CanvasBatch, view: View, used: Routes) -> Routes:
    """Take the routes that an earlier pass over the same view used, such as the old policy's.

    Only those that a scored position depends on: its own block, and the clean copies of earlier blocks. All others are
    routed live, so that the agreement does not depend on which canvases share a micro-batch.

    Args:
        batch: Canvases; micro-batches must be split as they were in the earlier pass.
        view: What was scored.
        used: `RouteTape.routes` of that pass.
    """
    layout, size = composite_layout(batch), batch.block_length
    scored = view.scored.unflatten(1, (-1, size)).any(-1)
    before_scored = scored.flip(1).cumsum(1).flip(1) - scored.long() > 0
    noisy, clean = (blocks.repeat_interleave(size, dim=1) for blocks in (scored, before_scored))
    read = torch.cat([noisy[:, layout.start :], clean[:, : layout.clean_length]], dim=1).flatten()
    return used.masked_fill(~read[None, :, None], -1)


def _recorded(batch: CanvasBatch, sequence: int) -> NDArray[np.int16]:
    routes = batch.traces[sequence].routes
    if routes is None:
        raise ValueError(f"the trace of sequence {sequence} holds no routes: decode with record_routes: true")
    return routes
