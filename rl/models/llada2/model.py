"""The LLaDA2-MoE network: token ids and a mask in, same-position logits out."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from redraft.rl.models.adapter import Adapted, Merge, merger
from redraft.rl.models.llada2.attention import (
    Attention,
    Tables,
    UsableMask,
    rotary_tables,
    usable_mask,
)
from redraft.rl.models.llada2.config import LLaDA2Config
from redraft.rl.models.llada2.moe import GatedMLP, MoE
from redraft.rl.parallel.units import Unit
from redraft.rollout.blocks import block_causal_mask
from redraft.rollout.engine.paged_cache import CacheShape, PagedCache
from redraft.rollout.engine.protocol import BLOCK_CAUSAL, AttentionMask, Geometry
from redraft.rollout.engine.route_tape import Routes, RouteTape

Result = TypeVar("Result")


class DecoderLayer(nn.Module):
    """Pre-norm residual layer: attention, then the dense MLP (first layers) or the mixture of experts."""

    def __init__(self, config: LLaDA2Config, layer: int) -> None:
        super().__init__()
        routed = layer - config.first_k_dense_replace  # place among the routed layers; negative in the dense ones
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attention = Attention(config, layer)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MoE(config, routed) if routed >= 0 else GatedMLP(config.hidden_size, config.intermediate_size)
        self.recompute = False  # keep the input alone for the backward pass, and compute the layer again there

    def forward(
        self,
        hidden: Float[Tensor, "b q hidden"],
        tables: Tables,
        mask: UsableMask,
        cache: PagedCache | None = None,
        tape: RouteTape | None = None,
    ) -> Float[Tensor, "b q hidden"]:
        """Map hidden states; the backward pass may compute it again."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._add_branches, hidden, tables, mask, cache, tape, use_reentrant=False)
        return self._add_branches(hidden, tables, mask, cache, tape)

    def _add_branches(
        self,
        hidden: Float[Tensor, "b q hidden"],
        tables: Tables,
        mask: UsableMask,
        cache: PagedCache | None,
        tape: RouteTape | None,
    ) -> Float[Tensor, "b q hidden"]:
        """Add both branches to the residual stream."""
        hidden = hidden + self.attention(self.input_layernorm(hidden), tables, mask, cache)
        inputs = self.post_attention_layernorm(hidden)
        return hidden + (self.mlp(inputs, tape) if isinstance(self.mlp, MoE) else self.mlp(inputs))


class Head(nn.Linear):
    """The language-model head. Its weight is read inside its own calls only, because it may be sharded outside."""

    def forward(self, hidden: Tensor, use: Callable[[Tensor, Tensor], Any] | None = None) -> Any:
        """Compute logits, or what `use` makes of hidden states and weight without all logits at once."""
        return super().forward(hidden) if use is None else use(hidden, self.weight)


class LLaDA2Model(nn.Module):
    """LLaDA2-MoE with its language-model head.

    Building draws no random number and leaves the weights unset: call `init_weights`, or load a checkpoint with
    `rl.models.llada2.load_pretrained`.

    Args:
        config: The architecture.
        dtype: Of all parameters; the router's expert bias is fp32 always.
        device: Where the weights live (``"meta"`` for none); the default device when None.
    """

    def __init__(
        self, config: LLaDA2Config, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.adapted: Adapted | None = None
        self.companions: Mapping[str, bytes] = {}  # small files of its folder, see `read_companions`
        self.recomputes = False  # see `checkpoint_layers`
        # Modules are laid out on the meta device first, so that torch's default initialisation costs nothing.
        with torch.device("meta"):
            # With a weight given, because nn.Embedding's own normal draw on meta would import torch's compiler (1.5 s).
            unset = torch.empty(config.vocab_size, config.hidden_size)
            self.word_embeddings = nn.Embedding.from_pretrained(unset, freeze=False)
            self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
            self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            self.lm_head = Head(config.hidden_size, config.vocab_size, bias=False)
        self.to(dtype).to_empty(device=device if device is not None else torch.get_default_device())

    def hidden_states(
        self,
        input_ids: Int[Tensor, "b q"],
        position_ids: Int[Tensor, "b q"],
        attention_mask: AttentionMask,
        cache: PagedCache | None = None,
        tape: RouteTape | None = None,
    ) -> Float[Tensor, "b q hidden"]:
        """Compute the final hidden states (after the last norm) of the given positions.

        Args:
            input_ids: Token ids.
            position_ids: Absolute positions, for the rotary angles.
            attention_mask: True where query q may attend key k; k runs over the keys that the cache returns, or over
                the queries themselves without a cache. One row may stand for all queries of an entry. Or the same as
                a FlexAttention `BlockMask`.
            cache: Keys and values of earlier positions.
            tape: Notes the routes of the positions, entry by entry, and may replace them; see `route_tape`.
        """
        if tape is None and self.recomputes and self._routed_layers:
            tape = self.route_tape()  # a layer that runs again must take the routes of its first time
        hidden = self.word_embeddings(input_ids)
        mask = usable_mask(attention_mask, hidden.device)
        tables = rotary_tables(position_ids, self.config)
        for layer in self.layers:
            hidden = layer(hidden, tables, mask, cache, tape)
        return self.norm(hidden)

    def checkpoint_layers(self) -> None:
        """Keep only the input of every layer for the backward pass, which then computes each layer a second time."""
        self.recomputes = True
        for layer in self.layers:
            layer.recompute = True

    forward_methods: tuple[str, ...] = ("hidden_states", "logits", "through_head")

    def shard_units(self) -> list[Unit]:
        """List what may be gathered by itself: embedding, experts and routers inside layers, layers, norm with head.

        Adapters are units of their own, because their type may differ from that of the frozen weights.
        """
        units = [Unit((self.word_embeddings,), "embedding")]
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            attention = layer.attention
            if attention.query_key_value.adapter is not None and attention.dense.adapter is not None:
                units.append(Unit((attention.query_key_value.adapter, attention.dense.adapter), "layer"))
            if isinstance(layer.mlp, MoE):
                if (adapter := layer.mlp.experts.adapter) is not None:
                    units.append(Unit(tuple(adapter.values()), "experts"))
                units.append(Unit((layer.mlp.experts,), "experts"))
                if layer.mlp.gate.weight.requires_grad:
                    units.append(Unit((layer.mlp.gate,), "router"))
            units.append(Unit((layer,), "layer"))
        return [*units, Unit((self.norm, self.lm_head), "head")]

    def merger(self) -> Merge | None:
        """Return what makes rows of a network without adapters of this one's, for rollout engines; see `merger`."""
        return merger(self)

    def route_tape(self, given: Routes | None = None, replay: bool = True) -> RouteTape:
        """Return a tape for one call of `hidden_states`; afterwards it holds the routes that were used.

        Args:
            given: Routes of all positions of the call, entry by entry; -1 is routed live. None records only.
            replay: Take the given routes; False only compares with them.

        Raises:
            ValueError: The network routes nothing, or the routes are not those of such a network.
        """
        config, routed = self.config, self._routed_layers
        if routed < 1:
            raise ValueError(f"all {config.num_hidden_layers} layers are dense: there is no route to record")
        if given is not None and given.numel() and (last := int(given.max())) >= config.num_experts:
            raise ValueError(f"a given route holds expert {last}; valid: 0 to {config.num_experts - 1}, or -1 for live")
        return RouteTape(routed, given, replay)

    @property
    def _routed_layers(self) -> int:
        return max(0, self.config.num_hidden_layers - self.config.first_k_dense_replace)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.config.vocab_size

    @property
    def max_positions(self) -> int:
        """Positions that the network can address, in tokens."""
        return self.config.max_position_embeddings

    @property
    def geometry(self) -> Geometry:
        """Block-causal attention; a hidden state predicts the token of its own position."""
        return BLOCK_CAUSAL

    @property
    def cache_shape(self) -> CacheShape:
        """Sizes of the keys and values that a cache keeps of every token."""
        return CacheShape(self.config.num_hidden_layers, self.config.num_key_value_heads, self.config.head_dim)

    @property
    def head_weight(self) -> Float[Tensor, "vocab hidden"]:
        """Matrix of the head, for log-probabilities of few tokens without all logits."""
        return self.lm_head.weight

    def through_head(self, hidden: Float[Tensor, "*n hidden"], use: Callable[[Tensor, Tensor], Result]) -> Result:
        """Call `use` with hidden states and the head's matrix, which is whole during the call."""
        return self.lm_head(hidden, use)

    def logits(self, hidden: Float[Tensor, "*n hidden"]) -> Float[Tensor, "*n vocab"]:
        """Compute logits of the token at the same position, in fp32 (float64 for a float64 model)."""
        logits = self.lm_head(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def forward(self, input_ids: Int[Tensor, "b q"], block_length: int = 32) -> Float[Tensor, "b q vocab"]:
        """Compute logits of whole sequences under the strict block-causal mask, blocks counted from position 0."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        mask = block_causal_mask(positions, positions, block_length)
        return self.logits(self.hidden_states(input_ids, positions.expand_as(input_ids), mask))


@torch.no_grad()
def init_weights(model: LLaDA2Model, generator: torch.Generator) -> None:
    """Set every weight for training from scratch: N(0, initializer_range^2) matrices, unit norms, zero expert bias.

    Args:
        model: Network on a real device.
        generator: Source of all randomness, on the model's device.
    """
    at = model.config.expert_at(torch.arange(model.config.num_experts))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, model.config.initializer_range, generator=generator)
        if parameter.dim() == 3:  # drawn expert by expert, then brought to the order of the stack
            parameter.copy_(parameter[at.to(parameter.device)])
    for buffer in model.buffers():
        buffer.zero_()
