"""LoRA adapters of the network: add them, and draw them.

**Guarantees**
    * At the start every B is zero, so the network computes what its frozen weights compute.
    * The numbers of A depend on the run's seed, the tensor's name and the expert's number alone: any number of ranks
      draws the same ones.

**Rejected alternatives**
    * An adapter for gate and up projection of an expert each: they are one matrix here, so one A serves both.
    * Adapters of dense MLPs and shared experts: LLaDA2.1-mini's would be half a percent of those of its routed experts.
    * Merging into the weights and taking the product out again: fp32 does not give the same weights back.
"""

import torch
from torch import Tensor, nn

from redraft.rl.models.adapter import AdaptableLinear, Adapted, Adapter, adapters_of
from redraft.rl.models.llada2.model import LLaDA2Model
from redraft.rl.models.llada2.moe import Experts
from redraft.rl.parallel.pieces import own_rows
from redraft.rl.seeding import make_generator


def add_adapters(model: LLaDA2Model, adapted: Adapted, dtype: torch.dtype) -> None:
    """Freeze all weights and put adapters beside some of them; `init_adapters` draws their numbers.

    Args:
        model: Network, also on the meta device, not sharded yet.
        adapted: Rank, scale and targets.
        dtype: Of the adapters.
    """
    model.requires_grad_(False)
    model.adapted = adapted
    scale, like = adapted.alpha / adapted.rank, next(model.parameters()).new_empty(0, dtype=dtype)
    for module in model.modules():
        if isinstance(module, AdaptableLinear):
            module.adapter = Adapter(module.weight.shape, adapted.rank, scale, like)
        elif isinstance(module, Experts) and adapted.targets == "all":
            stacks = {"gate_up_proj": module.gate_up_proj, "down_proj": module.down_proj}
            adapters = {name: Adapter(stack.shape, adapted.rank, scale, like) for name, stack in stacks.items()}
            module.adapter = nn.ModuleDict(adapters)


@torch.no_grad()
def init_adapters(model: LLaDA2Model, seed: int) -> None:
    """Set every B to zero and draw every A from U(-b, b) with b = inputs^-1/2, as PEFT does.

    Args:
        model: Network with adapters on a real device, sharded or not.
        seed: The run's seed.
    """
    for name, adapter in adapters_of(model).items():
        own_rows(adapter.B).tensor.zero_()
        first, own = own_rows(adapter.A)
        shape, bound = adapter.A.shape[-2:], adapter.A.shape[-1] ** -0.5
        if adapter.A.dim() == 2:
            own.copy_(_drawn(shape, bound, seed, name)[first : first + len(own)])
            continue
        for row, matrix in enumerate(own):
            matrix.copy_(_drawn(shape, bound, seed, name, int(model.config.expert_at(first + row))))


def _drawn(shape: torch.Size, bound: float, seed: int, name: str, *expert: int) -> Tensor:
    generator = make_generator(seed, f"adapter {name}", *expert)
    return torch.empty(shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
