"""The `estimator` section: which noisy states of a completion are scored (docs/math.md sections 1 to 4).

Each kind has its own keys: a key that the chosen estimator does not read is refused.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from redraft.rl.config.section import Section, kind_or

NumViews = Annotated[
    int, Field(gt=0, description="Views per completion; each costs one composite forward with a gradient.")
]
Stratify = Annotated[
    bool, Field(description="Draw the noise levels of the views from separate strata of the unit interval.")
]
Tiles = Annotated[bool, Field(description="Let the views mask consecutive arcs of one random order of the positions.")]
CountExponent = Annotated[
    float,
    Field(ge=0, le=2, description="Draw k masked positions with probability ~ k^-a; 0.5 is near the best (eq 7)."),
]
MasksPerLevel = Annotated[
    int, Field(gt=0, description="Views that share one noise level (VRPO's n_y); num_mc must be a multiple of it.")
]


class NoCut(Section):
    """Every step is scored in the state in which the decoder took it."""

    kind: Literal["none"] = Field(default="none", description="Score every step in its own recorded state.")


class ShrunkSteps(Section):
    """Neighbouring steps are scored from one state (TraceRL)."""

    kind: Literal["shrink"] = Field(default="shrink", description="Score neighbouring steps from one state (TraceRL).")
    steps: int = Field(default=2, gt=1, description="Steps that are scored from the state before the first of them.")


class MergedSteps(Section):
    """A block's steps are merged into a few segments (d2)."""

    kind: Literal["merge"] = Field(default="merge", description="Merge the steps of a block into segments (d2).")
    segments: int = Field(default=2, gt=0, description="Most segments that the steps of a block are merged into.")


Cut = Annotated[
    NoCut | ShrunkSteps | MergedSteps,
    Field(discriminator="kind", description="Which neighbouring steps are scored from one state."),
    kind_or("none"),
]


class NoEdits(Section):
    """No views of edits beside the estimator's own."""

    kind: Literal["none"] = Field(default="none", description="Score no edits.")


class RecordedEdits(Section):
    """The edits that the decoder made are scored in their recorded states."""

    kind: Literal["recorded"] = Field(default="recorded", description="Score the edits that the decoder made.")
    num_views: int = Field(default=1, gt=0, description="T2T views per completion.")


class DraftedEdits(Section):
    """Masked positions are filled with a draft, and the wrong tokens of it are scored."""

    kind: Literal["draft", "random"] = Field(
        default="draft", description="Fill masks with tokens of the old policy (draft) or of wrong places (random)."
    )
    num_views: int = Field(default=1, gt=0, description="T2T views per completion.")


Edits = Annotated[
    NoEdits | RecordedEdits | DraftedEdits,
    Field(discriminator="kind", description="T2T views of an estimator without a trajectory."),
    kind_or("none"),
]


class OnTrajectory(Section):
    """The decoder's own trajectory, edits included."""

    cut: Cut = NoCut()
    lookahead: float = Field(
        default=0.3, ge=0, le=1, description="Share of a step's weight that goes to all positions still masked (eq 48)."
    )

    @property
    def own_states(self) -> bool:
        """Tell whether every scored step is shown in its own recorded state."""
        return isinstance(self.cut, NoCut)


class Trajectory(OnTrajectory):
    """All steps of the trajectory."""

    kind: Literal["trajectory"] = Field(default="trajectory", description="Score all steps that the decoder took.")


class SampledTrajectory(OnTrajectory):
    """A few sampled steps of the trajectory: the estimator of the default method."""

    kind: Literal["trajectory_sampled"] = Field(
        default="trajectory_sampled", description="Score a few sampled steps of those that the decoder took."
    )
    num_mc: NumViews = 2
    step_sampling: Literal["uniform", "surprisal"] = Field(
        default="surprisal", description="Draw steps evenly, or more often where the tokens were improbable."
    )


class Autoregressive(Section):
    """Left to right, one token at a time (JustGRPO)."""

    kind: Literal["autoregressive"] = Field(default="autoregressive", description="Score tokens from left to right.")
    num_mc: NumViews = 2
    edits: Annotated[
        NoEdits | RecordedEdits,
        Field(discriminator="kind", description="T2T views; there is no mask to draft."),
        kind_or("none"),
    ] = NoEdits()


class RandomMask(Section):
    """Masks at evenly spaced levels (UniGRPO)."""

    kind: Literal["random_mask"] = Field(default="random_mask", description="Mask at evenly spaced levels (UniGRPO).")
    num_mc: NumViews = 2
    edits: Edits = NoEdits()


class MeanField(Section):
    """The whole completion masked (d1)."""

    kind: Literal["mean_field"] = Field(default="mean_field", description="Mask the whole completion (d1).")
    num_mc: NumViews = 1
    prompt_mask_ratio: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the prompt's tokens that is masked too; 0 makes all views equal."
    )
    edits: Edits = NoEdits()


class Coupled(Section):
    """The full mask and pairs of complementary masks (coupled-GRPO)."""

    kind: Literal["coupled"] = Field(default="coupled", description="Mask everything, and complementary halves.")
    num_mc: int = Field(default=3, ge=3, description="Views per completion: one full mask and pairs, so 3, 5, 7, ...")
    edits: Edits = NoEdits()

    @field_validator("num_mc")
    @classmethod
    def _is_odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("estimator 'coupled' is one full mask and pairs: use num_mc 3, 5, ...")
        return value


class ExactCount(Section):
    """The number of masked positions is drawn, then the positions."""

    kind: Literal["exact_count"] = Field(default="exact_count", description="Draw the number of masked positions.")
    stratify: Stratify = True
    count_exponent: CountExponent = 0.0
    tiles: Tiles = False
    masks_per_level: MasksPerLevel = 1


class Cyclic(Section):
    """Exact counts whose levels lie on a grid with one random shift (DARE)."""

    kind: Literal["cyclic"] = Field(default="cyclic", description="Put the noise levels on a randomly shifted grid.")
    count_exponent: CountExponent = 0.0
    tiles: Tiles = False
    masks_per_level: MasksPerLevel = 1


class Bernoulli(Section):
    """Each position is masked on its own with the probability of the level."""

    kind: Literal["bernoulli"] = Field(default="bernoulli", description="Mask each position independently.")
    stratify: Stratify = True
    masks_per_level: MasksPerLevel = 1


class Gauss(Section):
    """Levels at Gauss-Legendre nodes (GDPO); biased."""

    kind: Literal["gauss"] = Field(default="gauss", description="Put the levels at Gauss-Legendre nodes; biased.")
    tiles: Tiles = False
    masks_per_level: MasksPerLevel = 1


class PairedMasks(Section):
    """Pairs of complementary masks."""

    kind: Literal["coupled", "folded"] = Field(
        default="coupled", description="Draw pairs of complementary masks by ESPO's counts (coupled) or by folded ones."
    )
    stratify: Stratify = True


Noise = Annotated[
    ExactCount | Cyclic | Bernoulli | Gauss | PairedMasks,
    Field(discriminator="kind", description="How the masked positions of each view are drawn."),
    kind_or("exact_count"),
]


class Elbo(Section):
    """An estimate of the evidence lower bound from masked views."""

    kind: Literal["elbo"] = Field(default="elbo", description="Estimate the evidence lower bound from masked views.")
    num_mc: NumViews = 2
    noise: Noise = ExactCount()
    edits: Edits = NoEdits()

    @property
    def views_per_level(self) -> int:
        """Count the views that share one noise level; this number divides `num_mc`."""
        return 2 if isinstance(self.noise, PairedMasks) else self.noise.masks_per_level


EstimatorConfig = Annotated[
    Trajectory | SampledTrajectory | Autoregressive | Elbo | RandomMask | MeanField | Coupled,
    Field(discriminator="kind", description="Which noisy states of a completion are scored."),
    kind_or("trajectory_sampled"),
]
