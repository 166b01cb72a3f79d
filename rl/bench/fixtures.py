"""The policies that the estimators are measured on: tiny LLaDA2 networks, trained for seconds on synthetic rows."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rl.bench.exact import BlockSpace
from rl.bench.pretrain import PretrainConfig, Rows, pretrain
from rl.optim import freeze_router
from rl.policy import build_bare_policy
from rl.seeding import derive_seed
from rollout.trajectory import SpecialTokens

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "rope_theta": 100.0,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
"""A dense layer and a routed one."""

MODULUS, SLOTS = 4, 5  # 4 digits and the mask in 5 slots: 3125 states
LANGUAGE, LONG_BLOCK = 8, 32


@dataclass(frozen=True)
class ProgressionPolicy:
    """A policy that continues arithmetic progressions, and what is right.

    Attributes:
        model: In float64, its router frozen as in training.
        space: The states of its one block of completion.
        prompts: Prompts of one block.
    """

    model: nn.Module
    space: BlockSpace
    prompts: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> SpecialTokens:
        """No token stops a completion, and none is padding."""
        return SpecialTokens(mask=self.space.mask, pad=0, stops=())

    def reward(self, prompt: tuple[int, ...]) -> Float[Tensor, " states"]:
        """1 for the block that continues the prompt's progression, 0 for every other one."""
        right = torch.tensor(_progression(prompt[0], prompt[1] - prompt[0], SLOTS, 2 * SLOTS))
        return (torch.arange(self.space.size) == self.space.index(right)).double()


def train_progression_policy(seed: int, num_prompts: int, steps: int = 400) -> ProgressionPolicy:
    """A policy for progressions modulo 4, taught by a teacher who is right half of the time.

    Otherwise he begins another progression; and one token in ten is any token, which he would want repaired. So the
    tokens of a completion depend on each other, a parallel draft can be inconsistent, and edits have work to do.
    """
    space = BlockSpace(SLOTS, MODULUS + 1, mask=MODULUS)
    random = np.random.default_rng(derive_seed(seed, "progressions"))
    rows = []
    for first, step, other_first, other_step in random.integers(MODULUS, size=(4096, 4)).tolist():
        prompt = _progression(first, step, 0, SLOTS)
        right = _progression(first, step, SLOTS, 2 * SLOTS)
        said = right if random.random() < 0.5 else _progression(other_first, other_step, 0, SLOTS)
        slips = random.random(SLOTS) < 0.1
        rows.append((prompt, np.where(slips, random.integers(MODULUS, size=SLOTS), said).tolist()))
    model = build_bare_policy({**SHAPE, "vocab_size": space.vocab_size}, "float64", "cpu", seed)
    tokens = SpecialTokens(mask=space.mask, pad=0, stops=())
    config = PretrainConfig(steps, 64, 1e-2, seed, block_length=SLOTS, edit_ratio=0.3, t2t_weight=1.0)
    pretrain(model, rows, tokens, config)
    freeze_router(model)
    chosen = random.permutation(MODULUS * MODULUS)[:num_prompts].tolist()
    prompts = tuple(_progression(number // MODULUS, number % MODULUS, 0, SLOTS) for number in chosen)
    return ProgressionPolicy(model, space, prompts)


def _progression(first: int, step: int, begin: int, end: int) -> tuple[int, ...]:
    return tuple((first + step * place) % MODULUS for place in range(begin, end))


def train_language_policy(seed: int, steps: int = 300) -> tuple[nn.Module, Rows]:
    """A policy of one block of 32 tokens of a noisy recurrence, and rows of that language.

    x_i = x_{i-1} + x_{i-2} + 1 (mod 8) with probability 0.8, otherwise any token.
    """
    random = np.random.default_rng(derive_seed(seed, "language"))
    text = random.integers(LANGUAGE, size=(4096, LONG_BLOCK))
    for slot in range(2, LONG_BLOCK):
        follows = random.random(len(text)) < 0.8
        text[follows, slot] = (text[follows, slot - 1] + text[follows, slot - 2] + 1) % LANGUAGE
    rows = [((), tuple(row)) for row in text.tolist()]
    model = build_bare_policy({**SHAPE, "vocab_size": LANGUAGE + 1}, "float64", "cpu", seed)
    pretrain(model, rows, language_tokens(), PretrainConfig(steps, 32, 1e-2, seed, block_length=LONG_BLOCK))
    freeze_router(model)
    return model, rows


def language_tokens() -> SpecialTokens:
    """Special ids of the language's policy."""
    return SpecialTokens(mask=LANGUAGE, pad=0, stops=())
