"""Sizes of a network without the network: what config.json says, counted. Loads no torch.

The letters are those of docs/scale.md, so a formula there and the code that computes it can be read side by side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from redraft.rl.config.scalars import settle
from redraft.rl.models.character_tokenizer import VOCABULARY
from redraft.rl.models.hub import find_model
from redraft.rl.models.llada2.config import CONFIG_FILE, LLADA2_FLASH, LLADA2_MINI, LLaDA2Config
from redraft.words import did_you_mean, guess_or_valid, problem_lines

PUBLISHED: Final[Mapping[str, LLaDA2Config]] = MappingProxyType(
    {
        f"inclusionAI/LLaDA2.{minor}-{size}": config
        for minor in (0, 1)
        for size, config in (("mini", LLADA2_MINI), ("flash", LLADA2_FLASH))
    }
)
"""Shapes by the name of their repository; 2.0 and 2.1 have the same."""


@dataclass(frozen=True)
class Shape:
    """Counts of a network; all are numbers of parameters, layers, channels or tokens, never bytes.

    LLaDA2.1-mini: P = 16,255,643,392 parameters, X = 15,300,820,992 of them in routed experts, so D = 954,822,400 are
    dense. Every token passes k = 8 of E = 256 experts in each of R = 19 routed layers: 1.43 billion active parameters.

    Attributes:
        parameters: P, all published tensors, the router's bias included.
        expert_parameters: X, those of routed experts.
        layers: L.
        routed_layers: R.
        hidden: H, channels of the residual stream.
        vocabulary: V, tokens.
        experts: E, per routed layer.
        experts_per_token: k.
        inner: I, channels inside an expert; inside the MLP of a network without experts.
        shared_inner: Channels inside the MLP that every token of a layer passes: shared expert, or dense MLP.
        qkv: Channels of queries, keys and values together: (nh + 2 nkv) hd.
        heads: Channels of all query heads: nh hd.
        cached: Numbers that keys and values of one token take in all layers.
        max_positions: Tokens of prompt and completion together.
    """

    parameters: int
    expert_parameters: int
    layers: int
    routed_layers: int
    hidden: int
    vocabulary: int
    experts: int
    experts_per_token: int
    inner: int
    shared_inner: int
    qkv: int
    heads: int
    cached: int
    max_positions: int

    @property
    def dense_parameters(self) -> int:
        """D: parameters outside of routed experts."""
        return self.parameters - self.expert_parameters

    @property
    def active_parameters(self) -> float:
        """Parameters that one token passes: D + X k / E."""
        share = self.experts_per_token / self.experts if self.experts else 0.0
        return self.dense_parameters + self.expert_parameters * share

    @property
    def head_parameters(self) -> int:
        """V H: parameters of the embedding, and as many again of the head."""
        return self.vocabulary * self.hidden

    def adapter_parameters(self, rank: int, targets: str) -> tuple[int, int]:
        """Count the parameters of LoRA adapters: those of dense weights, and those of routed experts.

        An adapter of a matrix has `rank * (inputs + outputs)`. Gate and up projection of an expert are one matrix.
        """
        attention = self.layers * rank * ((self.hidden + self.qkv) + (self.heads + self.hidden))
        if targets == "attention":
            return attention, 0
        expert = rank * ((self.hidden + 2 * self.inner) + (self.inner + self.hidden))
        return attention, self.routed_layers * self.experts * expert

    def adapter_file_parameters(self, rank: int, targets: str) -> int:
        """Count what PEFT's format holds of them: gate and up projection of an expert have their A each."""
        repeated = self.routed_layers * self.experts * rank * self.hidden if targets == "all" else 0
        return sum(self.adapter_parameters(rank, targets)) + repeated


def shape_of(config: LLaDA2Config) -> Shape:
    """Count what a configuration describes."""
    hidden, inner, head = config.hidden_size, config.moe_intermediate_size, config.head_dim
    layers, dense = config.num_hidden_layers, min(config.first_k_dense_replace, config.num_hidden_layers)
    routed = layers - dense
    heads = config.num_attention_heads * head
    qkv = heads + 2 * config.num_key_value_heads * head
    shared = config.num_shared_experts * inner
    expert_parameters = routed * config.num_experts * 3 * hidden * inner
    attention = qkv * hidden + hidden * heads + 2 * head + 2 * hidden  # two norms of a head, two of the layer
    router = config.num_experts * (hidden + 1)
    counted = 2 * config.vocab_size * hidden + hidden + layers * attention
    counted += dense * 3 * hidden * config.intermediate_size + routed * (router + 3 * hidden * shared)
    return Shape(
        parameters=counted + expert_parameters,
        expert_parameters=expert_parameters,
        layers=layers,
        routed_layers=routed,
        hidden=hidden,
        vocabulary=config.vocab_size,
        experts=config.num_experts if routed else 0,
        experts_per_token=config.num_experts_per_tok if routed else 0,
        inner=inner if routed else config.intermediate_size,
        shared_inner=shared if routed else config.intermediate_size,
        qkv=qkv,
        heads=heads,
        cached=2 * layers * config.num_key_value_heads * head,
        max_positions=config.max_position_embeddings,
    )


def find_shape(path: str | None, init: Mapping[str, Any] | None, revision: str | None = None) -> Shape:
    """Find the shape of a recipe's policy: `model.path`, or else `model.init`.

    Args:
        path: A folder with config.json, or a name on the hub, of which only config.json is downloaded; the names of
            `PUBLISHED` need no network.
        init: Fields of config.json of a policy that is to be made with a character tokenizer.
        revision: Of a name on the hub.

    Raises:
        ValueError: The file or the fields describe no network that this code computes.
        FileNotFoundError: There is neither a folder nor a published shape of this name, and none on the hub.
    """
    if path is None:
        return shape_of(new_config(init or {}, {"vocab_size": len(VOCABULARY)}))
    if path in PUBLISHED and not Path(path).exists():
        return shape_of(PUBLISHED[path])
    try:
        folder = find_model(path, revision, "config").folder
    except OSError as error:
        near = did_you_mean(path, PUBLISHED, cutoff=0.8)
        raise FileNotFoundError(
            f"model.path: {error}; {near or 'shapes that need no hub: ' + ', '.join(PUBLISHED)}; a folder with"
            f" {CONFIG_FILE} alone is enough"
        ) from error
    return shape_of(LLaDA2Config.from_pretrained(folder))


def new_config(shape: Mapping[str, Any], ours: Mapping[str, Any]) -> LLaDA2Config:
    """Read the configuration of a policy that is made from scratch.

    Args:
        shape: The recipe's `model.init`.
        ours: Fields that the tokenizer and the recipe decide; `shape` must leave them out.

    Raises:
        ValueError: The shape has an unknown key or does not describe a network.
    """
    valid = sorted(LLaDA2Config.model_fields.keys() - {"unknown_keys", *_DECIDED} - ours.keys())
    for key in sorted(shape.keys() - set(valid)):
        if key in {*_DECIDED, *ours}:
            raise ValueError(f"model.init.{key}: leave it out; the tokenizer and rollout.decode decide it")
        raise ValueError(f"model.init.{key}: unknown key; {guess_or_valid(key, valid)}")
    try:
        return LLaDA2Config.from_dict({**settle(dict(shape), LLaDA2Config), **ours})
    except ValidationError as error:
        raise ValueError("\n".join(problem_lines(error, "model.init"))) from None


_DECIDED = ("vocab_size", "mask_token_id", "eos_token_id", "pad_token_id", "block_length")
