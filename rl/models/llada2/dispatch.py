"""Exchange routed rows between ranks that hold different experts.

Each rank has tokens of its own and some of the experts of every layer. A row travels to the rank of its expert and its
output travels back, both by one all-to-all; sums over a token's experts are made where the token is. No sum of the
forward depends on an order of arrival: what is received is sorted by expert, then by sender, then by the sender's own
order.

Source: expert parallelism with data-parallel ranks (GShard, arXiv 2006.16668, section 3.2).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed._functional_collectives import all_to_all_single, all_to_all_single_autograd, wait_tensor


class Exchange(NamedTuple):
    """Where the rows of one layer go, and in which order they stand there.

    Attributes:
        sent: Rows to each rank.
        received: Rows from each rank.
        order: For each place in the order of local experts, the received row that stands there.
        ends: End of each local expert's rows in that order.
        group: The ranks.
    """

    sent: list[int]
    received: list[int]
    order: Int[Tensor, " rows"]
    ends: Int32[Tensor, " local_experts"]
    group: ProcessGroup

    def there(self, rows: Float[Tensor, "m h"]) -> Float[Tensor, "rows h"]:
        """Send rows, sorted by expert, to the ranks of their experts; return what came, sorted by local expert."""
        arrived = wait_tensor(all_to_all_single_autograd(rows, self.received, self.sent, self.group))
        return arrived.index_select(0, self.order)

    def back(self, outputs: Float[Tensor, "rows o"]) -> Float[Tensor, "m o"]:
        """Send outputs to where their rows came from; return those of this rank's rows, in the order of `there`."""
        ready = outputs.index_select(0, self.order.argsort())
        return wait_tensor(all_to_all_single_autograd(ready, self.sent, self.received, self.group))


def plan_exchange(experts: Int[Tensor, " m"], num_experts: int, group: ProcessGroup) -> Exchange:
    """Tell all ranks how many rows come for each of their experts.

    Args:
        experts: Places in the stacked parameter, sorted; rank r of the group holds the r-th equal part of the places.
        num_experts: Of all ranks.
        group: The ranks.
    """
    world = group.size()
    counts = experts.bincount(minlength=num_experts)
    arriving = wait_tensor(all_to_all_single(counts, None, None, group)).view(world, -1)  # sender, local expert
    local = torch.arange(arriving.shape[1], device=counts.device).repeat(world)
    order = local.repeat_interleave(arriving.flatten()).argsort(stable=True)
    return Exchange(
        sent=counts.view(world, -1).sum(1).tolist(),
        received=arriving.sum(1).tolist(),
        order=order,
        ends=arriving.sum(0).cumsum(0).to(torch.int32),
        group=group,
    )
