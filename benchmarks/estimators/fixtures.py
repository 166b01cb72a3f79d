"""The policies that the estimators are measured on: tiny LLaDA2 networks, trained for seconds on synthetic rows."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.common.policies import build_bare_policy
from benchmarks.common.pretrain import PretrainConfig, Rows, pretrain
from benchmarks.estimators.exact import BlockSpace
from redraft.rl.learner.optim import freeze_router
from redraft.rl.seeding import derive_seed
from redraft.rollout.trajectory import SpecialTokens

SHAPE = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "rope_theta": 100.0,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
"""A dense layer and a routed one."""

MODULUS, SLOTS = 3, 5  # 3 digits and the mask in 5 slots: 1024 states
LANGUAGE, LONG_BLOCK = 8, 32


@dataclass(frozen=True)
class SumPolicy:
    """A policy that writes running sums, often right, and what is right.

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
        """1 for every block whose last sum is that of the prompt's digits."""
        return (self.space.states[:, -1] == sum(prompt) % MODULUS).double()


def train_sum_policy(seed: int, num_prompts: int, steps: int) -> SumPolicy:
    """A policy for running sums modulo 3, a chain of thought in five tokens, taught by a careless teacher.

    He leaves a digit out with probability 0.4 where adding it would wrap around, and goes on from the wrong sum. So
    tokens depend on those before them, and what a parallel draft gets wrong an edit can repair.
    """
    space = BlockSpace(SLOTS, MODULUS + 1, mask=MODULUS)
    random = np.random.default_rng(derive_seed(seed, "sums"))
    prompts = [tuple(map(int, random.integers(MODULUS, size=SLOTS))) for _ in range(4096)]
    rows = [(prompt, _careless_sums(prompt, random)) for prompt in prompts]
    model = build_bare_policy({**SHAPE, "vocab_size": space.vocab_size}, "float32", "cpu", seed)
    tokens = SpecialTokens(mask=space.mask, pad=0, stops=())
    config = PretrainConfig(steps, 64, 5e-3, seed, block_length=SLOTS, edit_ratio=0.2, t2t_weight=0.5)
    pretrain(model, rows, tokens, config)
    freeze_router(model)
    return SumPolicy(model.double(), space, tuple(dict.fromkeys(prompts))[:num_prompts])


def _careless_sums(prompt: tuple[int, ...], random: np.random.Generator) -> tuple[int, ...]:
    sums, total = [], 0
    for digit in prompt:
        if total + digit < MODULUS or random.random() >= 0.4:
            total = (total + digit) % MODULUS
        sums.append(total)
    return tuple(sums)


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
    model = build_bare_policy({**SHAPE, "vocab_size": LANGUAGE + 1}, "float32", "cpu", seed)
    pretrain(model, rows, language_tokens(), PretrainConfig(steps, 32, 1e-2, seed, block_length=LONG_BLOCK))
    freeze_router(model)
    return model.double(), rows


def language_tokens() -> SpecialTokens:
    """Special ids of the language's policy."""
    return SpecialTokens(mask=LANGUAGE, pad=0, stops=())
