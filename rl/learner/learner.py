"""The learner: scored views in, one or more optimizer steps out."""

import copy
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from redraft.rl.config.schema import RunConfig
from redraft.rl.learner.metrics import (
    MetricSums,
    add_sums,
    mismatch_sums,
    ratio_count,
    route_sums,
    update_metrics,
    view_sums,
)
from redraft.rl.learner.microbatches import MicroBatch, scored_terms, split_by_tokens
from redraft.rl.learner.minibatches import learned_rows, minibatches
from redraft.rl.learner.optim import freeze_router, hold_drift, make_optimizer, set_learning_rate
from redraft.rl.likelihood.routes import earlier_routes, trajectory_routes
from redraft.rl.likelihood.score import Scores, draft_tokens, path_mismatch, score_view
from redraft.rl.models.route_tape import RouteTape, routed
from redraft.rl.objective.policy_loss import policy_loss
from redraft.rl.objective.terms import LogProbs, Normaliser, Policies
from redraft.rl.protocols import Experience
from redraft.rl.views import draft_view, draws_mark, make_views
from redraft.rl.views.canvas import CanvasBatch, collate, redrawn
from redraft.rollout.trajectory import SpecialTokens

LARGEST_SLOPE = 1e12


class Learner:
    """Holds the policy, the reference policy if the loss needs one, and the optimizer."""

    def __init__(self, model: nn.Module, config: RunConfig, tokens: SpecialTokens) -> None:
        model.eval()  # dropout would give the new, the old and the reference policy other masks in each pass
        self.model, self.config, self.tokens = model, config, tokens
        self.reference = copy.deepcopy(model).requires_grad_(False) if config.algorithm.needs_reference else None
        if config.trainer.freeze_router:
            freeze_router(model)
        self.optimizer = make_optimizer(model, config.trainer)
        self.policy_version = 0

    def update(self, rows: Sequence[Experience]) -> dict[str, float]:
        """Learn from one batch of rollouts.

        Rows without a gradient, such as those with advantage 0, are left out unless the loss needs them, and still
        count in every normaliser.

        Args:
            rows: All scorable completions of the step.

        Returns:
            Metrics, named as in docs/metrics.md.

        Raises:
            FloatingPointError: A gradient is not finite; that optimizer step was not taken.
        """
        started, algorithm = time.perf_counter(), self.config.algorithm
        learned = learned_rows(rows, algorithm)
        parts = minibatches(learned, algorithm, self.config.seed, self.policy_version)
        off_policy = len(parts) * algorithm.num_iterations > 1
        passes = algorithm.num_iterations if algorithm.redraw else 1
        sums: MetricSums = defaultdict(float)
        last: MetricSums = {}
        # Whatever depends on the old policy is made before the first step changes it.
        plan = [
            [self._prepare(some, update, self._needs_old(index, update), sums) for index, some in enumerate(parts)]
            for update in range(passes)
        ]
        for iteration in range(algorithm.num_iterations):
            for index, minibatch in enumerate(parts):
                share = len(minibatch) / len(learned)
                fresh = iteration == 0 and index == 0
                last = self._optimizer_step(plan[iteration % passes][index], self._normaliser(rows, share), fresh)
                add_sums(sums, last)
        if off_policy:
            sums["drift"], sums["drifting"] = last.get("drift", 0.0), ratio_count(last)
            if algorithm.target_drift and sums["drifting"]:
                hold_drift(self.optimizer, sums["drift"] / sums["drifting"], algorithm.target_drift)
        self.policy_version += 1
        return update_metrics(sums) | {
            "objective/learned_rows": float(len(learned)),
            "time/update_s": time.perf_counter() - started,
        }

    def _needs_old(self, index: int, update: int) -> bool:
        """Whether a minibatch needs the old policy's log-probabilities, or its routes.

        The first one of an update is stepped on by the old policy itself, where all ratios are 1 whatever the values.
        """
        algorithm = self.config.algorithm
        once = algorithm.redraw or algorithm.num_iterations == 1
        only_first = index == 0 and update == 0 and once
        return not only_first or algorithm.needs_values or algorithm.route_replay == "old"

    def _prepare(self, rows: Sequence[Experience], update: int, needs_old: bool, sums: MetricSums) -> list[MicroBatch]:
        """Views of a minibatch, and what the old and the reference policy say about them."""
        budget, block_length = self.config.trainer.tokens_per_microbatch, self.config.rollout.decode.block_length
        device, algorithm = next(self.model.parameters()).device, self.config.algorithm
        made: list[MicroBatch] = []
        for some in split_by_tokens(rows, block_length, budget):
            batch = redrawn(collate(some, block_length, self.tokens.pad, device), update)
            micro = self._with_views(batch)
            if algorithm.path_check != "off":
                micro = self._check_paths(micro, sums)
            if needs_old:
                micro.old = self._score_all(self.model, micro, keep_routes=algorithm.route_replay == "old")
                for view, values in zip(micro.views, micro.old.values.split(micro.sizes), strict=True):
                    add_sums(sums, mismatch_sums(values, view))
            if self.reference is not None:
                micro.reference = self._score_all(self.reference, micro)
            made.append(micro)
        return made

    def _with_views(self, batch: CanvasBatch) -> MicroBatch:
        algorithm, decode = self.config.algorithm, self.config.rollout.decode
        views = make_views(batch, algorithm, self.tokens.mask, decode.edit_sampling == "sample")
        if algorithm.t2t_views == "draft" and not algorithm.on_trajectory:
            for number, view in enumerate(views[: algorithm.num_t2t]):
                draft = draft_tokens(self.model, batch, view, number, self.tokens.mask)
                views.append(draft_view(batch, view, draft, number))
        given = algorithm.route_replay in {"rollout", "compare"}
        steps = [view.denoising_step if given else None for view in views]
        routes = [None if step is None else trajectory_routes(batch, step) for step in steps]
        return MicroBatch(batch, views, draws_mark(views), routes)

    def _check_paths(self, micro: MicroBatch, sums: MetricSums) -> MicroBatch:
        """Compare the slots that the policy would act on with the recorded ones; leave out rows that differ if told."""
        decode, differs = self.config.rollout.decode, torch.zeros_like(micro.batch.advantages, dtype=torch.bool)
        for view in micro.views:
            if view.denoising_step is not None:
                mismatch = path_mismatch(self.model, micro.batch, view, decode, self.tokens.mask)
                differs |= mismatch.any(-1)
                add_sums(
                    sums,
                    {"path_mismatch": mismatch.sum().item(), "path_states": (view.denoising_step >= 0).sum().item()},
                )
        if self.config.algorithm.path_check == "mask":
            # Nothing of them is scored: without an advantage alone they would still be in the KL.
            kept = ~differs
            micro.batch = replace(micro.batch, advantages=micro.batch.advantages * kept)
            micro.views = [
                replace(view, scored=view.scored & kept[:, None], weight=view.weight * kept[:, None])
                for view in micro.views
            ]
        return micro

    def _optimizer_step(self, micros: Sequence[MicroBatch], normaliser: Normaliser, fresh: bool) -> MetricSums:
        """One optimizer step; `fresh`: no step was taken on these rollouts yet, so all ratios are 1."""
        rate = set_learning_rate(self.optimizer, self.config.trainer, self.policy_version)
        self.optimizer.zero_grad(set_to_none=True)
        sums = self._accumulate(micros, normaliser, fresh)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.trainer.max_grad_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"gradient norm is {norm.item()} at policy version {self.policy_version}")
        self.optimizer.step()
        add_sums(sums, {"steps": 1.0, "grad_norm": norm.item(), "learning_rate": rate})
        return sums

    def _accumulate(self, micros: Sequence[MicroBatch], normaliser: Normaliser, fresh: bool) -> MetricSums:
        """Add the gradient: the loss's slope by all log-probs, replayed through the network view by view (eq 46)."""
        if not any(size for micro in micros for size in micro.sizes):
            return {}
        terms = scored_terms(micros)
        blank = [LogProbs(torch.zeros(sum(micro.sizes), dtype=torch.float64, device=terms.sequence.device), micro.mark)
                 for micro in micros]  # fmt: skip
        # Before the first update every log ratio is exactly 0, whatever the values: no pass is spent on them.
        old = [micro.old or none for micro, none in zip(micros, blank, strict=True)]
        current = old if fresh else [self._score_all(self.model, micro) for micro in micros]
        reference = [micro.reference for micro in micros]
        policies = Policies.joined(current, old, reference)
        loss, sums = policy_loss(policies, terms, self.config.algorithm, normaliser)
        (slope,) = torch.autograd.grad(loss, policies.current)
        slope *= _shrinking(slope)
        parts = iter(slope.split([size for micro in micros for size in micro.sizes]))
        totals: MetricSums = {}
        values: list[Tensor] = []
        for micro in micros:
            for number, view in enumerate(micro.views):
                scores, tape = self._score(self.model, micro, number)
                (scores.log_prob * next(parts)).sum().backward()
                values.append(scores.log_prob.detach().double())
                add_sums(totals, view_sums(scores, view) | route_sums(tape))
                if micro.old is None:
                    add_sums(totals, mismatch_sums(scores.log_prob, view))
        if fresh and self.config.algorithm.anchor:  # its slope needs no values, but its value does
            now = torch.cat(values)
            loss, sums = policy_loss(Policies(now, now, policies.reference), terms, self.config.algorithm, normaliser)
        totals |= {name: value.item() for name, value in sums.items()}
        return totals | {"loss": loss.item(), "rows": float(len(terms.advantage))}

    @torch.no_grad()
    def _score_all(self, model: nn.Module, micro: MicroBatch, keep_routes: bool = False) -> LogProbs:
        values = [torch.zeros(0, dtype=torch.float64, device=micro.batch.tokens.device)]
        for number in range(len(micro.views)):
            scores, tape = self._score(model, micro, number)
            values.append(scores.log_prob.double())
            if keep_routes and tape is not None:
                micro.routes[number] = earlier_routes(micro.batch, tape.routes)
        return LogProbs(torch.cat(values), micro.mark)

    def _score(self, model: nn.Module, micro: MicroBatch, number: int) -> tuple[Scores, RouteTape | None]:
        """Log-probabilities of one view, and the tape of its routes where they are recorded or replayed."""
        algorithm, view = self.config.algorithm, micro.views[number]
        # What was drawn in a state of the decoder, a left-to-right one too, was drawn at the rollout's temperature.
        replayed = view.denoising_step is not None or (algorithm.estimator == "autoregressive" and not view.anchor)
        temperature = self.config.rollout.decode.temperature if replayed else 1.0
        tape = None
        if algorithm.route_replay != "none" and model is not self.reference:
            tape = routed(model).route_tape(micro.routes[number], replay=algorithm.route_replay != "compare")
        return score_view(model, micro.batch, view, self.tokens.mask, temperature, tape), tape

    def _normaliser(self, rows: Sequence[Experience], share: float) -> Normaliser:
        tokens = sum(len(row.completion.canvas_ids) for row in rows)
        longest = self.config.rollout.decode.max_completion_length
        return Normaliser(num_sequences=len(rows) * share, max_tokens=longest, num_tokens=tokens * share)


def _shrinking(slope: Tensor) -> Tensor:
    """A factor for all slopes of a step, so that none leaves the range of fp32 on its way through the network.

    It is 1 unless a ratio has left all bounds, which a clip allows for negative advantages. Clipping the gradient's
    norm, far below these numbers, then gives the same step as with the slopes as they are.
    """
    return (LARGEST_SLOPE / slope.abs().amax()).clamp_max(1.0)
