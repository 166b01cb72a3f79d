"""The published names of the network's tensors, and where the network holds them."""

import re
from collections.abc import Iterator

from torch import Tensor

from redraft.rl.models.llada2.model import LLaDA2Model
from redraft.rl.parallel.pieces import own_rows


def published_tensors(model: LLaDA2Model) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors under their published names, as detached views: writing into one changes the model.

    The two stacked expert parameters of a layer come apart into the three matrices of every expert, in the experts'
    order. In a sharded network, the matrices are plain tensors, of the experts that this rank owns only; all other
    tensors are spread over the ranks (`DTensor`), and every rank yields them.
    """
    for name, tensor in model.state_dict().items():
        if "adapter" in name.split("."):  # trained beside the published tensors, see `lora`
            continue
        prefix, experts, kind = name.rpartition(".experts.")
        if not experts:
            yield (name if name.startswith("lm_head.") else f"model.{name}"), tensor
            continue
        first, stack = own_rows(tensor)
        owned = {model.config.expert_at(first + row): matrix for row, matrix in enumerate(stack.unbind(0))}
        for expert, matrix in sorted(owned.items()):
            parts = matrix.chunk(2) if kind == "gate_up_proj" else (matrix,)
            for part_kind, part in zip(re.findall("gate|up|down", kind), parts, strict=True):
                yield f"model.{prefix}.experts.{expert}.{part_kind}_proj.weight", part
