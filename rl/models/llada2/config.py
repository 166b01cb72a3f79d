"""The LLaDA2-MoE architecture as it is written in a published ``config.json``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from redraft.words import problem_lines

CONFIG_FILE = "config.json"
# Keys that change the function the network computes, in ways that this code does not: ignoring them would be silent.
_UNSUPPORTED = ("rope_scaling", "expert_capacity", "rope_parameters")


class LLaDA2Config(BaseModel):
    """Sizes and switches of one LLaDA2-MoE network; names and meaning are those of the published ``config.json``.

    Switches that every published checkpoint sets alike are typed with their only supported value. Keys of a file that
    are not listed here are kept in ``unknown_keys`` and written back by `to_dict`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    vocab_size: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt
    num_experts: PositiveInt
    num_experts_per_tok: PositiveInt
    moe_intermediate_size: PositiveInt
    num_shared_experts: int = Field(default=1, ge=0)
    first_k_dense_replace: int = Field(default=1, ge=0)
    n_group: PositiveInt = 1
    topk_group: PositiveInt = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: PositiveFloat = 2.5
    rope_theta: PositiveFloat
    partial_rotary_factor: float = Field(default=0.5, gt=0, le=1)
    max_position_embeddings: PositiveInt
    rms_norm_eps: PositiveFloat = 1e-6
    initializer_range: PositiveFloat = 0.02
    pad_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    mask_token_id: int | None = None

    hidden_act: Literal["silu"] = "silu"
    score_function: Literal["sigmoid"] = "sigmoid"
    router_dtype: Literal["fp32"] = "fp32"
    moe_router_enable_expert_bias: Literal[True] = True
    use_qk_norm: Literal[True] = True
    use_bias: Literal[False] = False
    use_qkv_bias: Literal[False] = False
    tie_word_embeddings: Literal[False] = False
    model_type: Literal["llada2_moe"] = "llada2_moe"
    architectures: tuple[str, ...] = ("LLaDA2MoeModelLM",)

    unknown_keys: dict[str, Any] = Field(default_factory=dict)

    @property
    def rotary_dim(self) -> int:
        """Leading channels of every head that RoPE turns; the others carry no position."""
        return int(self.head_dim * self.partial_rotary_factor)

    def expert_place(self, expert: Any) -> Any:
        """Return where the stacked parameters of a layer hold an expert (int or Tensor): the groups take turns.

        A masked position chooses the same groups as others do, so ranks that held whole groups would have all the work
        or none. 8 experts in 2 groups lie as 0 4 1 5 2 6 3 7.
        """
        size = self.num_experts // self.n_group
        return expert % size * self.n_group + expert // size

    def expert_at(self, place: Any) -> Any:
        """Return which expert lies at a place, or at places; the inverse of `expert_place`."""
        size = self.num_experts // self.n_group
        return place % self.n_group * size + place // self.n_group

    @model_validator(mode="after")
    def _sizes_fit_together(self) -> "LLaDA2Config":
        group_size = self.num_experts // self.n_group
        rules = {
            f"num_key_value_heads {self.num_key_value_heads} must divide num_attention_heads "
            f"{self.num_attention_heads}": self.num_attention_heads % self.num_key_value_heads == 0,
            f"n_group {self.n_group} must divide num_experts {self.num_experts}": self.num_experts % self.n_group == 0,
            f"topk_group must be in [1, n_group = {self.n_group}], got {self.topk_group}": (
                self.topk_group <= self.n_group
            ),
            f"num_experts_per_tok must be at most the {self.topk_group * group_size} experts of topk_group = "
            f"{self.topk_group} groups, got {self.num_experts_per_tok}": (
                self.num_experts_per_tok <= self.topk_group * group_size
            ),
            f"head_dim * partial_rotary_factor must be even, got {self.rotary_dim}": self.rotary_dim % 2 == 0,
            f"rotary_dim {self.unknown_keys.get('rotary_dim')} contradicts head_dim * partial_rotary_factor = "
            f"{self.rotary_dim}": self.unknown_keys.get("rotary_dim") in (None, self.rotary_dim),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LLaDA2Config":
        """Read the content of a ``config.json``; keys this code does not know are kept, not used.

        Raises:
            ValueError: A required key is missing, a value is not supported, or sizes contradict each other.
        """
        unsupported = [key for key in _UNSUPPORTED if values.get(key) is not None]
        if unsupported:
            raise ValueError(f"{unsupported[0]} = {values[unsupported[0]]!r} is not supported; only null is")
        known = {key: value for key, value in values.items() if key in cls.model_fields and key != "unknown_keys"}
        if known.get("head_dim") is None and {"hidden_size", "num_attention_heads"} <= known.keys():
            known["head_dim"] = known["hidden_size"] // known["num_attention_heads"]
        unknown = {key: value for key, value in values.items() if key not in known}
        return cls(**known, unknown_keys=unknown)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``, unknown keys included."""
        return {**self.model_dump(mode="json", exclude={"unknown_keys"}), **self.unknown_keys}

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "LLaDA2Config":
        """Read ``config.json`` in the folder ``path``.

        Raises:
            FileNotFoundError: There is no such folder or no ``config.json`` in it.
            ValueError: The file is not JSON or describes a network that this code does not compute.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder; expected a checkpoint folder that holds {CONFIG_FILE}")
        file = folder / CONFIG_FILE
        if not file.is_file():
            raise FileNotFoundError(f"{folder} holds no {CONFIG_FILE}; is it a checkpoint folder?")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError(f"expected a JSON object, found {type(values).__name__}")
            return cls.from_dict(values)
        except ValidationError as error:
            raise ValueError(f"{file}: {'; '.join(problem_lines(error))}") from error
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error


# Token ids are left out on purpose: they come from the tokenizer and the checkpoint's own config.
LLADA2_MINI = LLaDA2Config(
    vocab_size=157184,
    hidden_size=2048,
    intermediate_size=5120,
    num_hidden_layers=20,
    num_attention_heads=16,
    num_key_value_heads=4,
    head_dim=128,
    num_experts=256,
    num_experts_per_tok=8,
    moe_intermediate_size=512,
    n_group=8,
    topk_group=4,
    rope_theta=600000.0,
    max_position_embeddings=32768,
)
LLADA2_FLASH = LLADA2_MINI.model_copy(
    update={
        "hidden_size": 4096,
        "intermediate_size": 9216,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "moe_intermediate_size": 1024,
    }
)
