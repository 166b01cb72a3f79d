"""The `algorithm` section of a recipe: estimator x ratio and loss x advantage x regulariser x correction.

The axes are orthogonal and every published method is a point on them (`config.presets`); combinations without a meaning
are refused with the reason. Field defaults are the default method, `vrbpo`; `config.resolve` says what a key changes
beside itself. Importing it loads no torch.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from redraft.rl.config.presets import NEUTRAL
from redraft.rl.config.resolve import COUNTED_NOISE, PAIRED_NOISE, TRAJECTORIES, WHOLE_COMPLETION_LOSSES, resolved


class Section(BaseModel):
    """A frozen block of a recipe; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class AlgorithmConfig(Section):
    """Estimator, ratio, loss, advantage, regulariser and correction; docs/algorithms.md says which when."""

    preset: str | None = Field(
        default=None, description="a published method, empty: vrbpo; the other keys of this section change it"
    )

    # Views: which noisy states are scored (docs/math.md sections 1 to 4).
    estimator: Literal[
        "trajectory", "trajectory_sampled", "autoregressive", "elbo", "random_mask", "mean_field", "coupled"
    ] = "trajectory_sampled"
    num_mc: int = Field(default=2, gt=0, description="views, i.e. composite forwards, per completion")
    step_sampling: Literal["uniform", "surprisal"] = Field(
        default="surprisal", description="trajectory_sampled: law of steps"
    )
    shrink: int = Field(default=1, gt=0, description="trajectory: neighbouring steps scored from one state (TraceRL)")
    merge: int = Field(default=0, ge=0, description="trajectory: segments that its steps are merged into (d2); 0: off")
    lookahead: float = Field(
        default=0.3, ge=0, le=1, description="trajectory: share of a step's weight given to all slots still masked"
    )
    noise: Literal["exact_count", "bernoulli", "cyclic", "gauss", "coupled", "folded"] = Field(
        default="exact_count", description="elbo: law of the number of masked positions"
    )
    stratify: bool = Field(default=True, description="elbo: levels of the views from separate strata")
    count_exponent: float = Field(default=0.0, ge=0, le=2, description="elbo: q(k) ~ k^-a; 0.5 is near the best (eq 7)")
    tiles: bool = Field(default=False, description="elbo: views mask consecutive arcs of one permutation")
    masks_per_level: int = Field(default=1, gt=0, description="elbo: views that share a level (VRPO's n_y)")
    prompt_mask_ratio: float = Field(default=0.0, ge=0, lt=1, description="mean_field: prompt tokens masked too (d1)")
    t2t_views: Literal["none", "recorded", "draft", "random"] = Field(
        default="none", description="edits of estimators without a trajectory: their own recorded, drafted or random"
    )
    num_t2t: int = Field(default=1, gt=0, description="T2T views where t2t_views asks for them")
    t2t_weight: float = Field(default=1.0, ge=0, description="weight of T2T terms beside M2T terms")

    # Ratio and loss (section 5).
    ratio: Literal["token", "position", "sequence"] = "token"
    gamma: float = Field(default=1.0, ge=0, le=1, description="sequence ratio: log ratio / editable tokens ** gamma")
    loss_type: Literal["clip", "reinforce", "cispo", "stable", "bgpo", "squared", "dpo", "sandwich"] = "clip"
    loss_normaliser: Literal["constant", "sequence", "batch"] = Field(
        default="constant", description="token losses: divided by the longest, the own or all completions' lengths"
    )
    epsilon: float = Field(default=0.2, gt=0)
    epsilon_high: float = Field(default=0.28, gt=0)
    t2t_epsilon: float | None = Field(default=None, gt=0, description="clip of T2T ratios; empty: as epsilon")
    t2t_epsilon_high: float | None = Field(default=None, gt=0, description="likewise for epsilon_high")
    psi: float = Field(
        default=1.0, gt=0, description="scale of advantages: psi A in squared, A / psi in softmax weights"
    )
    dpo_beta: float = Field(default=0.1, gt=0, description="dpo: scale of the likelihood-ratio margin")
    bound_beta: float = Field(default=1.5, ge=1, description="sandwich: order of the Renyi upper bound")
    bound_mix: float = Field(default=0.5, ge=0, le=1, description="sandwich: share of the upper bound where A < 0")

    # Advantage (section 6).
    advantage: Literal["dr_grpo", "leave_one_out", "grpo", "reinforce_plus_plus", "signed_softmax", "softmax"] = (
        "dr_grpo"
    )
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = Field(
        default="sum_then_normalize", description="whiten each reward inside its group before the sum, or only the sum"
    )
    overlong_buffer: int = Field(default=0, ge=0, description="DAPO: penalty grows over this many last tokens")

    # Regularisers (section 7).
    beta: float = Field(default=0.0, ge=0, description="weight of the KL to the starting policy")
    kl: Literal["k2", "k3", "k1_reward"] = "k2"
    anchor: float = Field(default=0.0, ge=0, description="weight of the ELBO of completions with positive advantage")
    anchor_mc: int = Field(default=1, gt=0, description="anchor views, where the estimator's own are no ELBO")

    # Corrections (section 8).
    rollout_correction: Literal["none", "token", "sequence"] = Field(
        default="none", description="weight by min(old policy / rollout engine, correction_cap)"
    )
    correction_cap: float = Field(default=2.0, gt=0)
    path_check: Literal["off", "log", "mask"] = Field(
        default="off", description="recompute which slots a step acts on; mask: leave out completions that differ"
    )
    route_replay: Literal["none", "compare", "rollout", "old"] = Field(
        default="none",
        description="MoE: experts as the rollout engine or the old policy's pass chose them; compare: only measure",
    )

    num_iterations: int = Field(default=1, gt=0, description="passes over each batch of rollouts")
    num_minibatches: int = Field(
        default=2,
        gt=0,
        description="optimizer steps per pass, on groups in random order; after a batch's first step only losses with a"
        " ratio (not reinforce, sandwich) know that the policy has moved",
    )
    redraw: bool = Field(default=False, description="new noise for each pass, shared by all policies of that pass")
    target_drift: float = Field(
        default=1e-3,
        ge=0,
        description="trust region: the learning rate is lowered, and raised again, to keep the mean of log ratio^2 / 2"
        " at a batch's last optimizer step near this; 0: off",
    )

    @property
    def on_trajectory(self) -> bool:
        """The likelihood is that of the decoder's recorded steps."""
        return self.estimator in TRAJECTORIES

    @property
    def own_states(self) -> bool:
        """Every scored step is shown in its own recorded state."""
        return self.on_trajectory and self.shrink == 1 and self.merge == 0

    @property
    def needs_reference(self) -> bool:
        """The loss compares with the starting policy."""
        return self.beta > 0 or self.loss_type == "dpo"

    @property
    def needs_values(self) -> bool:
        """The slope of the loss depends on log-probabilities even before the first update, when all ratios are 1."""
        return self.needs_reference or self.loss_type == "sandwich" or self.rollout_correction != "none"

    @property
    def compares_in_groups(self) -> bool:
        """The loss of a completion depends on its group's others, so a group must not be split over minibatches."""
        return self.loss_type in {"stable", "dpo"} or (self.kl == "k1_reward" and self.beta > 0)

    @property
    def needs_all_rows(self) -> bool:
        """Completions without an advantage matter too: they enter the KL, or their group's normaliser."""
        return self.beta > 0 or self.loss_type in {"stable", "squared"}

    @model_validator(mode="before")
    @classmethod
    def _fill_in_what_is_not_written(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return resolved(given, {name: field.default for name, field in cls.model_fields.items()})

    @model_validator(mode="after")
    def _ratio_and_loss_fit_the_estimator(self) -> "AlgorithmConfig":
        if self.estimator == "elbo" and self.ratio != "sequence":
            raise ValueError(f"ratio {self.ratio!r}: an ELBO has no token ratio; use ratio: sequence")
        if self.ratio == "position" and (self.on_trajectory or self.estimator == "autoregressive"):
            raise ValueError("ratio 'position' sums a position's views (mean_field, coupled, random_mask); use token")
        if self.loss_type in WHOLE_COMPLETION_LOSSES and self.ratio != "sequence":
            raise ValueError(f"loss_type {self.loss_type!r} is defined on whole completions; use ratio: sequence")
        if self.loss_type == "bgpo" and (self.estimator != "elbo" or self.t2t_views != "none"):
            raise ValueError("loss_type 'bgpo' needs equally many views of all completions; use estimator: elbo")
        if self.loss_type == "sandwich" and (self.estimator != "elbo" or self.num_mc < 2):
            raise ValueError(
                "loss_type 'sandwich' bounds a mean over masks; use estimator: elbo and num_mc of 2 or more"
            )
        if self.kl != "k2" and self.loss_type == "dpo":
            raise ValueError("loss_type 'dpo' already measures against the starting policy; use beta: 0 and kl: k2")
        return self

    @model_validator(mode="after")
    def _drift_can_be_seen(self) -> "AlgorithmConfig":
        if self.target_drift and self.num_iterations * self.num_minibatches == 1:
            raise ValueError(
                "target_drift compares the optimizer steps of a batch; use num_minibatches: 2, or target_drift: 0"
            )
        return self

    @model_validator(mode="after")
    def _noise_is_a_law(self) -> "AlgorithmConfig":
        pairs = self.estimator == "elbo" and self.noise in PAIRED_NOISE
        if pairs and (self.num_mc % 2 or self.masks_per_level > 1):
            raise ValueError(f"noise {self.noise!r} draws pairs: num_mc must be even and masks_per_level 1")
        if self.estimator == "elbo" and self.num_mc % self.masks_per_level:
            raise ValueError(f"num_mc {self.num_mc} is not a multiple of masks_per_level {self.masks_per_level}")
        if self.count_exponent and self.noise not in COUNTED_NOISE:
            raise ValueError(f"count_exponent reweighs exact counts; noise {self.noise!r} fixes its own law, use 0")
        if self.estimator == "coupled" and (self.num_mc < 3 or self.num_mc % 2 == 0):
            raise ValueError(f"estimator 'coupled' is one full mask and pairs: num_mc 3, 5, ..., got {self.num_mc}")
        if self.shrink > 1 and self.merge:
            raise ValueError("shrink and merge both cut the trajectory; use one of them")
        if (self.shrink > 1 or self.merge or self.lookahead) and not self.on_trajectory:
            raise ValueError(f"shrink, merge and lookahead need a trajectory, estimator {self.estimator!r} has none")
        if self.estimator == "autoregressive" and self.t2t_views in {"draft", "random"}:
            raise ValueError(
                "t2t_views: drafts fill the masks of a masked view; autoregressive views have recorded only"
            )
        return self

    @model_validator(mode="after")
    def _corrections_have_what_they_compare(self) -> "AlgorithmConfig":
        for name, asked in (
            ("rollout_correction", self.rollout_correction != "none"),
            ("path_check", self.path_check != "off"),
            (f"route_replay: {self.route_replay}", self.route_replay in {"rollout", "compare"}),
        ):
            if asked and not self.own_states:
                raise ValueError(
                    f"{name} compares with what the engine recorded at each step; use estimator trajectory or"
                    " trajectory_sampled without shrink and merge"
                )
        if self.rollout_correction != "none" and self.lookahead:
            raise ValueError(
                "rollout_correction needs the engine's log-probability of every scored token, and lookahead scores"
                " tokens before the engine drew them; use lookahead: 0"
            )
        if self.path_check == "mask" and self.loss_type == "dpo":
            raise ValueError("path_check 'mask' would leave out one half of a dpo pair; use path_check: log")
        return self


def plain(settings: Mapping[str, Any]) -> AlgorithmConfig:
    """Settings alone, without the default method's own choices beside them, as a comparison of methods wants them."""
    base = {} if settings.get("preset") else NEUTRAL
    return AlgorithmConfig.model_validate({**base, **settings})
