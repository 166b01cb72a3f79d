"""Routes for the composite forward of a view: those of the rollout's own forwards, and those of an earlier pass.

The composite input of a row is `[noisy from the first editable block on ; whole clean canvas]`; rows follow each other,
as the routers see them.
"""

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from rl.batch import CanvasBatch
from rl.route_tape import Routes


def trajectory_routes(batch: CanvasBatch, step: Int[Tensor, "batch blocks"]) -> Routes:
    """Routes of a trajectory view as the rollout engine recorded them.

    A noisy block that shows the state before decoder forward f gets the routes of that forward, prompt slots in it
    included: the engine ran them in the same state. All else is -1, routed live: blocks without a state, and the
    clean half, which gives the context (the engine's pass over a committed block is not recorded).

    Args:
        batch: Canvases whose traces hold routes.
        step: Forward whose state a block shows, counted within the completion; -1: none.

    Raises:
        ValueError: A trace has no routes, or no such forward.
    """
    recorded = [_recorded(batch, row) for row in range(len(batch.traces))]
    _, layers, _, k = recorded[0].shape
    noisy = step[:, batch.first_editable // batch.block_length :].tolist()
    blocks = len(noisy[0]) + step.shape[1]  # of a row's composite input
    table = np.full((layers, len(noisy), blocks, batch.block_length, k), -1, dtype=np.int16)
    for row, forwards in enumerate(noisy):
        for block, forward in enumerate(forwards):
            if forward >= len(recorded[row]):
                raise ValueError(f"row {row} has no forward {forward}; it took part in {len(recorded[row])}")
            if forward >= 0:
                table[:, row, block] = recorded[row][forward]
    return torch.from_numpy(table).flatten(1, 3).to(batch.tokens.device)


def earlier_routes(batch: CanvasBatch, used: Routes) -> Routes:
    """Routes that an earlier pass over the same view used, as the old policy's; padding is left to the live router.

    Nothing reads what padding becomes, so it shall not count in the agreement either.

    Args:
        batch: Canvases; micro-batches must be split as they were in the earlier pass.
        used: `RouteTape.routes` of that pass.
    """
    length = batch.tokens.shape[1]
    ends = (torch.arange(length, device=batch.tokens.device) * batch.editable).amax(-1, keepdim=True)
    real = torch.arange(length, device=batch.tokens.device) <= ends
    inside = torch.cat([real[:, batch.first_editable :], real], dim=1).flatten()
    return used.masked_fill(~inside[None, :, None], -1)


def _recorded(batch: CanvasBatch, row: int) -> NDArray[np.int16]:
    routes = batch.traces[row].routes
    if routes is None:
        raise ValueError(f"the trace of row {row} holds no routes: decode with record_routes=True")
    return routes
