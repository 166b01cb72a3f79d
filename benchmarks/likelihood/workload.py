"""What the likelihood benchmark computes on: policies of two sizes, real rollouts of them, and their learner."""

from dataclasses import dataclass

import torch

from benchmarks.common.plain import plain
from benchmarks.common.policies import decode
from redraft.rewards.term import RewardTerm
from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.schema import RunConfig
from redraft.rl.config.sections import DataConfig, ModelConfig, RolloutConfig, RolloutDecode, TrainerConfig
from redraft.rl.learner.learner import Learner
from redraft.rl.models.llada2 import LLADA2_MINI, LLaDA2Config, LLaDA2Model, init_weights
from redraft.rl.parallel.lockstep import Lockstep
from redraft.rl.protocols import Experience
from redraft.rl.seeding import make_generator
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.trajectory import Prompt, SpecialTokens

BLOCK = 32
SMALL = LLaDA2Config(
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    num_experts=16,
    num_experts_per_tok=4,
    moe_intermediate_size=128,
    n_group=4,
    topk_group=2,
    rope_theta=10000.0,
    max_position_embeddings=4096,
)
"""LLaDA2.1-mini's proportions at a width for a CPU: its head has 0.4 of the weights that a token meets before it."""
TINY = SMALL.model_copy(
    update={
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "head_dim": 16,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    }
)
"""For tests: no figure of speed is worth anything at this size."""
MINI_STACK = LLADA2_MINI.model_copy(update={"num_hidden_layers": 4})
"""Four layers of LLaDA2.1-mini's shape, the first one dense, with its whole vocabulary."""


@dataclass(frozen=True)
class Workload:
    """A policy and rollouts of it; every completion has the same length."""

    shape: LLaDA2Config
    rows: int
    prompt_length: int
    num_blocks: int
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    @property
    def tokens(self) -> SpecialTokens:
        """The mask is the last id; nothing stops a completion."""
        return SpecialTokens(mask=self.shape.vocab_size - 1, pad=0, stops=())

    @property
    def decode(self) -> RolloutDecode:
        """One forward unmasks a block: the fewest forwards that give a real completion with its trace."""
        length = self.num_blocks * BLOCK
        return RolloutDecode(block_length=BLOCK, threshold=0.0, editing_threshold=1.0, max_completion_length=length)

    def model(self) -> LLaDA2Model:
        """A random policy."""
        model = LLaDA2Model(self.shape, dtype=self.dtype, device=self.device)
        init_weights(model, make_generator(0, "init", device=self.device))
        return model

    @torch.no_grad()
    def rollouts(self, model: LLaDA2Model) -> list[Experience]:
        """Completions of random prompts, with advantages of both signs."""
        source = make_generator(0, "prompts")
        ids = torch.randint(1, self.tokens.mask, (self.rows, self.prompt_length), generator=source).tolist()
        prompts = [Prompt(f"p{row}", tuple(tokens), seed=row) for row, tokens in enumerate(ids)]
        completions = decode(TorchEngine(model), prompts, self.decode, self.tokens)
        return [
            Experience(prompt, completion, advantage=(-1.0) ** row, noise_seed=row)
            for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]

    def learner(
        self,
        model: LLaDA2Model,
        num_views: int,
        tokens_per_microbatch: int = 1 << 20,
        lockstep: Lockstep | None = None,
    ) -> Learner:
        """A learner by `num_views` ELBO views."""
        return Learner(model, self.config(num_views, tokens_per_microbatch), self.tokens, lockstep=lockstep)

    def config(self, num_views: int, tokens_per_microbatch: int = 1 << 20) -> RunConfig:
        """The learner's settings."""
        return RunConfig(
            output_dir="unused",
            model=ModelConfig(path="unused"),
            data=DataConfig(path="arithmetic", max_rows=None),
            rewards=(RewardTerm(fn="math_accuracy"),),
            rollout=RolloutConfig(decode=self.decode),
            algorithm=elbo(num_views),
            trainer=TrainerConfig(learning_rate=1e-6, tokens_per_microbatch=tokens_per_microbatch),
        )


def elbo(num_views: int) -> AlgorithmConfig:
    """Sequence-ratio policy gradient on exact-count ELBO views."""
    return plain({"estimator": {"kind": "elbo", "num_mc": num_views}})
