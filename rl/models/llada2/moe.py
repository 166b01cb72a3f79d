"""Feed-forward layers: the dense gated one, and the mixture of experts with a group-limited sigmoid router."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int32
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from redraft.rl.models.adapter import adapted
from redraft.rl.models.llada2.config import LLaDA2Config
from redraft.rollout.engine.route_tape import RouteTape


class GatedMLP(nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, hidden: Float[Tensor, "*n hidden"]) -> Float[Tensor, "*n hidden"]:
        """Map every position by itself."""
        return self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


def choose(
    scores: Float[Tensor, "n experts"], expert_bias: Float[Tensor, " experts"], config: LLaDA2Config
) -> Int[Tensor, "n k"]:
    """Choose k experts per token.

    With ``r = scores + expert_bias``: a group is worth the sum of its two largest r; the best ``topk_group`` groups
    stay; the k largest r inside them are chosen.

    Args:
        scores: Sigmoid router outputs, one per expert.
        expert_bias: Load-balancing offset, used for the choice only.
        config: Number of groups and experts to keep.
    """
    ranking = (scores + expert_bias).detach()
    if config.topk_group < config.n_group:
        grouped = ranking.unflatten(-1, (config.n_group, -1))
        group_worth = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(-1)
        kept = group_worth.topk(config.topk_group, dim=-1).indices
        dropped = torch.ones_like(group_worth, dtype=torch.bool).scatter_(-1, kept, False)
        ranking = grouped.masked_fill(dropped[..., None], -torch.inf).flatten(-2)
    return ranking.topk(config.num_experts_per_tok, dim=-1).indices


def weigh(scores: Float[Tensor, "n experts"], index: Int[Tensor, "n k"], config: LLaDA2Config) -> Float[Tensor, "n k"]:
    """Weigh the chosen experts: their ``scores`` (no bias), normalised to sum to one, times ``routed_scaling_factor``.

    Weights are gathered from the scores of all experts, not from those that the top-k left. So an expert that is
    replayed, but that the live router would drop, keeps its weight and its gradient.
    """
    weight = scores.gather(-1, index)
    if config.norm_topk_prob:
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
    return weight * config.routed_scaling_factor


class Router(nn.Module):
    """Sigmoid router, in fp32 whatever the model's dtype is (in float64 for a float64 model).

    Args:
        config: The architecture.
        layer: Place among the routed layers, which is the router's place on a tape.
    """

    expert_bias: Tensor

    def __init__(self, config: LLaDA2Config, layer: int = 0) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.register_buffer("expert_bias", torch.empty(config.num_experts, dtype=torch.float32))

    def forward(
        self, hidden: Float[Tensor, "n hidden"], tape: RouteTape | None = None
    ) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
        """Return expert indices and weights per token; a tape notes the indices and may replace them."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            scores = F.linear(hidden.to(dtype), self.weight.to(dtype)).sigmoid()
            index = choose(scores, self.expert_bias, self.config)
            if tape is not None:
                index = tape.exchange(self.layer, index)
            return index, weigh(scores, index, self.config)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Router":
        """Let the bias follow moves between devices but no cast: bf16 would round it."""
        bias = self.expert_bias
        super()._apply(fn, recurse)
        if self.expert_bias.dtype != bias.dtype:
            self.expert_bias = bias.to(self.expert_bias.device)
        return self


class Experts(nn.Module):
    """All routed experts of a layer, their matrices stacked along the first dimension (`LLaDA2Config.expert_place`).

    Attributes:
        ranks: The ranks that hold the stack in equal parts; None if this process holds it whole.
        adapter: LoRA adapters of both stacks, by the stack's name; None if there are none.
    """

    ranks: ProcessGroup | None = None

    def __init__(self, config: LLaDA2Config) -> None:
        super().__init__()
        self.adapter: nn.ModuleDict | None = None
        self.config, inner, hidden = config, config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(config.num_experts, 2 * inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(config.num_experts, hidden, inner))
        self._rows = 0

    def take_rows(self) -> int:
        """Return how many rows came to the experts of this rank since the last call; 0 if it holds all experts."""
        rows, self._rows = self._rows, 0
        return rows

    def forward(
        self, hidden: Float[Tensor, "n hidden"], index: Int[Tensor, "n k"], weight: Float[Tensor, "n k"]
    ) -> Float[Tensor, "n hidden"]:
        """Compute ``sum_k weight_k * expert_{index_k}(x)`` for every token x."""
        places, order = self.config.expert_place(index).flatten().sort(stable=True)
        inputs = hidden.index_select(0, order // index.shape[-1])
        if self.ranks is None:
            every_place = torch.arange(self.config.num_experts, device=index.device)
            outputs = self._apply_to(inputs, torch.searchsorted(places, every_place, right=True, out_int32=True))
        else:
            from redraft.rl.models.llada2.dispatch import plan_exchange  # a rollout actor need not import it

            exchange = plan_exchange(places, self.config.num_experts, self.ranks)
            self._rows += sum(exchange.received)
            outputs = exchange.back(self._apply_to(exchange.there(inputs), exchange.ends))
        chosen = outputs.index_select(0, order.argsort()).unflatten(0, index.shape)
        return (chosen * weight[..., None]).sum(1).to(hidden.dtype)

    def _apply_to(
        self, inputs: Float[Tensor, "m hidden"], ends: Int32[Tensor, " experts"]
    ) -> Float[Tensor, "m hidden"]:
        """Compute the experts that are here, of rows sorted by expert; see `grouped_linear`."""
        weights = self.gate_up_proj, self.down_proj
        gate_up, down = weights if self.ranks is None else (weight.to_local() for weight in weights)
        gate, up = self._product("gate_up_proj", gate_up, inputs, ends).chunk(2, dim=-1)
        return self._product("down_proj", down, F.silu(gate) * up, ends)

    def _product(
        self,
        name: str,
        weight: Float[Tensor, "experts o i"],
        inputs: Float[Tensor, "m i"],
        ends: Int32[Tensor, " experts"],
    ) -> Float[Tensor, "m o"]:
        """Multiply by one of the stacks, and by its adapter if it has one."""
        adapter = None if self.adapter is None else self.adapter[name]
        product = partial(grouped_linear, ends=ends)
        return adapted(product(inputs, weight), adapter, inputs, product)


def grouped_linear(
    inputs: Float[Tensor, "m i"], weight: Float[Tensor, "experts o i"], ends: Int32[Tensor, " experts"]
) -> Float[Tensor, "m o"]:
    """Compute ``inputs @ weight[e].T`` for the rows of expert e: those from ``ends[e - 1]`` on and before ``ends[e]``.

    One grouped product where torch has it; float64, and rows that are no multiple of 16 bytes, go expert by expert.
    """
    device, double = inputs.device.type, inputs.dtype == torch.float64
    if torch.is_autocast_enabled(device) and not double:  # autocast casts for linear, but does not know grouped_mm
        dtype = torch.get_autocast_dtype(device)
        inputs, weight = inputs.to(dtype), weight.to(dtype)
    aligned = all(size * inputs.element_size() % 16 == 0 for size in weight.shape[1:])
    if aligned and not double:
        return F.grouped_mm(inputs, weight.mT, offs=ends)
    parts = inputs.tensor_split(ends[:-1].tolist())
    return torch.cat([F.linear(part, matrix) for part, matrix in zip(parts, weight.unbind(0), strict=True)])


class MoE(nn.Module):
    """Routed experts plus the shared expert, which every token passes unscaled."""

    def __init__(self, config: LLaDA2Config, layer: int = 0) -> None:
        super().__init__()
        self.gate = Router(config, layer)
        self.experts = Experts(config)
        shared = config.num_shared_experts * config.moe_intermediate_size
        self.shared_experts = GatedMLP(config.hidden_size, shared) if shared else None

    def forward(
        self, hidden: Float[Tensor, "b q hidden"], tape: RouteTape | None = None
    ) -> Float[Tensor, "b q hidden"]:
        """Route and map every position by itself."""
        flat = hidden.flatten(0, 1)
        output = self.experts(flat, *self.gate(flat, tape))
        if self.shared_experts is not None:
            output = output + self.shared_experts(flat)
        return output.view_as(hidden)
