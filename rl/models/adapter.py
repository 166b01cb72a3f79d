"""LoRA: a trained change of low rank beside a frozen matrix, or beside each matrix of a stack.

Example: a matrix of 2048 x 2048 with rank 16 and alpha 32. A is 16 x 2048, B is 2048 x 16 and zero at the start; the
layer computes W x + (32 / 16) B (A x) and trains 65,536 numbers instead of 4,194,304.

Source: Hu et al., arXiv 2106.09685, section 4.1; the scale alpha / rank is that of PEFT's `lora_alpha`.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from redraft.rl.parallel.pieces import own_rows, whole

Product = Callable[[Tensor, Tensor], Tensor]
"""Multiplies rows by a matrix, or by the matrices of a stack that they belong to."""


class Adapted(NamedTuple):
    """What was asked of the adapters of a network.

    Attributes:
        rank: Of every adapter.
        alpha: Numerator of the scale.
        targets: `attention`, or `all` for the routed experts too.
        base: Folder or hub name of the frozen weights.
        revision: Commit of a hub name.
    """

    rank: int
    alpha: float
    targets: Literal["attention", "all"]
    base: str
    revision: str | None = None


class Adapter(nn.Module):
    """The change ``scale * B @ A`` of one matrix, or of every matrix of a stack.

    Args:
        shape: Of the matrix, (outputs, inputs), or of the stack, (matrices, outputs, inputs).
        rank: Rows of A.
        scale: Factor of the product.
        like: Tells device and dtype of A and B.

    Attributes:
        enabled: False computes with the frozen weights alone; see `adapters_off`.
        ranks: The ranks that hold the stack in equal parts; None if this process holds it whole.
    """

    ranks: ProcessGroup | None = None

    def __init__(self, shape: torch.Size, rank: int, scale: float, like: Tensor) -> None:
        super().__init__()
        *stack, outputs, inputs = shape
        self.scale, self.enabled = scale, True
        self.A = nn.Parameter(like.new_empty(*stack, rank, inputs))
        self.B = nn.Parameter(like.new_zeros(*stack, outputs, rank))

    def forward(self, inputs: Float[Tensor, "*n i"], product: Product = F.linear) -> Float[Tensor, "*n o"]:
        """Compute ``scale * B (A x)`` in the type of the inputs."""
        a, b = (self.A, self.B) if self.ranks is None else (part.to_local() for part in (self.A, self.B))
        return product(product(inputs, a.to(inputs.dtype)) * self.scale, b.to(inputs.dtype))


def adapted(
    outputs: Float[Tensor, "*n o"], adapter: nn.Module | None, inputs: Float[Tensor, "*n i"], product: Product
) -> Float[Tensor, "*n o"]:
    """Add an adapter's change to the outputs of its frozen weights, if there is one and it is enabled."""
    if adapter is None or not adapter.enabled:
        return outputs
    return outputs + adapter(inputs, product)


def with_product(
    weight: Float[Tensor, "*stack o i"],
    a: Float[Tensor, "*stack rank i"],
    b: Float[Tensor, "*stack o rank"],
    scale: float,
) -> Float[Tensor, "*stack o i"]:
    """Compute ``weight + scale * b @ a`` in the widest type of the three, fp32 at least."""
    wide = torch.promote_types(torch.promote_types(weight.dtype, a.dtype), torch.float32)
    return torch.add(weight.to(wide), b.to(wide) @ a.to(wide), alpha=scale)


class AdaptableLinear(nn.Linear):
    """A linear layer without bias that may have an adapter."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.adapter: Adapter | None = None

    def forward(self, input: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """Map every position by itself."""
        return adapted(super().forward(input), self.adapter, input, F.linear)


@contextlib.contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Compute with the frozen weights alone inside the context: the policy that the run started from."""
    adapters = [module for module in model.modules() if isinstance(module, Adapter)]
    for adapter in adapters:
        adapter.enabled = False
    try:
        yield
    finally:
        for adapter in adapters:
            adapter.enabled = True


def adapters_of(model: nn.Module) -> dict[str, Adapter]:
    """Find all adapters of a network, each under the name of its frozen parameter."""
    found: dict[str, Adapter] = {}
    for name, module in model.named_modules():
        adapter = getattr(module, "adapter", None)
        parts = {"weight": adapter} if isinstance(adapter, Adapter) else dict((adapter or nn.ModuleDict()).items())
        found |= {f"{name}.{kind}": part for kind, part in parts.items()}
    return found


Merge = Callable[[str, int, Tensor], Tensor]
"""Turns (name of a parameter, first row, rows) into the rows of a network without adapters."""


@torch.no_grad()
def merger(model: nn.Module) -> Merge | None:
    """Make a function that adds adapters to rows of the frozen weights; None if the network has no adapters.

    Every rank of a sharded network must call it, because the A of dense weights are gathered. The function gathers
    nothing: it takes rows that this rank holds (matrices, of a stack), and returns them in fp32 at least.
    """
    pairs = {
        name: (_for_rows(adapter), own_rows(adapter.B), adapter.scale) for name, adapter in adapters_of(model).items()
    }

    @torch.no_grad()
    def merge(name: str, first: int, rows: Tensor) -> Tensor:
        if name not in pairs:
            return rows
        a, (start, b), scale = pairs[name]
        cut = slice(first - start, first - start + len(rows))
        return with_product(rows, a[cut] if a.dim() == 3 else a, b[cut], scale)

    return merge if pairs else None


def _for_rows(adapter: Adapter) -> Tensor:
    """Return the A that rows of this rank need: all of it, or those of the matrices that lie here."""
    if adapter.A.dim() == 3:
        return own_rows(adapter.A).tensor
    return whole(adapter.A)
