"""LLaDA2-MoE: configuration, network and the published checkpoint format."""

from redraft.rl.models.llada2.checkpoint import CheckpointError, load_pretrained, published_tensors, save_pretrained
from redraft.rl.models.llada2.config import LLADA2_FLASH, LLADA2_MINI, LLaDA2Config
from redraft.rl.models.llada2.model import LLaDA2Model, init_weights

__all__ = [
    "LLADA2_FLASH",
    "LLADA2_MINI",
    "CheckpointError",
    "LLaDA2Config",
    "LLaDA2Model",
    "init_weights",
    "load_pretrained",
    "published_tensors",
    "save_pretrained",
]
