"""Turn scored completions into what the learner gets, and measure them."""

from collections.abc import Sequence
from statistics import fmean

import torch

from redraft.rewards.scoring.combine import summed_parts
from redraft.rl.config.choices import AdvantageConfig, SoftmaxAdvantage
from redraft.rl.config.schema import RunConfig
from redraft.rl.experience.advantage import group_advantages, normalised_sum, whiten
from redraft.rl.experience.sampler import Sampled
from redraft.rl.protocols import Experience
from redraft.rl.seeding import derive_seed, make_generator
from redraft.rollout.trajectory import Completion, Prompt, group_rollouts


def make_experience(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    rewards: Sequence[float | None],
    advantage: AdvantageConfig,
) -> list[Experience]:
    """Pair completions with their advantages, and leave out those that cannot be compared.

    Args:
        prompts: Requests, in groups.
        completions: Answers, aligned with the prompts.
        rewards: What is learned from; None where a completion is masked.
        advantage: Says how advantages are computed.
    """
    psi = advantage.psi if isinstance(advantage, SoftmaxAdvantage) else 1.0
    reward_of = {prompt.id: reward for prompt, reward in zip(prompts, rewards, strict=True)}
    pairs: list[tuple[Prompt, Completion]] = []
    advantages: list[float | None] = []
    for group in group_rollouts(prompts, completions):
        pairs += zip(group.prompts, group.completions, strict=True)
        own = [reward_of[prompt.id] for prompt in group.prompts]
        advantages += group_advantages(own, advantage.kind, psi)
    if advantage.kind == "reinforce_plus_plus":
        advantages = whiten(advantages)
    return [
        Experience(prompt, completion, value, derive_seed(prompt.seed, "noise"))
        for (prompt, completion), value in zip(pairs, advantages, strict=True)
        if value is not None
    ]


def shaped_rewards(sampled: Sampled, config: RunConfig) -> list[float | None]:
    """What is learned from: the total rewards, or their parts normalised per group."""
    totals = [one.total for one in sampled.scored]
    if config.algorithm.advantage.multi_objective_aggregation == "normalize_then_sum":
        weights = {term.name: term.weight for term in config.rewards if not term.gate}
        parts = [summed_parts(config.rewards, one) for one in sampled.scored]
        members: dict[int, list[int]] = {}
        for index, prompt in enumerate(sampled.prompts):
            members.setdefault(prompt.group, []).append(index)
        for indices in members.values():
            sums = normalised_sum([parts[index] for index in indices], weights)
            for index, value in zip(indices, sums, strict=True):
                totals[index] = value
    return totals


def shuffled(rewards: Sequence[float | None], seed: int, step: int) -> list[float | None]:
    """Give each reward of a batch to a random completion of it, as a control experiment."""
    order = torch.randperm(len(rewards), generator=make_generator(seed, "shuffle_rewards", step))
    return [rewards[index] for index in order.tolist()]


def completion_metrics(completions: Sequence[Completion], seconds: float) -> dict[str, float]:
    """Measure lengths, diversity and the work of the decoder; `seconds` is the time of decoding."""
    tokens = sum(len(completion.token_ids) for completion in completions)
    forwards = sum(completion.num_forwards for completion in completions)
    return {
        "completions/mean_length": tokens / len(completions),
        "completions/clipped_fraction": fmean(float(c.finish_reason == "length") for c in completions),
        "completions/unique_fraction": len({c.token_ids for c in completions}) / len(completions),
        "decode/tokens_per_forward": tokens / forwards,
        "decode/forwards": forwards / len(completions),
        "decode/edits_per_completion": fmean(c.trace.num_edits for c in completions),
        "decode/tokens_per_s": tokens / seconds,
        "time/rollout_s": seconds,
    }
