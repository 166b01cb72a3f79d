"""LLaDA2-MoE: configuration, network and the published checkpoint format.

The names below load when they are first asked for, so that reading a configuration loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from redraft.rl.models.llada2.config import LLADA2_FLASH, LLADA2_MINI, LLaDA2Config

if TYPE_CHECKING:
    from redraft.rl.models.llada2.checkpoint import CheckpointError, load_pretrained, save_pretrained
    from redraft.rl.models.llada2.model import LLaDA2Model, init_weights
    from redraft.rl.models.llada2.names import published_tensors

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

_PLACES = {"LLaDA2Model": "model", "init_weights": "model", "published_tensors": "names"}


def __getattr__(name: str) -> Any:
    """Load a name of the network or of its checkpoint format."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES.get(name, 'checkpoint')}"), name)
