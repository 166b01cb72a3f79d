"""A LLaDA2 network of a few hundred weights in float64, and what a learner needs around it."""

import torch

from benchmarks.common.plain import plain
from benchmarks.common.policies import decode
from redraft.rewards.term import RewardTerm
from redraft.rl.config.schema import RunConfig
from redraft.rl.config.sections import DataConfig, ModelConfig, RolloutConfig, RolloutDecode, TrainerConfig
from redraft.rl.models.llada2 import LLaDA2Config, LLaDA2Model, init_weights
from redraft.rl.protocols import Experience
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.trajectory import Prompt, SpecialTokens
from shapes import small_shape
from short_names import sections

TOKENS = SpecialTokens(mask=7, pad=0, stops=(1,))
DECODE = RolloutDecode(block_length=4, threshold=0.5, editing_threshold=0.3, max_post_steps=3, max_completion_length=9)
"""Several forwards and several sampled edits per block on `tiny_model()`."""


def tiny_model(vocab_size: int = 8, seed: int = 0, dtype: torch.dtype = torch.float64) -> LLaDA2Model:
    """Dense first layer, routed second one; weights large enough for peaked, context-dependent predictions."""
    shape = small_shape(intermediate_size=16, topk_group=2, rope_theta=100.0, initializer_range=0.4)
    config = LLaDA2Config(vocab_size=vocab_size, **shape)
    model = LLaDA2Model(config, dtype=dtype)
    init_weights(model, torch.Generator().manual_seed(seed))
    return model


def ragged_prompts(lengths: list[int], vocab_size: int = 7) -> list[Prompt]:
    """Prompts of the given lengths without mask tokens."""
    source = torch.Generator().manual_seed(len(lengths))
    draws = [torch.randint(0, vocab_size, (n,), generator=source).tolist() for n in lengths]
    return [Prompt(f"p{i}", tuple(ids), seed=100 + i, group=0) for i, ids in enumerate(draws)]


def rollouts(model: LLaDA2Model, lengths: list[int], decode_config: RolloutDecode = DECODE) -> list[Experience]:
    """Completions that the decoder drew from the model, with advantages of both signs."""
    prompts = ragged_prompts(lengths)
    completions = decode(TorchEngine(model), prompts, decode_config, TOKENS)
    signs = [1.0, -0.7, 0.4, -1.3]
    return [
        Experience(prompt, completion, signs[index % 4], noise_seed=7000 + index)
        for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    ]


def run_config(
    algorithm: dict | None = None, trainer: dict | None = None, decode_config: RolloutDecode = DECODE
) -> RunConfig:
    """A run's settings whose learner neither clips gradients nor splits batches unless told to."""
    return RunConfig(
        output_dir="unused",
        model=ModelConfig(path="unused"),
        data=DataConfig(path="arithmetic"),
        rewards=[RewardTerm(fn="math_accuracy")],
        rollout=RolloutConfig(decode=decode_config),
        algorithm=plain(sections(algorithm or {})),
        trainer=TrainerConfig(**{"learning_rate": 1e-3, "max_grad_norm": 1e12, **(trainer or {})}),
    )


def nudge(model: LLaDA2Model, size: float) -> None:
    """Move every weight by a random step of standard deviation `size`."""
    source = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, dtype=parameter.dtype, generator=source)


def flat_gradient(model: LLaDA2Model) -> torch.Tensor:
    """Of the last backward pass, of all parameters in one vector; it is not all zero."""
    slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    flat = torch.cat([slope.flatten() for slope in slopes])
    assert flat.abs().max() > 1e-4
    return flat.clone()
