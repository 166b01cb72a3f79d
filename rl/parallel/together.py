"""Several ranks in lockstep, over a process group."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from redraft.rl.parallel.lockstep import Result, Row, Value


class Together:
    """The ranks of a process group.

    Args:
        group: The ranks; the default process group without it.
        device: Of the collectives' tensors.
        late: Modules whose gradients are added up over the ranks by the last backward pass of a phase alone
            (`shard.late_modules`), and lie whole on each rank until then, in the type of the reduction.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        device: torch.device | str = "cpu",
        late: Sequence[FSDPModule] = (),
    ) -> None:
        self.group, self.device, self.late = group, device, late
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)

    def share(self, units: Sequence[Sequence[Row]], cost: Callable[[Sequence[Row]], float]) -> list[Row]:
        """Give the most expensive unit that is left to the rank with the least to do; rows stay in their order."""
        costs = [cost(unit) for unit in units]
        loads, mine = [0.0] * self.world, []
        for index in sorted(range(len(units)), key=lambda index: (-costs[index], index)):
            rank = min(range(self.world), key=lambda rank: (loads[rank], rank))
            loads[rank] += costs[index]
            if rank == self.rank:
                mine.append(index)
        return [row for index in sorted(mine) for row in units[index]]

    def run(
        self, calls: Sequence[Callable[[], Result]], idle: Callable[[], object], backward: bool = False
    ) -> list[Result]:
        """Agree on the number of calls first; a rank that has fewer idles at the end."""
        most = int(self.largest(torch.tensor(len(calls), device=self.device)))
        results: list[Result] = []
        for number in range(most):
            for module in self.late if backward else ():
                module.set_requires_gradient_sync(number == most - 1, recurse=False)
            if number < len(calls):
                results.append(calls[number]())
            else:
                idle()
        return results

    def total(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Add in the order of the ranks, so that all of them get the same bits."""
        added: dict[str, float] = defaultdict(float)
        for one in self.gather(dict(sums)):
            for name, value in one.items():
                added[name] += value
        return dict(added)

    def largest(self, value: Tensor) -> Tensor:
        """Take the maximum of all ranks."""
        number = value.detach().clone()
        dist.all_reduce(number, op=dist.ReduceOp.MAX, group=self.group)
        return number

    def norm(self, own: Tensor) -> Tensor:
        """Compute it from all ranks' norms in the order of the ranks, so that all of them get the same bits."""
        every = [torch.zeros_like(own) for _ in range(self.world)]
        dist.all_gather(every, own, group=self.group)
        return torch.linalg.vector_norm(torch.stack(every))

    def gather(self, value: Value) -> list[Value]:
        """Send values as pickled bytes."""
        every = [value] * self.world
        dist.all_gather_object(every, value, group=self.group)
        return every
