"""The learner's passes over views: every pass is a phase that all ranks make with equally many forwards."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from redraft.rl.config.estimators import Autoregressive
from redraft.rl.config.schema import RunConfig
from redraft.rl.learner.metrics import MetricSums, add_sums, mismatch_sums, route_sums, view_sums
from redraft.rl.learner.microbatches import MicroBatch, idle_microbatch
from redraft.rl.likelihood.routes import earlier_routes
from redraft.rl.likelihood.score import ViewScores, draft_tokens, path_mismatch, score_view
from redraft.rl.objective.terms import LogProbs
from redraft.rl.parallel.lockstep import Lockstep
from redraft.rl.parallel.whereabouts import Whereabouts
from redraft.rl.views import View
from redraft.rl.views.canvas import CanvasBatch
from redraft.rollout.engine.protocol import as_routed_model
from redraft.rollout.engine.route_tape import RouteTape
from redraft.rollout.trajectory import SpecialTokens


class Scorer:
    """Scores the views of micro-batches by the policy or the reference policy."""

    def __init__(
        self, config: RunConfig, tokens: SpecialTokens, lockstep: Lockstep, whereabouts: Whereabouts | None = None
    ) -> None:
        self.config, self.tokens, self.lockstep = config, tokens, lockstep
        self.whereabouts = whereabouts or Whereabouts()

    def score(
        self, model: nn.Module, micro: MicroBatch, number: int, routes: bool
    ) -> tuple[ViewScores, RouteTape | None]:
        """Score one view, with a tape of its routes if they are recorded or replayed.

        Args:
            model: The policy or the reference policy.
            micro: Its micro-batch.
            number: Of the view.
            routes: Whether the recipe's route replay is meant for this pass; the reference policy chooses its own.
        """
        algorithm, view = self.config.algorithm, micro.views[number]
        # The tokens of a state of the decoder, and those of the left-to-right estimator, were drawn at the rollout's
        # temperature. An ELBO is that of the network's own distribution.
        from_left = isinstance(algorithm.estimator, Autoregressive) and not view.anchor
        drawn_there = view.denoising_step is not None or from_left
        temperature = self.config.rollout.decode.temperature if drawn_there else 1.0
        tape = None
        if routes and algorithm.correction.route_replay != "none":
            replay = algorithm.correction.route_replay != "compare"
            tape = as_routed_model(model).route_tape(micro.routes[number], replay=replay)
        return score_view(model, micro.batch, view, self.tokens.mask, temperature, tape), tape

    @torch.no_grad()
    def all(
        self, model: nn.Module, micros: Sequence[MicroBatch], *, routes: bool = True, keep_routes: bool = False
    ) -> list[LogProbs]:
        """Score all views of micro-batches without a graph.

        Args:
            model: The policy or the reference policy.
            micros: What to score.
            routes: As for `score`.
            keep_routes: Store the experts of this pass in the micro-batches, for later passes to replay.
        """

        def score(micro: MicroBatch, number: int) -> Tensor:
            scores, tape = self.score(model, micro, number, routes)
            if keep_routes and tape is not None:
                micro.routes[number] = earlier_routes(micro.batch, micro.views[number], tape.routes)
            return scores.log_prob.double()

        phase = "scoring by the reference" if not routes else "scoring"
        values = iter(self._phase(model, phase, [partial(score, *place) for place in _places(micros)]))
        return [LogProbs(torch.cat([next(values) for _ in micro.views]), micro.mark) for micro in micros]

    @torch.no_grad()
    def drafts(self, model: nn.Module, batches: Sequence[CanvasBatch], views: Sequence[Sequence[View]]) -> list[Tensor]:
        """Draw what the policy would write at the scored positions of some views of every batch."""
        return self._phase(
            model,
            "drafts",
            [
                partial(draft_tokens, model, batch, view, number, self.tokens.mask)
                for batch, some in zip(batches, views, strict=True)
                for number, view in enumerate(some)
            ],
        )

    @torch.no_grad()
    def path_mismatches(
        self, model: nn.Module, batches: Sequence[CanvasBatch], views: Sequence[Sequence[View]]
    ) -> list[Tensor]:
        """Find the blocks of some views in which the policy would act on other positions than the decoder did."""
        decode = self.config.rollout.decode
        return self._phase(
            model,
            "path check",
            [
                partial(path_mismatch, model, batch, view, decode, self.tokens.mask)
                for batch, some in zip(batches, views, strict=True)
                for view in some
            ],
        )

    def replay(self, model: nn.Module, micros: Sequence[MicroBatch], slopes: Tensor) -> tuple[MetricSums, Tensor]:
        """Send the slopes of all log-probabilities backward through the network, one view's graph at a time.

        Returns:
            Sums for metrics, and the log-probabilities of all views.
        """
        totals: MetricSums = {}
        sizes = [size for micro in micros for size in micro.sizes]
        parts = iter(slopes.split(sizes))

        def backward(micro: MicroBatch, number: int) -> Tensor:
            view = micro.views[number]
            scores, tape = self.score(model, micro, number, routes=True)
            (scores.log_prob * next(parts)).sum().backward()
            add_sums(totals, view_sums(scores, view) | route_sums(tape))
            if micro.old is None:  # otherwise they were compared when the old policy was scored
                add_sums(totals, mismatch_sums(scores.log_prob, view))
            return scores.log_prob.detach().double()

        values = self._phase(model, "backward", [partial(backward, *place) for place in _places(micros)], backward=True)
        return totals, torch.cat(values)

    def _phase(
        self, model: nn.Module, name: str, calls: Sequence[Callable[[], Tensor]], backward: bool = False
    ) -> list[Tensor]:
        noted = self.whereabouts.noted(name, calls)
        (idle,) = self.whereabouts.noted(f"{name}, idle beside the other ranks", [partial(self._idle, model)])
        results = self.lockstep.run(noted, idle, backward)
        self.whereabouts.enter(f"after {name}")
        return results

    def _idle(self, model: nn.Module) -> None:
        """Run a forward that scores nothing, with its backward pass in a phase that has one: every gradient is 0."""
        block_length, device = self.config.rollout.decode.block_length, next(model.parameters()).device
        scores, _ = self.score(model, idle_microbatch(block_length, self.tokens.pad, device), 0, routes=False)
        if torch.is_grad_enabled():
            scores.log_prob.sum().backward()


def _places(micros: Sequence[MicroBatch]) -> list[tuple[MicroBatch, int]]:
    """List the views of micro-batches by number, in the order of `scored_terms`."""
    return [(micro, number) for micro in micros for number in range(len(micro.views))]
