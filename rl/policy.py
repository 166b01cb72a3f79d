"""Making policies: from a checkpoint folder, or from scratch; the one place that knows which model family it is."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rl.models.llada2.checkpoint import load_pretrained, save_pretrained
from rl.models.llada2.config import LLaDA2Config
from rl.models.llada2.model import LLaDA2Model, init_weights
from rl.seeding import make_generator
from rl.tokenizer import build_character_tokenizer
from rl.weight_sync import WeightUpdate, install
from rollout.chat import Tokenizer, load_tokenizer, special_tokens
from rollout.trajectory import SpecialTokens

TOKENIZER_FILE = "tokenizer_config.json"


def resolve_device(name: str) -> torch.device:
    """`auto` is cuda where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def load_policy(path: str, dtype: str, device: str) -> LLaDA2Model:
    """The policy in a checkpoint folder."""
    return load_pretrained(path, dtype=getattr(torch, dtype), device=resolve_device(device))


def load_text_side(path: str) -> tuple[Tokenizer, SpecialTokens]:
    """Tokenizer and special ids of a checkpoint folder, without its weights."""
    tokenizer, tokens = find_text_side(path)
    if tokenizer is None:
        raise FileNotFoundError(f"{path} holds no tokenizer ({TOKENIZER_FILE}); copy the model's tokenizer there")
    return tokenizer, tokens


def find_text_side(path: str) -> tuple[Tokenizer | None, SpecialTokens]:
    """As `load_text_side`, for folders that may lack a tokenizer: then the ids come from config.json alone."""
    config = LLaDA2Config.from_pretrained(path)
    tokenizer = load_tokenizer(path) if (Path(path) / TOKENIZER_FILE).is_file() else None
    return tokenizer, special_tokens(tokenizer, config)


def build_policy(shape: dict, dtype: str, device: str, seed: int) -> tuple[LLaDA2Model, Tokenizer, SpecialTokens]:
    """A policy from scratch with a character tokenizer; ids and vocabulary size come from the tokenizer."""
    tokenizer = build_character_tokenizer()
    ids = {
        "vocab_size": len(tokenizer),
        "mask_token_id": tokenizer.mask_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LLaDA2Config.from_dict({**shape, **ids})
    target = resolve_device(device)
    model = LLaDA2Model(config, dtype=getattr(torch, dtype), device=target)
    init_weights(model, make_generator(seed, "init", device=target))
    return model, tokenizer, special_tokens(tokenizer, config)


def save_policy(model: nn.Module, path: str | Path, tokenizer: Tokenizer | None) -> None:
    """Write the published Hugging Face layout."""
    assert isinstance(model, LLaDA2Model)
    save_pretrained(model, path, tokenizer)


@dataclass
class RolloutPolicy:
    """A policy inside a rollout worker: follows the learner's weights."""

    model: nn.Module
    version: int = -1

    def install(self, update: WeightUpdate) -> None:
        """Take over one version of the weights."""
        install(self.model, update)
        self.version = update.version


def load_rollout_policy(path: str, dtype: str, device: str) -> RolloutPolicy:
    """Start from a checkpoint; `install` brings the current weights before any work."""
    return RolloutPolicy(load_policy(path, dtype, device))
