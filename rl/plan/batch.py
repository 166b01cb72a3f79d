"""Every size that follows from a recipe's batch: completions, micro-batches, views, forwards, optimizer steps."""

import math
from dataclasses import dataclass

from redraft.rl.config.choices import Choices, ElboAnchor
from redraft.rl.config.estimators import Elbo, MergedSteps, NoEdits, OnTrajectory, SampledTrajectory, ShrunkSteps
from redraft.rl.plan.setup import Setup


@dataclass(frozen=True)
class Passes:
    """Forwards per view and step, by what they are for; a view is scored once per pass.

    Two minibatches and one iteration without a reference: the second minibatch needs the old policy's values before
    the first optimizer step and its own after it, so old = current = 1/2, gradient = 1.
    """

    old: float
    current: float
    reference: float
    draft: float
    path_check: float
    gradient: float

    @property
    def without_gradient(self) -> float:
        """All but those with a gradient."""
        return self.old + self.current + self.reference + self.draft + self.path_check


@dataclass(frozen=True)
class Batch:
    """One step of the run: what is decoded, and what the learner makes of it.

    Attributes:
        prompts: Per step.
        completions: Per step, before any is left out for having no advantage.
        most_completions: Decoded where every round of dynamic sampling is used.
        sequence_tokens: Mean tokens of prompt and completion, in whole blocks.
        decoder_forwards: Of one completion, mean.
        composite_tokens: Tokens of the composite input of one completion.
        tokens_per_microbatch: T, the budget.
        sequences_per_microbatch: Completions that fit the budget.
        views: Noisy states per completion.
        minibatches: Parts of the batch, one per optimizer step of a pass.
        optimizer_steps: Per step.
        sequences_per_optimizer_step: Completions of a minibatch.
        sequences_per_rank: Of these, on one rank.
        microbatches: Per rank and optimizer step.
        passes: Forwards per view.
        learner_forwards: Per rank and step, without gradient.
        learner_backwards: Per rank and step; each has a forward of its own.
        learner_tokens: Tokens that pass through one rank's network per step, backward passes not counted.
    """

    prompts: int
    completions: int
    most_completions: int
    sequence_tokens: int
    decoder_forwards: float
    composite_tokens: int
    tokens_per_microbatch: int
    sequences_per_microbatch: int
    views: int
    minibatches: int
    optimizer_steps: int
    sequences_per_optimizer_step: int
    sequences_per_rank: int
    microbatches: int
    passes: Passes
    learner_forwards: int
    learner_backwards: int
    learner_tokens: int


def plan_batch(setup: Setup) -> Batch:
    """Derive the sizes of one step."""
    rollout, algorithm = setup.config.rollout, setup.config.algorithm
    completions = rollout.prompts_per_step * rollout.num_generations
    composite = setup.composite_tokens
    budget, update = setup.config.trainer.tokens_per_microbatch, algorithm.update
    per_step = math.ceil(completions / update.num_minibatches)
    per_rank = math.ceil(per_step / setup.layout.world)
    fitting = max(1, budget // composite)
    views, passes = count_views(algorithm, setup), count_passes(algorithm, count_views(algorithm, setup))
    microbatches = math.ceil(per_rank / fitting)
    calls = microbatches * update.num_minibatches * views
    rows = per_rank * update.num_minibatches
    return Batch(
        prompts=rollout.prompts_per_step,
        completions=completions,
        most_completions=completions * rollout.max_sampling_rounds,
        sequence_tokens=setup.sequence_tokens,
        decoder_forwards=setup.completion_tokens / setup.assumptions.tokens_per_forward,
        composite_tokens=composite,
        tokens_per_microbatch=budget,
        sequences_per_microbatch=min(fitting, per_rank),
        views=views,
        minibatches=update.num_minibatches,
        optimizer_steps=update.steps,
        sequences_per_optimizer_step=per_step,
        sequences_per_rank=per_rank,
        microbatches=microbatches,
        passes=passes,
        learner_forwards=math.ceil(calls * passes.without_gradient),
        learner_backwards=math.ceil(calls * passes.gradient),
        learner_tokens=math.ceil(rows * composite * views * (passes.without_gradient + passes.gradient)),
    )


def count_views(algorithm: Choices, setup: Setup) -> int:
    """Count the views of one completion; all steps of a trajectory are as many as a block takes forwards."""
    estimator, block = algorithm.estimator, setup.config.rollout.decode.block_length
    steps = math.ceil(block / setup.assumptions.tokens_per_forward)
    anchor = algorithm.regulariser.anchor
    anchors = anchor.num_mc if isinstance(anchor, ElboAnchor) and not isinstance(estimator, Elbo) else 0
    if isinstance(estimator, SampledTrajectory):
        return estimator.num_mc + anchors
    if isinstance(estimator, OnTrajectory):
        return _cut(estimator, steps) + anchors
    edits = 0 if isinstance(estimator.edits, NoEdits) else estimator.edits.num_views
    return estimator.num_mc + edits + anchors


def _cut(estimator: OnTrajectory, steps: int) -> int:
    cut = estimator.cut
    if isinstance(cut, ShrunkSteps):
        return math.ceil(steps / cut.steps)
    return min(steps, cut.segments) if isinstance(cut, MergedSteps) else steps


def count_passes(algorithm: Choices, views: int) -> Passes:
    """Count the forwards per view and step that `learner.learner` makes.

    The first minibatch is stepped on by the old policy itself, so its values are needed only where the loss uses them
    or a later iteration scores the same views again.
    """
    update = algorithm.update
    draws = update.num_iterations if update.redraw else 1
    used_once = update.redraw or update.num_iterations == 1
    always = algorithm.needs_values or algorithm.correction.route_replay == "old"
    spared = 0 if always or not used_once else 1
    estimator = algorithm.estimator
    has_drafts = not isinstance(estimator, OnTrajectory) and estimator.edits.kind == "draft"
    drafts = estimator.edits.num_views if has_drafts and not isinstance(estimator.edits, NoEdits) else 0
    return Passes(
        old=(draws * update.num_minibatches - spared) / update.num_minibatches,
        current=(update.steps - 1) / update.num_minibatches,
        reference=float(draws * algorithm.needs_reference),
        draft=draws * drafts / views,
        path_check=float(draws * (algorithm.correction.path_check != "off")),
        gradient=float(update.num_iterations),
    )
