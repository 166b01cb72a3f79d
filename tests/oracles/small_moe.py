"""A LLaDA2 network of some thousand weights with several layers and heads, and a decode of it that edits often."""

from redraft.rollout.config import DecodeConfig
from redraft.rollout.trajectory import SpecialTokens
from shapes import small_shape

TOKENS = SpecialTokens(mask=1, pad=0, stops=(2,))
SHAPE = small_shape(
    vocab_size=24,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.5,
    pad_token_id=0,
    mask_token_id=1,
    eos_token_id=2,
)
SAMPLED = DecodeConfig(
    block_length=4,
    threshold=0.3,
    editing_threshold=0.15,
    max_post_steps=2,
    max_completion_length=14,
    temperature=1.0,
    edit_sampling="sample",
    unmask_confidence="top",
)
