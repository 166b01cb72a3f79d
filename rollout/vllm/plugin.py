# pyright: reportMissingImports=false
"""What vLLM must know to accept a policy folder: its model type and its architecture, by name only.

vLLM loads this as a plugin (`redraft = "redraft.rollout.vllm.plugin:register"` of the entry point
`vllm.general_plugins`) in every process it starts. The network itself never passes through vLLM: `vllm.worker`
makes it.
"""

from typing import Any, Final, no_type_check

from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig
from vllm import ModelRegistry

MODEL_TYPE: Final = "llada2_moe"
ARCHITECTURE: Final = "LLaDA2MoeModelLM"
"""The names in the published config.json; all that is known here about the model family."""


@no_type_check  # transformers makes it a dataclass that takes any key, which shape checks would take for an error
class PublishedConfig(PreTrainedConfig):
    """A config.json, key by key, with no meaning attached; vLLM reads sizes and ids from it."""

    model_type = MODEL_TYPE


class ForeignNetwork(nn.Module):
    """A stand-in for a network that our worker runs: it has the interface of a vLLM model and is never built."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        raise NotImplementedError(
            f"{ARCHITECTURE} is no vLLM model; start vLLM with the arguments of"
            " redraft.rollout.vllm.engine.engine_arguments"
        )

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """Exist, as vLLM requires of a model."""
        raise NotImplementedError

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Exist, as vLLM requires of a model."""
        raise NotImplementedError

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Exist, as vLLM requires of a model that generates text."""
        raise NotImplementedError


def register() -> None:
    """Register the names above with transformers and vLLM; further calls change nothing."""
    AutoConfig.register(MODEL_TYPE, PublishedConfig, exist_ok=True)
    ModelRegistry.register_model(ARCHITECTURE, ForeignNetwork)
