"""What `python -m benchmarks decode` decodes: policies with random weights, and prompts for them."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from benchmarks.common.policies import build_bare_policy
from redraft.rl.models.registry import load_policy
from redraft.rl.seeding import derive_seed, make_generator
from redraft.rollout.config import DecodeConfig
from redraft.rollout.engine.torch_engine import store_by_input
from redraft.rollout.trajectory import Prompt, SpecialTokens

BLOCK: Final = 32
_FAMILY: Final = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "n_group": 4,
    "topk_group": 2,
    "rope_theta": 600000.0,
    "max_position_embeddings": 4096,
}
SHAPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "tiny": {
        **_FAMILY,
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "head_dim": 16,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "initializer_range": 0.2,
    },
    "mid": {
        **_FAMILY,
        "vocab_size": 8192,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "head_dim": 64,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 96,
        "initializer_range": 0.3,
    },
}
"""Wide initial weights: the head's logits then spread so far (about 2 and 5 nats) that a random policy is confident of
some slots and not of others, as a trained one is. With the usual 0.02 no probability would pass any threshold."""

DECODE: Final = DecodeConfig(block_length=BLOCK, threshold=0.4, editing_threshold=0.9, max_post_steps=8)
"""Found by trying: on both shapes three to four tokens per forward, with edits, and few blocks that end by budget."""


@dataclass(frozen=True)
class Workload:
    """One policy and requests for it.

    Attributes:
        name: Of the size.
        model: The policy.
        tokens: Its special ids; nothing stops a completion, so that all are equally long.
        prompts: Requests of 128 to 384 tokens, as questions of mathematics and code have with a chat template.
        config: How they are decoded.
    """

    name: str
    model: nn.Module
    tokens: SpecialTokens
    prompts: tuple[Prompt, ...]
    config: DecodeConfig

    @property
    def num_parameters(self) -> int:
        """Weights of the policy."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def build_workload(size: str, dtype: str, device: str, num_prompts: int, new_tokens: int, seed: int = 0) -> Workload:
    """A policy of one of the `SHAPES` (the golden weights for `tiny`, where they are) and random prompts.

    Raises:
        ValueError: The size is unknown.
    """
    if size not in SHAPES:
        raise ValueError(f"unknown size {size!r}; valid: {', '.join(SHAPES)}")
    golden = golden_folder() if size == "tiny" else None
    if golden:
        model: nn.Module = load_policy(str(golden), dtype, device)
    else:
        model = build_bare_policy(SHAPES[size], dtype, device, seed)
    store_by_input(model)  # as a rollout actor does
    tokens = SpecialTokens(mask=SHAPES[size]["vocab_size"] - 1, pad=0, stops=())
    config = DECODE.model_copy(update={"max_completion_length": new_tokens})
    return Workload(size, model, tokens, random_prompts(num_prompts, tokens.mask, seed), config)


def random_prompts(count: int, mask: int, seed: int, lengths: tuple[int, int] = (128, 384)) -> tuple[Prompt, ...]:
    """Prompts of random tokens below `mask`, of random lengths from the first up to and including the second."""
    source = make_generator(seed, "prompts")
    sizes = torch.randint(lengths[0], lengths[1] + 1, (count,), generator=source).tolist()
    rows = [torch.randint(1, mask, (size,), generator=source).tolist() for size in sizes]
    return tuple(Prompt(f"p{i}", tuple(row), seed=derive_seed(seed, "rollout", i)) for i, row in enumerate(rows))


def golden_folder() -> Path | None:
    """The golden tiny policy: in `REDRAFT_GOLDEN`, or in `shared/golden` beside or above this checkout."""
    name = "llada2_tiny"
    if named := os.environ.get("REDRAFT_GOLDEN"):
        return _if_there(Path(named) / name)
    places = [parent / "shared" / "golden" / name for parent in (Path.cwd(), *Path(__file__).resolve().parents)]
    return next(filter(None, map(_if_there, places)), None)


def golden_cases(
    kind: str = "decode", dtype: str = "float64", device: str = "cpu"
) -> tuple[nn.Module, SpecialTokens, list[dict[str, Any]]] | None:
    """The golden policy, its special ids and its cases ("decode" or "logits"); None where they are not."""
    folder = golden_folder()
    if folder is None:
        return None
    shape = json.loads((folder / "config.json").read_text())
    tokens = SpecialTokens(mask=shape["mask_token_id"], pad=shape["pad_token_id"], stops=(shape["eos_token_id"],))
    cases = json.loads((folder / "cases.json").read_text())[kind]
    return load_policy(str(folder), dtype, device), tokens, cases


def _if_there(folder: Path) -> Path | None:
    return folder if (folder / "cases.json").is_file() else None
