"""How evenly the ranks share the rows of tokens that go to experts."""

from typing import Protocol, runtime_checkable

import torch
from torch import nn

from redraft.rl.parallel.lockstep import Lockstep


@runtime_checkable
class CountsRows(Protocol):
    """Experts of one layer that count the rows which came to this rank."""

    def take_rows(self) -> int:
        """Return the rows since the last call."""
        ...


def rank_load(model: nn.Module, lockstep: Lockstep) -> dict[str, float]:
    """Sum over layers the rows of the busiest rank, and those of a rank on average, since the last call.

    A layer takes as long as its busiest rank, so the quotient is how much longer the experts take than they need to.

    Returns:
        `busiest_rows` and `even_rows`, the same on every rank; both 0 where this process holds all experts.
    """
    own = [module.take_rows() for module in model.modules() if isinstance(module, CountsRows)]
    device = next(model.parameters()).device
    busiest = lockstep.largest(torch.tensor(own, dtype=torch.float64, device=device)) if own else torch.zeros(())
    every = lockstep.total({"rows": float(sum(own)), "ranks": 1.0})
    return {"busiest_rows": busiest.sum().item(), "even_rows": every["rows"] / every["ranks"]}
