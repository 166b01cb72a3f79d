"""Grouped-query attention with QK-norm and partial rotary positions, under any explicit mask."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_mask, flex_attention

from redraft.rl.models.adapter import AdaptableLinear
from redraft.rl.models.llada2.config import LLaDA2Config
from redraft.rollout.engine.paged_cache import PagedCache
from redraft.rollout.engine.protocol import AttentionMask


class MaskTile(NamedTuple):
    """Consecutive queries, the keys that at least one of them may attend, and the mask between them."""

    queries: slice
    keys: Int[Tensor, " k"]
    allowed: Bool[Tensor, "#b q k"]


UsableMask = AttentionMask | tuple[MaskTile, ...]
Tables = tuple[Float[Tensor, "#b 1 q half"], Float[Tensor, "#b 1 q half"]]


def rotary_tables(position_ids: Int[Tensor, "#b q"], config: LLaDA2Config) -> Tables:
    """Compute cosines and sines of ``position / theta^(2j / rotary_dim)`` (radians), always in fp32."""
    exponent = torch.arange(0, config.rotary_dim, 2, device=position_ids.device, dtype=torch.float32)
    frequency = 1.0 / config.rope_theta ** (exponent / config.rotary_dim)
    angle = position_ids[:, None, :, None].float() * frequency
    return angle.cos(), angle.sin()


def rotate(states: Float[Tensor, "b heads q head_dim"], tables: Tables) -> Float[Tensor, "b heads q head_dim"]:
    """Turn the pairs (j, j + half) of the leading ``2 * half`` channels by the tables' angles (NeoX layout)."""
    cos, sin = tables
    half = cos.shape[-1]
    first, second, rest = states.split([half, half, states.shape[-1] - 2 * half], dim=-1)
    turned_first = (first * cos - second * sin).to(states.dtype)
    turned_second = (second * cos + first * sin).to(states.dtype)
    return torch.cat([turned_first, turned_second, rest], dim=-1)


def attend(
    query: Float[Tensor, "b heads q head_dim"],
    key: Float[Tensor, "b kv_heads k head_dim"],
    value: Float[Tensor, "b kv_heads k head_dim"],
    mask: UsableMask,
) -> Float[Tensor, "b heads q head_dim"]:
    """Attend by softmax with scale ``head_dim^-0.5`` over the keys where ``mask`` allows it.

    Consecutive query heads share one key head. A `BlockMask` goes to FlexAttention, a tensor to SDPA, tiles one by one.
    A mask with one row for all queries is the cheapest: it costs no copy of a key.
    """
    if isinstance(mask, BlockMask):
        return _compiled_flex_attention()(query, key, value, block_mask=mask, enable_gqa=True)
    if isinstance(mask, tuple):
        parts = [
            attend(query[:, :, tile.queries], key.index_select(2, tile.keys), value.index_select(2, tile.keys), tile[2])
            for tile in mask
        ]
        return torch.cat(parts, dim=2)
    group = query.shape[1] // key.shape[1]
    if mask.shape[1] == 1:
        # All queries see the same keys, so the heads of a group can stand as more queries: no key is repeated.
        folded = query.unflatten(1, (-1, group)).flatten(2, 3)
        return F.scaled_dot_product_attention(folded, key, value, attn_mask=mask[:, None]).reshape(query.shape)
    if query.is_cuda:
        # With a mask, CUDA's fused kernels want equal head counts; enable_gqa would fall back to the slow math kernel.
        key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None], enable_gqa=not query.is_cuda)


@functools.cache
def _compiled_flex_attention() -> Callable[..., Tensor]:
    """Compile FlexAttention on first use: without compilation it materialises all scores."""
    return torch.compile(flex_attention)


def usable_mask(mask: AttentionMask, device: torch.device) -> UsableMask:
    """Turn a mask into one that `attend` can use on ``device``: FlexAttention has no backward on CPU, so tiles it is.

    Raises:
        TypeError: A tensor that is not boolean, which SDPA would add to the scores instead of masking.
    """
    if isinstance(mask, BlockMask):
        return mask if device.type != "cpu" else mask_tiles(mask)
    if mask.dtype != torch.bool:
        raise TypeError(f"attention_mask must be boolean (True = attend) or a BlockMask, got {mask.dtype}")
    return mask


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # the cached tensors must serve training too
def mask_tiles(mask: BlockMask) -> tuple[MaskTile, ...]:
    """Cut the mask for SDPA into tiles of queries, without the keys that none of a tile's queries may attend."""
    batch, _, queries, keys = mask.shape
    dense = create_mask(mask.mask_mod, batch, 1, queries, keys, device="cpu")[:, 0]
    tiles = []
    for start in range(0, queries, mask.BLOCK_SIZE[0]):
        rows = slice(start, min(start + mask.BLOCK_SIZE[0], queries))
        seen = dense[:, rows].any(dim=(0, 1)).nonzero()[:, 0]
        if not len(seen):  # SDPA needs a key, even one behind the mask
            seen = torch.zeros(1, dtype=torch.int64)
        tiles.append(MaskTile(rows, seen, dense[:, rows, seen]))
    return tuple(tiles)


class Attention(nn.Module):
    """One attention layer: fused projection, norm of every query and key head, rotation, attention, output."""

    def __init__(self, config: LLaDA2Config, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.heads = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
        self.query_key_value = AdaptableLinear(config.hidden_size, sum(self.heads) * config.head_dim)
        self.query_layernorm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.key_layernorm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.dense = AdaptableLinear(config.num_attention_heads * config.head_dim, config.hidden_size)

    def forward(
        self, hidden: Float[Tensor, "b q hidden"], tables: Tables, mask: UsableMask, cache: PagedCache | None = None
    ) -> Float[Tensor, "b q hidden"]:
        """Attend from the given positions to themselves and, with a cache, to everything it holds."""
        heads = self.query_key_value(hidden).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        query, key, value = heads.split(self.heads, dim=1)
        normed = torch.cat([self.query_layernorm(query), self.key_layernorm(key)], dim=1)
        query, key = rotate(normed, tables).split(self.heads[:2], dim=1)
        if cache is not None:
            key, value = cache.update(self.layer, key, value)
        return self.dense(attend(query, key, value, mask).transpose(1, 2).flatten(2))
