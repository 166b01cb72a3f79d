"""The learner: completions with advantages in, one or more optimizer steps out.

**Guarantees**
    * The gradient is that of the whole batch's loss, exactly, whatever the size of the micro-batches. At most one
      view's graph is in memory at a time (docs/math.md eq 46).
    * All policies of a ratio are scored on the same noise draws; other log-probabilities are refused.
    * An update is a function of settings, weights, optimizer state, completions and policy version: a resumed run
      repeats it bit for bit on a CPU; on a GPU some sums into shared places have no fixed order.
    * If a gradient is not finite, the optimizer step is not taken and FloatingPointError is raised.

**Assumes**
    * The rollouts were written by the policy that the learner holds when `update` begins. It is the old policy of all
      ratios; `correction.rollout` corrects for differences between the learner's and the engine's numerics.
    * The network has no dropout that is active in eval mode, so two scorings of one view by equal weights are equal.

**Rejected alternatives**
    * One graph over all views: its memory grows with the number of views.
    * Old log-probabilities from the rollout engine: they exist for the decoder's own states only, and the engine's
      numerics would enter every ratio.
    * Scoring the old policy before the first optimizer step too: its ratios are 1 whatever the values, so the pass is
      spent only where the loss needs the values themselves.
"""

import copy
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from redraft.rl.config.choices import ElboAnchor
from redraft.rl.config.estimators import OnTrajectory
from redraft.rl.config.schema import RunConfig
from redraft.rl.learner.metrics import MetricSums, add_sums, mismatch_sums, ratio_count, update_metrics
from redraft.rl.learner.microbatches import (
    MicroBatch,
    composite_tokens,
    idle_microbatch,
    scored_terms,
    split_by_tokens,
)
from redraft.rl.learner.minibatches import learned_rows, minibatches
from redraft.rl.learner.optim import freeze_router, hold_drift, make_optimizer, set_learning_rate
from redraft.rl.learner.scoring import Scorer
from redraft.rl.models.adapter import adapters_of, adapters_off
from redraft.rl.objective.policy_loss import policy_loss
from redraft.rl.objective.terms import Normaliser, Policies
from redraft.rl.parallel.load import rank_load
from redraft.rl.parallel.lockstep import Alone, Lockstep
from redraft.rl.parallel.norm import clip_grad_norm
from redraft.rl.parallel.whereabouts import Whereabouts
from redraft.rl.protocols import Experience
from redraft.rl.views import View, draft_view, make_views
from redraft.rl.views.canvas import CanvasBatch, collate, redrawn
from redraft.rollout.trajectory import SpecialTokens

LARGEST_SLOPE = 1e12


class Learner:
    """Holds the policy, the reference policy if the loss needs one, and the optimizer; one rank of several, or alone.

    Args:
        model: The policy.
        config: The recipe.
        tokens: Special ids.
        reference: The starting policy, frozen; None takes a copy of `model` if the loss needs one, or `model` itself
            with its adapters off.
        lockstep: The other ranks, which are given the same rows.
        whereabouts: Where the learner notes what it is doing.
    """

    def __init__(
        self,
        model: nn.Module,
        config: RunConfig,
        tokens: SpecialTokens,
        reference: nn.Module | None = None,
        lockstep: Lockstep | None = None,
        whereabouts: Whereabouts | None = None,
    ) -> None:
        model.eval()  # dropout would give the current, the old and the reference policy different masks in each pass
        self.model, self.config, self.tokens, self.reference = model, config, tokens, reference
        if reference is None and config.algorithm.needs_reference:
            self.reference = model if adapters_of(model) else copy.deepcopy(model).requires_grad_(False)
        self.lockstep = lockstep or Alone()
        self.scorer = Scorer(config, tokens, self.lockstep, whereabouts)
        if config.trainer.freeze_router:
            freeze_router(model)
        self.optimizer = make_optimizer(model, config.trainer, config.seed)
        self.policy_version = 0

    def update(self, rows: Sequence[Experience]) -> dict[str, float]:
        """Learn from one batch of rollouts.

        Completions without a gradient, such as those with advantage 0, are left out unless the loss needs them. They
        still count in every normaliser.

        Args:
            rows: All completions of the batch that have a score.

        Returns:
            Metrics, named as in docs/metrics.md.

        Raises:
            FloatingPointError: A gradient is not finite; that optimizer step was not taken.
        """
        started, algorithm = time.perf_counter(), self.config.algorithm
        learned = learned_rows(rows, algorithm)
        parts = minibatches(learned, algorithm, self.config.seed, self.policy_version)
        own: MetricSums = {}
        passes = self._prepare_passes([self._share(part) for part in parts], own)
        sums = self.lockstep.total(own)
        last: MetricSums = {}
        for iteration in range(algorithm.update.num_iterations):
            prepared = passes[iteration % len(passes)]
            for index, (part, micros) in enumerate(zip(parts, prepared, strict=True)):
                normaliser = self._normaliser(rows, share=len(part) / len(learned))
                last = self._optimizer_step(micros, normaliser, fresh=iteration == 0 and index == 0)
                add_sums(sums, last)
        if len(parts) * algorithm.update.num_iterations > 1:
            self._hold_drift(last, sums)
        self.policy_version += 1
        sums |= rank_load(self.model, self.lockstep)
        return update_metrics(sums) | {
            "objective/learned_rows": float(len(learned)),
            "time/update_s": time.perf_counter() - started,
        }

    def _prepare_passes(self, parts: Sequence[Sequence[Experience]], sums: MetricSums) -> list[list[list[MicroBatch]]]:
        """Make what depends on the old policy, before the first optimizer step changes it.

        Returns:
            The micro-batches of every minibatch, once for all iterations, or once per iteration if each redraws.
        """
        algorithm = self.config.algorithm
        number = algorithm.update.num_iterations if algorithm.update.redraw else 1
        return [
            [self._prepare(part, redraw, self._needs_old(index, redraw), sums) for index, part in enumerate(parts)]
            for redraw in range(number)
        ]

    def _needs_old(self, index: int, redraw: int) -> bool:
        """Whether a minibatch needs the old policy's log-probabilities, or its routes.

        The first minibatch of an update is stepped on by the old policy itself: all its ratios are 1 whatever the
        values. That holds as long as no later iteration uses the same views again.
        """
        algorithm = self.config.algorithm
        used_once = algorithm.update.redraw or algorithm.update.num_iterations == 1
        only_by_the_old_policy = index == 0 and redraw == 0 and used_once
        return not only_by_the_old_policy or algorithm.needs_values or algorithm.correction.route_replay == "old"

    def _share(self, rows: Sequence[Experience]) -> list[Experience]:
        """Choose this rank's completions of a minibatch: whole groups where the loss compares inside them."""
        units: dict[int, list[Experience]] = {}
        for index, row in enumerate(rows):
            units.setdefault(row.prompt.group if self.config.algorithm.compares_in_groups else index, []).append(row)
        block_length = self.config.rollout.decode.block_length
        return self.lockstep.share(list(units.values()), lambda unit: composite_tokens(unit, block_length))

    def _prepare(self, rows: Sequence[Experience], redraw: int, needs_old: bool, sums: MetricSums) -> list[MicroBatch]:
        """Make the micro-batches of a minibatch, with what the old and the reference policy say about their views."""
        correction = self.config.algorithm.correction
        micros = self._with_views(rows, redraw)
        if correction.path_check != "off":
            self._check_paths(micros, sums)
        if needs_old:
            self._score_old(micros, sums)
        if self.reference is not None:
            with adapters_off(self.reference):
                scored = self.scorer.all(self.reference, micros, routes=False)
            for micro, values in zip(micros, scored, strict=True):
                micro.reference = values
        return micros

    def _with_views(self, rows: Sequence[Experience], redraw: int) -> list[MicroBatch]:
        """Split completions into micro-batches, and make their views; a rank without completions gets an idle one."""
        algorithm, decode = self.config.algorithm, self.config.rollout.decode
        budget, device = self.config.trainer.tokens_per_microbatch, next(self.model.parameters()).device
        batches = [
            redrawn(collate(some, decode.block_length, self.tokens.pad, device), redraw)
            for some in split_by_tokens(rows, decode.block_length, budget)
        ]
        views = [make_views(batch, algorithm, self.tokens.mask, decode.edit_sampling == "sample") for batch in batches]
        self._add_drafts(batches, views)
        recorded = algorithm.correction.route_replay in {"rollout", "compare"}
        micros = [MicroBatch.of(*both, recorded) for both in zip(batches, views, strict=True)]
        return micros or [idle_microbatch(decode.block_length, self.tokens.pad, device)]

    def _add_drafts(self, batches: Sequence[CanvasBatch], views: Sequence[list[View]]) -> None:
        """Add views of edits of what the policy itself would write, if the estimator has such."""
        estimator = self.config.algorithm.estimator
        if isinstance(estimator, OnTrajectory) or estimator.edits.kind != "draft":
            return
        number = estimator.edits.num_views
        drafts = iter(self.scorer.drafts(self.model, batches, [some[:number] for some in views]))
        for batch, some in zip(batches, views, strict=True):
            some += [draft_view(batch, view, next(drafts), at) for at, view in enumerate(some[:number])]

    def _check_paths(self, micros: Sequence[MicroBatch], sums: MetricSums) -> None:
        """Count the states in which the policy would act on other positions than the decoder did (docs/math.md eq 45).

        With `correction.path_check: mask`, nothing is scored of the sequences that hold such a state.
        """
        shown = [[view for view in micro.views if view.denoising_step is not None] for micro in micros]
        found = iter(self.scorer.path_mismatches(self.model, [micro.batch for micro in micros], shown))
        for micro, views in zip(micros, shown, strict=True):
            differs = torch.zeros_like(micro.batch.advantages, dtype=torch.bool)
            for view in views:
                assert view.denoising_step is not None
                mismatch = next(found)
                differs |= mismatch.any(-1)
                states = (view.denoising_step >= 0).sum()
                add_sums(sums, {"path_mismatch": mismatch.sum().item(), "path_states": states.item()})
            if self.config.algorithm.correction.path_check == "mask":
                micro.leave_out(differs)

    def _score_old(self, micros: Sequence[MicroBatch], sums: MetricSums) -> None:
        """Score all views by the policy as it is now, and compare with what the rollout engine recorded."""
        keep = self.config.algorithm.correction.route_replay == "old"
        for micro, old in zip(micros, self.scorer.all(self.model, micros, keep_routes=keep), strict=True):
            micro.old = old
            for view, values in zip(micro.views, old.values.split(micro.sizes), strict=True):
                add_sums(sums, mismatch_sums(values, view))

    def _optimizer_step(self, micros: Sequence[MicroBatch], normaliser: Normaliser, fresh: bool) -> MetricSums:
        """Take one optimizer step.

        Args:
            micros: The micro-batches of a minibatch.
            normaliser: Of this minibatch.
            fresh: No step was taken on the batch's rollouts yet, so all ratios are 1.
        """
        rate = set_learning_rate(self.optimizer, self.config.trainer, self.policy_version)
        self.optimizer.zero_grad(set_to_none=True)
        sums = self.lockstep.total(self._accumulate(micros, normaliser, fresh))
        norm = clip_grad_norm(self.model.parameters(), self.config.trainer.max_grad_norm, self.lockstep)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"gradient norm is {norm.item()} at policy version {self.policy_version}")
        self.optimizer.step()
        add_sums(sums, {"steps": 1.0, "grad_norm": norm.item(), "learning_rate": rate})
        return sums

    def _accumulate(self, micros: Sequence[MicroBatch], normaliser: Normaliser, fresh: bool) -> MetricSums:
        """Add the loss's gradient to the parameters, by proxy (docs/math.md eq 46).

        1. Score all views without a graph: a vector of log-probabilities. Before the batch's first optimizer step
           no pass is spent on it: the values are those of the old policy, or zeros if no value matters.
        2. Compute the loss from that vector, and its slope by every entry; no network takes part.
        3. Score view by view with a graph, and send each view's slopes backward through it.

        Returns:
            Sums over this rank's completions; none if no rank has anything to score.
        """
        scored = sum(size for micro in micros for size in micro.sizes)
        if not self.lockstep.total({"scored": scored})["scored"]:
            return {}
        algorithm = self.config.algorithm
        terms = scored_terms(micros)
        policies = self._policies(micros, fresh)
        loss, sums = policy_loss(policies, terms, algorithm, normaliser)
        totals, values = self.scorer.replay(self.model, micros, self._slopes(loss, policies.current))
        if fresh and isinstance(algorithm.regulariser.anchor, ElboAnchor):
            # The first pass may have spared the values. The anchor's slope does not need them, but its value does.
            loss, sums = policy_loss(Policies(values, values, policies.reference), terms, algorithm, normaliser)
        totals |= {name: value.item() for name, value in sums.items()}
        return totals | {"loss": loss.item(), "sequences": float((terms.editable > 0).sum())}

    def _policies(self, micros: Sequence[MicroBatch], fresh: bool) -> Policies:
        """Collect the log-probabilities of all policies that the loss compares.

        A fresh policy is the old one: its log-probabilities are taken from there, and no pass is spent on them.
        """
        old = [micro.old_or_zeros for micro in micros]
        current = old if fresh else self.scorer.all(self.model, micros)
        return Policies.joined(current, old, [micro.reference for micro in micros])

    def _slopes(self, loss: Tensor, log_probs: Tensor) -> Tensor:
        """Slopes of the loss by every log-probability, scaled down together if one would leave the range of fp32.

        The scale is 1 unless a ratio has left all bounds, which a clip allows for negative advantages. Clipping the
        gradient's norm, far below these numbers, then gives the same optimizer step as with the slopes as they are.
        """
        (slopes,) = torch.autograd.grad(loss, log_probs)
        largest = self.lockstep.largest(torch.cat([slopes.abs(), slopes.new_zeros(1)]).amax())
        scale = (LARGEST_SLOPE / largest).clamp_max(1.0)
        return slopes * scale

    def _normaliser(self, rows: Sequence[Experience], share: float) -> Normaliser:
        """The constants of the batch, scaled to the share of it that one optimizer step learns from."""
        tokens = sum(len(row.completion.canvas_ids) for row in rows)
        longest = self.config.rollout.decode.max_completion_length
        return Normaliser(num_sequences=len(rows) * share, max_tokens=longest, num_tokens=tokens * share)

    def _hold_drift(self, last: MetricSums, sums: MetricSums) -> None:
        """Report how far the policy had moved at the batch's last optimizer step, and scale the learning rate by it.

        Args:
            last: Sums of the last optimizer step.
            sums: Of the batch. Its drift becomes that of the last step alone.
        """
        target = self.config.algorithm.update.target_drift
        sums["drift"], sums["drifting"] = last.get("drift", 0.0), ratio_count(last)
        if target and sums["drifting"]:
            hold_drift(self.optimizer, sums["drift"] / sums["drifting"], target)
