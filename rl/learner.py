"""The learner: scored views in, one or more optimizer steps out."""

import copy
import time
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rl.batch import CanvasBatch, Experience, collate, split_by_tokens
from rl.config import RunConfig
from rl.likelihood import Scores, score_view
from rl.noising import View, make_views
from rl.objective import Normaliser, Terms, policy_loss
from rl.optim import freeze_router, make_optimizer, set_learning_rate
from rollout.trajectory import SpecialTokens

Sums = dict[str, float]


class Learner:
    """Holds the policy, the reference policy of the KL term if there is one, and the optimizer."""

    def __init__(self, model: nn.Module, config: RunConfig, tokens: SpecialTokens) -> None:
        self.model, self.config, self.tokens = model, config, tokens
        self.reference = copy.deepcopy(model).requires_grad_(False) if config.algorithm.beta > 0 else None
        if config.trainer.freeze_router:
            freeze_router(model)
        self.optimizer = make_optimizer(model, config.trainer)
        self.policy_version = 0

    def update(self, rows: Sequence[Experience]) -> dict[str, float]:
        """Learn from one batch of rollouts.

        Rows with advantage 0 have no gradient; they are left out unless a KL term needs them, and still count in
        every normaliser.

        Args:
            rows: All scorable completions of the step.

        Returns:
            Metrics, named as in docs/metrics.md.

        Raises:
            FloatingPointError: A gradient is not finite; that optimizer step was not taken.
        """
        started = time.perf_counter()
        algorithm = self.config.algorithm
        learned = [row for row in rows if row.advantage != 0 or self.reference is not None]
        size = -(-len(learned) // algorithm.num_minibatches)
        minibatches = [learned[start : start + size] for start in range(0, len(learned), size)] if learned else []
        old = None
        if len(minibatches) * algorithm.num_iterations > 1:
            old = [self._old_log_probs(minibatch) for minibatch in minibatches]
        sums: Sums = defaultdict(float)
        for iteration in range(algorithm.num_iterations):
            for index, minibatch in enumerate(minibatches):
                fresh = iteration == 0 and index == 0
                share = float(len(rows)) * len(minibatch) / len(learned)
                _add(sums, self._optimizer_step(minibatch, old[index] if old and not fresh else None, share))
        self.policy_version += 1
        return _metrics(sums) | {
            "objective/learned_rows": float(len(learned)),
            "time/update_s": time.perf_counter() - started,
        }

    def _optimizer_step(self, rows: Sequence[Experience], old: list[Tensor] | None, share: float) -> Sums:
        """One optimizer step; `old` None: the policy is still the one that made the rollouts, all ratios are 1."""
        rate = set_learning_rate(self.optimizer, self.config.trainer, self.policy_version)
        self.optimizer.zero_grad(set_to_none=True)
        normaliser = Normaliser(num_rows=share, max_tokens=self.config.rollout.decode.max_completion_length)
        sums: Sums = defaultdict(float)
        for index, micro in enumerate(self._split(rows)):
            _add(sums, self._accumulate(micro, old[index] if old else None, normaliser))
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.trainer.max_grad_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"gradient norm is {norm.item()} at policy version {self.policy_version}")
        self.optimizer.step()
        _add(sums, {"steps": 1.0, "grad_norm": norm.item(), "learning_rate": rate})
        return sums

    def _accumulate(self, rows: Sequence[Experience], old: Tensor | None, normaliser: Normaliser) -> Sums:
        """Add the gradient of some rows: the loss's slope by the log-probs, replayed through the network."""
        batch, views = self._views(rows)
        if not any(view.scored.any() for view in views):
            return {}
        terms = _flatten(batch, views)
        if old is not None or self.reference is not None:
            current = self._score_all(self.model, batch, views)
        else:  # before the first update every log ratio is exactly 0, whatever the values: no pass is spent on them
            current = torch.zeros_like(terms.weight)
        reference = self._score_all(self.reference, batch, views) if self.reference is not None else None
        old = current if old is None else old
        leaf = current.clone().requires_grad_()
        loss, sums = policy_loss(leaf, old, reference, terms, self.config.algorithm, normaliser)
        (slope,) = torch.autograd.grad(loss, leaf)
        totals = {name: value.item() for name, value in sums.items()} | {"loss": loss.item()}
        for view, part in zip(views, slope.split([int(view.scored.sum()) for view in views]), strict=True):
            scores = self._score(self.model, batch, view)
            (scores.log_prob * part).sum().backward()
            _add(totals, _view_sums(scores, view))
        return totals | {"rows": float(len(rows))}

    @torch.no_grad()
    def _old_log_probs(self, rows: Sequence[Experience]) -> list[Tensor]:
        return [self._score_all(self.model, *self._views(micro)) for micro in self._split(rows)]

    @torch.no_grad()
    def _score_all(self, model: nn.Module, batch: CanvasBatch, views: Sequence[View]) -> Tensor:
        return torch.cat([self._score(model, batch, view).log_prob for view in views]).double()

    def _score(self, model: nn.Module, batch: CanvasBatch, view: View) -> Scores:
        temperature = 1.0 if self.config.algorithm.estimator == "elbo" else self.config.rollout.decode.temperature
        return score_view(model, batch, view, self.tokens.mask, temperature)

    def _views(self, rows: Sequence[Experience]) -> tuple[CanvasBatch, list[View]]:
        device = next(self.model.parameters()).device
        batch = collate(rows, self.config.rollout.decode.block_length, self.tokens.pad, device)
        score_edits = self.config.rollout.decode.edit_sampling == "sample"
        return batch, make_views(batch, self.config.algorithm, self.tokens.mask, score_edits)

    def _split(self, rows: Sequence[Experience]) -> list[list[Experience]]:
        budget = self.config.trainer.tokens_per_microbatch
        return split_by_tokens(rows, self.config.rollout.decode.block_length, budget)


def _flatten(batch: CanvasBatch, views: Sequence[View]) -> Terms:
    return Terms(
        row=torch.cat([view.scored.nonzero(as_tuple=True)[0] for view in views]),
        weight=torch.cat([view.weight[view.scored] for view in views]).double(),
        edit=torch.cat([view.edit[view.scored] for view in views]),
        advantage=batch.advantages,
        editable=batch.editable.sum(-1).double(),
    )


def _view_sums(scores: Scores, view: View) -> Sums:
    sums = {
        "scored": float(len(scores.log_prob)),
        "entropy": scores.entropy.sum().item(),
        "log_prob": (scores.log_prob.detach() * view.weight[view.scored]).sum().item(),
    }
    if view.rollout_log_prob is not None:
        gap = scores.log_prob.detach() - view.rollout_log_prob[view.scored]
        sums |= {"mismatch": gap.abs().sum().item(), "replayed": float(len(gap))}
    return sums


def _add(sums: Sums, extra: Sums) -> None:
    for name, value in extra.items():
        sums[name] = sums.get(name, 0.0) + value


def _metrics(sums: Sums) -> dict[str, float]:
    """Means from sums; a metric whose denominator never occurred is left out."""
    table = {
        "objective/loss": ("loss", "steps"),
        "objective/kl": ("kl", "steps"),
        "objective/grad_norm": ("grad_norm", "steps"),
        "objective/learning_rate": ("learning_rate", "steps"),
        "objective/clip_fraction": ("clip_fraction", "ratios"),
        "objective/log_ratio_abs": ("log_ratio_abs", "ratios"),
        "objective/entropy": ("entropy", "scored"),
        "objective/log_prob": ("log_prob", "rows"),
        "mismatch/log_prob_abs": ("mismatch", "replayed"),
    }
    return {name: sums[top] / sums[bottom] for name, (top, bottom) in table.items() if top in sums and sums.get(bottom)}
