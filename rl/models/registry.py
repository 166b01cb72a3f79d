"""Make policies from a checkpoint folder or from scratch. Only this module knows which family a policy is of."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from redraft.rl.config.by_device import rollout_dtype
from redraft.rl.config.schema import RunConfig
from redraft.rl.models.adapter import Adapted
from redraft.rl.models.character_tokenizer import build_character_tokenizer
from redraft.rl.models.generation import read_generation
from redraft.rl.models.hub import is_hub_name
from redraft.rl.models.llada2.adapter_files import ADAPTER_CONFIG
from redraft.rl.models.llada2.checkpoint import copy_pretrained, load_pretrained, save_pretrained
from redraft.rl.models.llada2.companions import present_auto_map, read_companions
from redraft.rl.models.llada2.config import LLaDA2Config
from redraft.rl.models.llada2.lora import add_adapters, init_adapters
from redraft.rl.models.llada2.model import LLaDA2Model, init_weights
from redraft.rl.models.shape import new_config
from redraft.rl.parallel.lockstep import Lockstep
from redraft.rl.seeding import make_generator
from redraft.rollout.chat import TOKENIZER_FILE, Tokenizer, load_tokenizer
from redraft.rollout.special_ids import special_tokens
from redraft.rollout.trajectory import SpecialTokens

DTYPES = ("float32", "bfloat16", "float64")
DEFAULT_BLOCK_LENGTH = 32
"""Of the published models, whose config.json does not hold it."""


def resolve_device(name: str) -> torch.device:
    """Find the device that a recipe or an option names; `auto` is cuda where there is one.

    Raises:
        ValueError: The name is not one of a device, or this machine has no such GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device {name!r}: valid are auto, cpu, cuda and cuda:N")
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        here = f"this machine has {count} (cuda:0 to cuda:{count - 1})" if count else "this machine has none"
        raise ValueError(f"device {name!r}: no such GPU, {here}; use auto to take what there is")
    return device


def resolve_dtype(name: str) -> torch.dtype:
    """Find the type that a recipe or an option names.

    Raises:
        ValueError: The name is not one of `DTYPES`.
    """
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r}: valid are {', '.join(DTYPES)}")
    return getattr(torch, name)


def resolve_rollout_dtype(config: RunConfig) -> str:
    """Find the type of the rollout engine's weights on this process's device; see `rollout_dtype`."""
    return rollout_dtype(config, resolve_device(config.model.device).type == "cuda")


def load_policy(
    path: str,
    dtype: str | None,
    device: str,
    spread: Callable[[LLaDA2Model], None] | None = None,
    lockstep: Lockstep | None = None,
) -> LLaDA2Model:
    """Load the policy of a checkpoint folder; without a dtype in the one that it is stored in.

    Args:
        path: The folder.
        dtype: One of `DTYPES`.
        device: See `resolve_device`.
        spread: Shards the network before it has memory; every rank then reads its own part.
        lockstep: The ranks, all of which call.
    """
    return load_pretrained(path, resolve_dtype(dtype) if dtype else None, resolve_device(device), spread, lockstep)


def add_lora(model: nn.Module, path: str, config: RunConfig) -> None:
    """Freeze a policy and add the recipe's adapters; `init_lora` draws their numbers.

    Args:
        model: The policy, not sharded yet; it may lie on the meta device.
        path: Folder of its weights. It is written into the adapters' folder, unless the weights are on the hub.
        config: The recipe.
    """
    assert isinstance(model, LLaDA2Model)
    lora = config.model.lora
    assert lora is not None
    asked = config.model.path
    is_on_hub = config.sft is None and asked is not None and is_hub_name(asked)
    base, revision = (asked, config.model.revision) if is_on_hub else (str(Path(path).resolve()), None)
    adapted = Adapted(lora.rank, lora.alpha, lora.targets, base, revision)
    add_adapters(model, adapted, resolve_dtype(config.model.dtype))


def init_lora(model: nn.Module, config: RunConfig) -> None:
    """Draw the adapters by the run's seed; a sharded policy draws what this rank holds."""
    assert isinstance(model, LLaDA2Model)
    init_adapters(model, config.seed)


@dataclass(frozen=True)
class PolicyLimits:
    """Sizes of a policy that prompts and completions must fit.

    Attributes:
        vocab_size: Token ids are below it.
        max_positions: Tokens of prompt and completion together.
        block_length: Tokens per block that the policy was trained with.
    """

    vocab_size: int
    max_positions: int
    block_length: int


def policy_limits(path: str) -> PolicyLimits:
    """Read the limits of the policy in a checkpoint folder, without its weights."""
    return _limits_of(LLaDA2Config.from_pretrained(path), path)


def _limits_of(config: LLaDA2Config, path: str) -> PolicyLimits:
    block_length = config.unknown_keys.get("block_length", DEFAULT_BLOCK_LENGTH)
    if not isinstance(block_length, int) or block_length < 1:
        raise ValueError(f"{path}: block_length in config.json must be a positive integer, got {block_length!r}")
    return PolicyLimits(config.vocab_size, config.max_position_embeddings, block_length)


def load_text_side(path: str) -> tuple[Tokenizer, SpecialTokens]:
    """Load tokenizer and special ids of a checkpoint folder, without its weights."""
    tokenizer, tokens = find_text_side(path)
    if tokenizer is None:
        raise FileNotFoundError(f"{path} holds no tokenizer ({TOKENIZER_FILE}); copy the model's tokenizer there")
    return tokenizer, tokens


def find_text_side(path: str) -> tuple[Tokenizer | None, SpecialTokens]:
    """Load tokenizer and special ids of a folder that may lack a tokenizer; the ids then come from the configs.

    Raises:
        ValueError: The folder's files contradict each other, or name ids that the policy lacks.
    """
    config = LLaDA2Config.from_pretrained(path)
    tokenizer = _load_tokenizer(path) if (Path(path) / TOKENIZER_FILE).is_file() else None
    try:
        tokens = special_tokens(tokenizer, config, read_generation(Path(path)))
        for name, token in [("mask", tokens.mask), ("pad", tokens.pad), *(("end", stop) for stop in tokens.stops)]:
            if not 0 <= token < config.vocab_size:
                raise ValueError(f"the {name} token {token} is not in the vocabulary of {config.vocab_size}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return tokenizer, tokens


def _load_tokenizer(path: str) -> Tokenizer:
    """Load the tokenizer without references to code that its folder lacks, so that none is saved with it either."""
    tokenizer = load_tokenizer(path)
    auto_map = tokenizer.init_kwargs.pop("auto_map", None)
    present = present_auto_map(auto_map, read_companions(Path(path), auto_map))
    tokenizer.init_kwargs.update({"auto_map": present} if present else {})
    return tokenizer


def build_policy(
    shape: Mapping[str, Any], dtype: str, device: str, seed: int, block_length: int = DEFAULT_BLOCK_LENGTH
) -> tuple[LLaDA2Model, Tokenizer, SpecialTokens]:
    """Make a policy from scratch with a character tokenizer; ids and vocabulary size come from the tokenizer.

    Args:
        shape: Fields of config.json, the recipe's `model.init`.
        dtype: One of `DTYPES`.
        device: See `resolve_device`.
        seed: The run's seed.
        block_length: Tokens per block; kept in config.json, where later decodes find it.

    Raises:
        ValueError: The shape has an unknown key or does not describe a network.
    """
    config, tokenizer = _plan(shape, block_length)
    target = resolve_device(device)
    model = LLaDA2Model(config, dtype=resolve_dtype(dtype), device=target)
    init_weights(model, make_generator(seed, "init", device=target))
    return model, tokenizer, special_tokens(tokenizer, config)


def plan_policy(shape: Mapping[str, Any], block_length: int) -> tuple[Tokenizer, SpecialTokens, PolicyLimits]:
    """Return text side and limits of the policy that `build_policy` would make; raise what it would raise."""
    config, tokenizer = _plan(shape, block_length)
    return tokenizer, special_tokens(tokenizer, config), _limits_of(config, "model.init")


def _plan(shape: Mapping[str, Any], block_length: int) -> tuple[LLaDA2Config, Tokenizer]:
    tokenizer = build_character_tokenizer()
    ids = {
        "vocab_size": len(tokenizer),
        "mask_token_id": tokenizer.mask_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return new_config(shape, {**ids, "block_length": block_length}), tokenizer


def has_adapter_files(folder: Path) -> bool:
    """Tell whether a policy folder holds adapters instead of weights; `load_policy` merges them."""
    return (folder / ADAPTER_CONFIG).is_file()


def copy_policy(source: Path, path: str | Path) -> None:
    """Copy the folder of a policy, whole or not at all."""
    copy_pretrained(source, path)


def save_policy(
    model: nn.Module, path: str | Path, tokenizer: Tokenizer | None, lockstep: Lockstep | None = None
) -> None:
    """Write a policy and its tokenizer in the published Hugging Face layout; all ranks that hold a part of it call."""
    assert isinstance(model, LLaDA2Model)
    save_pretrained(model, path, tokenizer, lockstep=lockstep)
