"""The shape of a network of some thousand weights, for every test that needs one."""

from typing import Any


def small_shape(**changes: Any) -> dict[str, Any]:
    """Keys of a LLaDA2 configuration without a vocabulary: one dense layer, one of experts in two groups."""
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "n_group": 2,
        "topk_group": 1,
        "rope_theta": 10000.0,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    return {**shape, **changes}
