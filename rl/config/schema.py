"""The root `RunConfig`: what a recipe may say. Importing it loads neither torch nor ray."""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from redraft.rewards.term import RewardTerm
from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.estimators import Autoregressive, Coupled, Elbo, MeanField, RandomMask
from redraft.rl.config.section import Section, refuse
from redraft.rl.config.sections import (
    ClusterConfig,
    DataConfig,
    EvaluationConfig,
    LocalPath,
    ModelConfig,
    RewardTestConfig,
    RolloutConfig,
    SFTConfig,
    TrainerConfig,
)


class RunConfig(Section):
    """Everything a run needs; `redraft train` saves it resolved beside its results."""

    seed: int = Field(default=0, ge=0, description="Decides every draw of the run.")
    output_dir: LocalPath = Field(description="Folder of the run: checkpoints, metrics and samples.")
    model: ModelConfig = Field(description="The policy to start from.")
    data: DataConfig = Field(description="Rows to learn from.")
    rewards: Annotated[tuple[RewardTerm, ...], Field(min_length=1)] = Field(
        description="What is rewarded: the weighted sum of these, times the gates among them."
    )
    reward_test: RewardTestConfig = Field(
        default=RewardTestConfig(), description="Trial of the rewards before the first step."
    )
    rollout: RolloutConfig = Field(default=RolloutConfig(), description="How completions are drawn while learning.")
    algorithm: AlgorithmConfig = Field(default=AlgorithmConfig(), description="What is learned from the completions.")
    trainer: TrainerConfig = Field(default=TrainerConfig(), description="Optimisation.")
    evaluation: EvaluationConfig | None = Field(
        default=None, description="Held-out evaluation; without the section there is none."
    )
    sft: SFTConfig | None = Field(
        default=None, description="Warm start before the first step; without the section there is none."
    )
    cluster: ClusterConfig = Field(default=ClusterConfig(), description="Where the parts run.")
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        default=(), description="Trackers that get the metrics beside metrics.jsonl."
    )

    @model_validator(mode="after")
    def _sections_fit_each_other(self) -> "RunConfig":
        return refuse(RULES, self)


def _replayed(config: RunConfig) -> str | None:
    """Name the part of the algorithm that replays the decoder's sampling; return None if none does."""
    estimator = config.algorithm.estimator
    if config.algorithm.on_trajectory or isinstance(estimator, Autoregressive):
        return f"estimator {estimator.kind!r}"
    if not isinstance(estimator, Elbo | RandomMask | MeanField | Coupled):
        return None
    recorded = estimator.edits.kind == "recorded" and config.rollout.decode.edit_sampling == "sample"
    return f"estimator {estimator.kind!r} with edits 'recorded'" if recorded else None


def _sampling_is_replayed_whole(config: RunConfig) -> str | None:
    decode, replayed = config.rollout.decode, _replayed(config)
    if not replayed or (not decode.top_k and decode.top_p == 1):
        return None
    return (
        f"{replayed} replays the sampling distribution, which rollout.decode.top_k={decode.top_k} and"
        f" top_p={decode.top_p} truncate; use top_k: 0 and top_p: 1.0"
    )


def _blocks_are_replayed_in_order(config: RunConfig) -> str | None:
    window, replayed = config.rollout.decode.editing_window, _replayed(config)
    if not replayed or window == 1:
        return None
    return (
        f"{replayed} replays the decoder block by block, but rollout.decode.editing_window={window} opens earlier"
        " blocks again; use editing_window: 1 while learning (evaluation.decode may have more)"
    )


def _positions_are_chosen_before_the_draw(config: RunConfig) -> str | None:
    if not config.algorithm.on_trajectory or config.rollout.decode.unmask_confidence == "top":
        return None
    return (
        f"estimator {config.algorithm.estimator.kind!r} needs rollout.decode.unmask_confidence: top; with 'drawn' the"
        " draw decides which positions are filled, and the sum of log-probabilities is not the trajectory's likelihood"
    )


def _routes_are_recorded(config: RunConfig) -> str | None:
    replay = config.algorithm.correction.route_replay
    if replay not in {"rollout", "compare"} or config.rollout.decode.record_routes:
        return None
    return (
        f"algorithm.correction.route_replay: {replay} reads the routes that the rollout recorded; use"
        " rollout.decode.record_routes: true"
    )


def _engine_can_open_blocks_again(config: RunConfig) -> str | None:
    decodes = [config.rollout.decode, *([config.evaluation.decode] if config.evaluation else [])]
    if config.rollout.engine != "vllm" or all(decode.editing_window == 1 for decode in decodes):
        return None
    return (
        "rollout.engine: vllm cannot open earlier blocks again, because vLLM's output only grows; use"
        " editing_window: 1, or engine: torch"
    )


def _blocks_have_one_length(config: RunConfig) -> str | None:
    learned = config.rollout.decode.block_length
    if config.evaluation is None or config.evaluation.decode.block_length == learned:
        return None
    return "rollout.decode.block_length and evaluation.decode.block_length must be equal"


def _there_is_a_policy(config: RunConfig) -> str | None:
    if config.model.path is not None or (config.model.init is not None and config.sft is not None):
        return None
    return "model.path is needed, or model.init together with an sft section to make a policy"


def _accuracy_can_be_measured(config: RunConfig) -> str | None:
    if config.sft is None or not config.sft.target_accuracy or config.evaluation:
        return None
    return "sft.target_accuracy needs an evaluation section to measure it on"


def _adapters_leave_routers_alone(config: RunConfig) -> str | None:
    if config.model.lora is None or config.trainer.freeze_router:
        return None
    return "model.lora freezes all weights, routers too; use trainer.freeze_router: true, or leave model.lora out"


def _updates_are_not_rounded_away(config: RunConfig) -> str | None:
    dtype, kind = config.model.dtype, config.trainer.optimizer.kind
    if (dtype == "bfloat16") == (kind == "adamw_bf16_sr"):
        return None
    if dtype == "bfloat16":
        return (
            f"model.dtype: bfloat16 rounds small updates away with trainer.optimizer: {kind}; use adamw_bf16_sr, which"
            " rounds stochastically, or model.dtype: float32 (redraft export --dtype bfloat16 writes bfloat16)"
        )
    return f"trainer.optimizer: adamw_bf16_sr trains weights of model.dtype: bfloat16, got {dtype}; use bfloat16"


def _warm_start_has_wide_weights(config: RunConfig) -> str | None:
    if config.sft is None or config.model.dtype != "bfloat16":
        return None
    return (
        "the warm start (sft) rounds to nearest, which loses small updates of model.dtype: bfloat16; make it with"
        " float32 in a run of its own, and set model.path to its folder"
    )


RULES: tuple[Callable[[RunConfig], str | None], ...] = (
    _sampling_is_replayed_whole,
    _blocks_are_replayed_in_order,
    _positions_are_chosen_before_the_draw,
    _routes_are_recorded,
    _engine_can_open_blocks_again,
    _blocks_have_one_length,
    _there_is_a_policy,
    _accuracy_can_be_measured,
    _adapters_leave_routers_alone,
    _updates_are_not_rounded_away,
    _warm_start_has_wide_weights,
)
"""One function per rule about two sections; each returns the text of the refusal, or None."""
