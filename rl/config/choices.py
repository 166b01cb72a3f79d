"""The six choices of an algorithm as types: estimator, loss, advantage, regulariser, correction, update.

The choices are orthogonal, and every published method is a point on them (`config.presets`). The defaults of the fields
are the default method, `vrbpo`. Importing this loads no torch.
"""

from typing import Annotated, Literal

from pydantic import Field

from redraft.rl.config.estimators import EstimatorConfig, OnTrajectory, SampledTrajectory
from redraft.rl.config.losses import ClipLoss, LossConfig
from redraft.rl.config.section import Section, kind_or

Aggregation = Annotated[
    Literal["sum_then_normalize", "normalize_then_sum"],
    Field(description="Normalise the sum of the rewards, or each reward inside its group before the sum (eq 43)."),
]


class BaselineAdvantage(Section):
    """Rewards minus a baseline, with or without a scale (eq 30 to 33)."""

    kind: Literal["dr_grpo", "leave_one_out", "grpo", "reinforce_plus_plus"] = Field(
        default="dr_grpo",
        description="Reward less the group's mean (dr_grpo), less the others' mean (leave_one_out), over the group's"
        " standard deviation (grpo) or whitened over the batch (reinforce_plus_plus).",
    )
    multi_objective_aggregation: Aggregation = "sum_then_normalize"


class SoftmaxAdvantage(Section):
    """Softmax weights of the rewards (eq 34)."""

    kind: Literal["softmax", "signed_softmax"] = Field(
        default="softmax", description="Softmax of the rewards less 1/n (softmax, DMPO), or of both signs (wd1)."
    )
    psi: float = Field(default=1.0, gt=0, description="Difference in reward that changes a weight by a factor of e.")
    multi_objective_aggregation: Aggregation = "sum_then_normalize"


AdvantageConfig = Annotated[
    BaselineAdvantage | SoftmaxAdvantage,
    Field(discriminator="kind", description="How a reward is compared with the other rewards of its prompt."),
    kind_or("dr_grpo"),
]


class NoKl(Section):
    """No KL to the starting policy."""

    kind: Literal["none"] = Field(default="none", description="Let the policy leave its start.")


class KlPenalty(Section):
    """A KL to the starting policy (eq 27)."""

    kind: Literal["k2", "k3", "k1_reward"] = Field(
        default="k2", description="Form of the KL: a loss (k2, k3), or a part of the reward (k1_reward) (eq 27)."
    )
    beta: float = Field(gt=0, description="Weight of the KL.", examples=[0.01])


class NoAnchor(Section):
    """No anchor."""

    kind: Literal["none"] = Field(default="none", description="Add no term for good completions.")


class ElboAnchor(Section):
    """Supervised training on the completions with positive advantage (eq 28)."""

    kind: Literal["elbo"] = Field(
        default="elbo", description="Raise the ELBO of completions with positive advantage (eq 28)."
    )
    weight: float = Field(gt=0, description="Weight of the ELBO per token.", examples=[0.03])
    num_mc: int = Field(
        default=1, gt=0, description="Masked views of the anchor; estimator elbo has views that serve for both."
    )


class RegulariserConfig(Section):
    """Terms that keep the policy near its start (KL) or near its good completions (anchor), docs/math.md section 7."""

    kl: Annotated[
        NoKl | KlPenalty,
        Field(discriminator="kind", description="Penalty for leaving the starting policy; {beta: 0.01} is a k2."),
        kind_or("k2"),
    ] = NoKl()
    anchor: Annotated[
        NoAnchor | ElboAnchor,
        Field(discriminator="kind", description="Term that raises the likelihood of good completions."),
        kind_or("elbo"),
    ] = NoAnchor()


class NoCorrection(Section):
    """No correction: the rollout engine is assumed to sample from the old policy exactly."""

    kind: Literal["none"] = Field(default="none", description="Do not correct for the rollout engine.")


class TruncatedWeights(Section):
    """Weights of the ratios, min(old policy / rollout engine, cap) (eq 29)."""

    kind: Literal["token", "sequence"] = Field(
        default="token", description="One weight per ratio (token), or one per completion (sequence)."
    )
    cap: float = Field(default=2.0, gt=0, description="Largest weight.")


class CorrectionConfig(Section):
    """Corrections for differences between the rollout engine and the learner (docs/math.md section 8)."""

    rollout: Annotated[
        NoCorrection | TruncatedWeights,
        Field(discriminator="kind", description="Weights that correct for the rollout engine's probabilities."),
        kind_or("none"),
    ] = NoCorrection()
    path_check: Literal["off", "log", "mask"] = Field(
        default="off",
        description="Recompute which positions a step acts on: measure it (log), or leave out completions that differ"
        " (mask).",
    )
    route_replay: Literal["none", "compare", "rollout", "old"] = Field(
        default="none",
        description="Experts of a MoE: chosen anew (none), as the rollout engine (rollout) or the old policy's pass"
        " (old) chose them, or only measured (compare).",
    )


class UpdateConfig(Section):
    """Number of optimizer steps per batch of rollouts, and the trust region of these steps."""

    num_iterations: int = Field(default=1, gt=0, description="Passes over each batch of rollouts.")
    num_minibatches: int = Field(
        default=2,
        gt=0,
        description="Optimizer steps per pass, on groups in random order. Losses without a ratio (reinforce, sandwich)"
        " do not know after a batch's first step that the policy has moved.",
    )
    redraw: bool = Field(
        default=False, description="Draw new noise for each pass; all policies of a pass share the draw."
    )
    target_drift: float = Field(
        default=1e-3,
        ge=0,
        description="Trust region, in nats^2: the learning rate is lowered, and raised again, to keep the mean of"
        " log ratio^2 / 2 at a batch's last optimizer step near this; 0 switches it off.",
    )

    @property
    def steps(self) -> int:
        """Count the optimizer steps per batch of rollouts, if every minibatch has rows."""
        return self.num_iterations * self.num_minibatches


class Choices(Section):
    """One choice for each part of the algorithm; each is valid by itself, and they may still exclude each other."""

    estimator: EstimatorConfig = SampledTrajectory()
    loss: LossConfig = ClipLoss()
    advantage: AdvantageConfig = BaselineAdvantage()
    regulariser: RegulariserConfig = Field(
        default=RegulariserConfig(), description="KL to the starting policy, and ELBO anchor."
    )
    correction: CorrectionConfig = Field(
        default=CorrectionConfig(), description="Corrections for differences between rollout engine and learner."
    )
    update: UpdateConfig = Field(default=UpdateConfig(), description="Optimizer steps per batch, and the trust region.")

    @property
    def on_trajectory(self) -> bool:
        """Tell whether the likelihood is that of the decoder's recorded steps."""
        return isinstance(self.estimator, OnTrajectory)

    @property
    def own_states(self) -> bool:
        """Tell whether every scored step is shown in its own recorded state."""
        return isinstance(self.estimator, OnTrajectory) and self.estimator.own_states

    @property
    def needs_reference(self) -> bool:
        """Tell whether the loss compares with the starting policy."""
        return isinstance(self.regulariser.kl, KlPenalty) or self.loss.kind == "dpo"

    @property
    def needs_values(self) -> bool:
        """Tell whether the slope of the loss depends on log-probabilities even before the first update of a batch."""
        corrected = isinstance(self.correction.rollout, TruncatedWeights)
        return self.needs_reference or self.loss.kind == "sandwich" or corrected

    @property
    def compares_in_groups(self) -> bool:
        """Tell whether a completion's loss depends on others of its group, so that no minibatch may split a group."""
        return self.loss.kind in {"stable", "dpo"} or self.regulariser.kl.kind == "k1_reward"

    @property
    def needs_all_rows(self) -> bool:
        """Tell whether completions without an advantage matter too: in the KL, or in their group's normaliser."""
        return isinstance(self.regulariser.kl, KlPenalty) or self.loss.kind in {"stable", "squared"}
