"""Angles between gradients of estimators, in the limit or after so many rollouts, and the true policy gradient."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any, Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.common.plain import plain
from benchmarks.common.policies import decode
from benchmarks.estimators.exact import Chain, block_logits, expected_return, make_chain, visits
from benchmarks.estimators.fixtures import SumPolicy
from benchmarks.estimators.surrogates import (
    Table,
    canvases,
    cosine,
    elbo_coefficients,
    flat_gradient,
    sandwich,
    view_coefficients,
    weighted_sum,
)
from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.choices import ElboAnchor
from redraft.rl.config.sections import RolloutDecode
from redraft.rl.experience.advantage import group_advantages
from redraft.rl.protocols import Experience
from redraft.rl.seeding import derive_seed
from redraft.rl.views import make_views
from redraft.rl.views.canvas import collate
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.trajectory import Prompt

GROUP: Final = 8


@dataclass(frozen=True)
class Mode:
    """A way to decode.

    Attributes:
        name: As printed.
        config: Of the decoder.
        order: See `benchmarks.estimators.exact.make_chain`.
    """

    name: str
    config: RolloutDecode
    order: Literal["decoder", "random"] = "decoder"


def _mode(name: str, editing_threshold: float, order: Literal["decoder", "random"] = "decoder") -> Mode:
    settings = {"block_length": 5, "max_completion_length": 5, "max_post_steps": 3, "threshold": 0.6}
    return Mode(name, RolloutDecode.model_validate({**settings, "editing_threshold": editing_threshold}), order)


RANDOM_ORDER: Final = _mode("random order", 1.0, "random")
PARALLEL: Final = _mode("threshold 0.6", 1.0)
EDITING: Final = _mode("threshold 0.6 + edits", 0.5)
MODES: Final = (RANDOM_ORDER, PARALLEL, EDITING)


@dataclass(frozen=True)
class ExactPrompt:
    """One prompt under a policy and a mode, with everything exact.

    Attributes:
        prompt: Its tokens.
        chain: The decoder; with graph.
        value: The return; with graph.
        reward: Of every state as the final one.
        final: Probability of every state as the final one.
        forwards: Expected number of forwards on every state.
    """

    prompt: tuple[int, ...]
    chain: Chain
    value: Float[Tensor, ""]
    reward: Float[Tensor, " states"]
    final: Float[Tensor, " states"]
    forwards: Float[Tensor, " states"]

    @property
    def worth(self) -> Float[Tensor, " states"]:
        """Probability times advantage: what weighs a final block in an infinite sample."""
        return self.final * (self.reward - self.value.detach())


class ExactMode:
    """A policy in one mode on all its prompts, with the true policy gradient of their mean return."""

    def __init__(self, policy: SumPolicy, mode: Mode) -> None:
        self.policy, self.mode = policy, mode
        post_steps = 0 if mode.order == "random" else mode.config.post_steps
        self.prompts = []
        for prompt in policy.prompts:
            logits = block_logits(policy.model, prompt, policy.space)
            chain = make_chain(logits, policy.space, mode.config, mode.order)
            reward = policy.reward(prompt)
            value = expected_return(chain, reward, policy.space, post_steps)[policy.space.blank]
            reached = visits(chain, policy.space, post_steps)
            found = ExactPrompt(prompt, chain, value, reward, reached.final.detach(), reached.forwards.detach())
            self.prompts.append(found)
        self.true = flat_gradient(torch.stack([one.value for one in self.prompts]).sum(), policy.model)

    def angle(self, surrogate: Callable[[ExactPrompt], Float[Tensor, ""]]) -> float:
        """Cosine of a surrogate's gradient, summed over prompts, with the true gradient."""
        total = torch.stack([surrogate(one) for one in self.prompts]).sum()
        return cosine(flat_gradient(total, self.policy.model), self.true)

    def summary(self) -> dict[str, float]:
        """Mean reward, forwards and redrawn visible tokens per completion, exactly."""
        rows = [
            (
                one.value.item(),
                one.forwards.sum().item(),
                (one.forwards @ one.chain.edit.to(one.forwards.dtype).sum(-1)).item(),
            )
            for one in self.prompts
        ]
        return dict(zip(("reward", "forwards", "edits"), map(fmean, zip(*rows, strict=True)), strict=True))

    def of_unmasks(self, one: ExactPrompt) -> Float[Tensor, ""]:
        """The trajectory's likelihood without its edits."""
        (slope,) = torch.autograd.grad(one.value, one.chain.log_prob, retain_graph=True)
        return weighted_sum(slope * one.chain.unmask[..., None], one.chain.log_prob)

    def of_elbo(self, one: ExactPrompt) -> Float[Tensor, ""]:
        """The ELBO with all its masks."""
        return weighted_sum(elbo_coefficients(one.worth, self.policy.space), one.chain.log_prob)

    def of_sandwich(self, one: ExactPrompt) -> Float[Tensor, ""]:
        """SPG's bounds with all their masks."""
        return sandwich(one.chain.log_prob, one.worth, self.policy.space, beta=1.5, mix=0.5)

    def of_views(self, settings: Mapping[str, Any], draws: int) -> Callable[[ExactPrompt], Float[Tensor, ""]]:
        """Views of all final blocks, `draws` noise seeds each; exact where the views are not random."""
        config, space = plain(settings), self.policy.space

        def surrogate(one: ExactPrompt) -> Float[Tensor, ""]:
            total = torch.zeros(space.size, space.length, space.vocab_size, dtype=torch.float64)
            plain = canvases(one.prompt, space.states[space.full], first_seed=0)
            for seed in range(draws):
                batch = replace(plain, noise_seeds=plain.noise_seeds + derive_seed(seed, "angle_views"))
                views = make_views(batch, config, space.mask, score_edits=True)
                total += view_coefficients(batch, views, one.worth[space.full] / draws, space)
            return weighted_sum(total, one.chain.log_prob)

        return surrogate


Rollouts = list[list[Experience]]
"""Completions of each prompt."""


def draw_rollouts(exact: ExactMode, count: int, seed: int) -> Rollouts:
    """Completions from the real decoder, `count` for all prompts together, with advantages inside groups of 8."""
    engine, policy, drawn = TorchEngine(exact.policy.model), exact.policy, []
    for index, one in enumerate(exact.prompts):
        number = count // len(exact.prompts)
        asked = [
            Prompt(f"{index}.{i}", one.prompt, derive_seed(seed, "angle_rollouts", index, i)) for i in range(number)
        ]
        completions = decode(engine, asked, exact.mode.config, policy.tokens)
        blocks = torch.tensor([completion.canvas_ids for completion in completions])
        rewards = one.reward[policy.space.index(blocks)].tolist()
        advantages: list[float | None] = []
        for start in range(0, number, GROUP):
            advantages += group_advantages(rewards[start : start + GROUP], "dr_grpo")
        drawn.append(
            [
                Experience(prompt, completion, advantage or 0.0, derive_seed(prompt.seed, "noise"))
                for prompt, completion, advantage in zip(asked, completions, advantages, strict=True)
            ]
        )
    return drawn


def rollout_angle(exact: ExactMode, rollouts: Rollouts, config: AlgorithmConfig) -> tuple[float, float]:
    """Cosine of an estimator's gradient on some rollouts with the true one, and its forwards per completion.

    At the rollouts' own policy all ratios are 1: the gradient is that of the sum of advantages times views.
    """
    forwards, total = 0.0, torch.zeros((), dtype=torch.float64)
    for one, rows in zip(exact.prompts, rollouts, strict=True):
        table, scored = _rollout_coefficients(exact, rows, config)
        total = total + weighted_sum(table, one.chain.log_prob)
        forwards += scored / len(rollouts)
    return cosine(flat_gradient(total, exact.policy.model), exact.true), forwards


def _rollout_coefficients(exact: ExactMode, rows: Sequence[Experience], config: AlgorithmConfig) -> tuple[Table, float]:
    space = exact.policy.space
    batch = collate(rows, space.length, exact.policy.tokens.pad, "cpu")
    table, forwards = torch.zeros(space.size, space.length, space.vocab_size, dtype=torch.float64), 0.0
    anchor = config.regulariser.anchor
    weight = anchor.weight if isinstance(anchor, ElboAnchor) else 0.0
    for view in make_views(batch, config, space.mask, score_edits=True):
        factor = torch.where(view.edit, config.loss.t2t_weight, 1.0)
        worth = weight * (batch.advantages > 0) if view.anchor else batch.advantages
        table += view_coefficients(batch, [replace(view, weight=view.weight * factor)], worth.double(), space)
        forwards += view.scored.any(-1).double().mean().item()
    return table, forwards


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; 0.0 for a single value."""
    return fmean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
