"""The root `RunConfig`: what a recipe may say. Importing it loads neither torch nor ray."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from redraft.rewards.term import RewardTerm
from redraft.rl.config.algorithm import AlgorithmConfig, Section
from redraft.rl.files import expand
from redraft.rollout.config import DecodeConfig, Limits


def _expand_text(path: str) -> str:
    if not path.strip():
        raise ValueError("a path must not be empty; leave the key out, or write null where none is needed")
    return str(expand(path)) if path.startswith("~") else path


LocalPath = Annotated[str, AfterValidator(_expand_text)]
"""A path, with `~` for the home folder; every path of a recipe has this type."""


class ModelConfig(Section):
    """The policy: a Hugging Face folder, or the shape of a model to make from scratch."""

    path: LocalPath | None = Field(default=None, description="folder to start from; empty: the warm start's result")
    init: dict[str, Any] | None = Field(
        default=None, description="LLaDA2 config fields of a new model (config.json names)"
    )
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    device: str = Field(default="auto", description="auto: cuda if there is one, otherwise cpu")


class DataConfig(Section):
    """Where rows come from: a hub name, a local file or folder, or the generated `arithmetic` task."""

    path: LocalPath
    name: str | None = Field(default=None, description="configuration of a hub data set; local copies have none")
    split: str = "train"
    transform: str | None = Field(
        default=None, description="gsm8k_calculator, or pkg.module:function, row -> list of rows"
    )
    kwargs: dict[str, Any] = Field(default_factory=dict, description="arguments of the generator or the transform")
    max_rows: Annotated[int, Field(gt=0)] | None = Field(None, description="rows kept, a seeded sample of the set")


class SFTConfig(Section):
    """The warm start: supervised training on the M2T + T2T mixture."""

    data: DataConfig
    learning_rate: float = Field(default=1e-3, gt=0)
    batch_size: int = Field(default=128, gt=0, description="rows per optimizer step")
    max_steps: int = Field(default=1000, gt=0)
    warmup_steps: int = Field(default=50, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    mask_ratio_min: float = Field(default=0.0, ge=0, le=1, description="lowest noise level of a block")
    mask_ratio_max: float = Field(default=1.0, ge=0, le=1, description="highest noise level of a block")
    edit_ratio: float = Field(
        default=0.1, ge=0, le=1, description="share of visible tokens replaced by wrong ones (T2T)"
    )
    t2t_weight: float = Field(default=1.0, ge=0, description="weight of T2T terms beside M2T terms")
    eval_steps: int = Field(default=100, gt=0, description="optimizer steps between held-out evaluations")
    target_accuracy: float | None = Field(default=None, gt=0, le=1, description="stop at this held-out greedy accuracy")

    @model_validator(mode="after")
    def _noise_is_a_range(self) -> "SFTConfig":
        if self.mask_ratio_min > self.mask_ratio_max:
            raise ValueError(f"mask_ratio_min {self.mask_ratio_min} is above mask_ratio_max {self.mask_ratio_max}")
        return self


class RolloutDecode(DecodeConfig):
    """Decoding while learning: sampled, with positions chosen by the state, so that its likelihood is exact."""

    temperature: float = Field(default=1.0, gt=0)
    edit_sampling: Literal["argmax", "sample"] = "sample"
    unmask_confidence: Literal["drawn", "top"] = "top"


class RolloutConfig(Section):
    """How completions are drawn while learning."""

    prompts_per_step: int = Field(default=32, gt=0)
    num_generations: int = Field(default=8, gt=1, description="completions per prompt: the group of the baseline")
    decode: RolloutDecode = RolloutDecode()
    engine: Literal["torch", "vllm"] = Field(default="torch", description="vllm: needs redraft[vllm]; same tokens")
    num_actors: int = Field(default=1, gt=0)
    slots: int = Field(default=256, gt=0, description="completions decoded together in one actor")
    cache_gib: float | None = Field(
        default=None,
        gt=0,
        description="most memory of one actor for keys and values, in GiB; empty: what the slots need, on a GPU at most"
        " half of what is free",
    )
    logits_mib: float = Field(default=256.0, gt=0, description="most memory of one actor for logits at a time, in MiB")
    forward_timeout_s: float = Field(default=300.0, gt=0, description="longest wait for one forward of an actor")
    max_sampling_rounds: int = Field(
        default=1,
        gt=0,
        description="DAPO dynamic sampling: up to this many batches of prompts to replace groups of one reward",
    )

    @property
    def limits(self) -> Limits:
        """What a rollout actor may use."""
        cache_bytes = None if self.cache_gib is None else int(self.cache_gib * 2**30)
        return Limits(self.slots, cache_bytes, int(self.logits_mib * 2**20), self.forward_timeout_s)


class EvaluationConfig(Section):
    """Held-out evaluation."""

    data: DataConfig
    decode: DecodeConfig = DecodeConfig()
    eval_steps: int = Field(default=20, gt=0, description="optimizer steps between evaluations")


class TrainerConfig(Section):
    """Optimisation."""

    total_steps: int = Field(default=100, gt=0, description="batches of rollouts to learn from")
    learning_rate: float = Field(default=1e-6, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta2: float = Field(default=0.99, gt=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    tokens_per_microbatch: int = Field(default=16384, gt=0, description="tokens of the composite input per forward")
    freeze_router: bool = True
    save_steps: int = Field(default=50, gt=0)
    save_total_limit: int = Field(default=2, gt=0)
    shuffle_rewards: bool = Field(default=False, description="control experiment: permute rewards inside each batch")
    collapse_alarm: Literal["warn", "stop", "off"] = Field(
        default="warn", description="when confidence rises fast while reward falls, see redraft.rl.monitor.alarm"
    )


class ClusterConfig(Section):
    """Where the parts run."""

    backend: Literal["ray", "inprocess"] = "ray"
    reward_workers: int = Field(default=1, gt=0)
    learner_cpus: float = Field(default=1.0, ge=0)
    learner_gpus: float = Field(default=0.0, ge=0)
    rollout_cpus: float = Field(default=1.0, ge=0, description="per rollout actor")
    rollout_gpus: float = Field(default=0.0, ge=0, description="per rollout actor")
    learner_threads: int = Field(default=1, gt=0, description="torch threads of the learner")
    rollout_threads: int = Field(default=1, gt=0, description="torch threads of each rollout actor")
    start_timeout_s: float = Field(default=180.0, gt=0)
    rollout_timeout_s: float = Field(default=900.0, gt=0, description="one batch of completions")
    reward_timeout_s: float = Field(
        default=300.0, gt=0, description="one call to a reward worker, up to 64 completions"
    )
    update_timeout_s: float = Field(default=1800.0, gt=0, description="one learner update or checkpoint")
    sync_timeout_s: float = Field(default=300.0, gt=0, description="one weight sync")
    max_restarts: int = Field(default=3, ge=0, description="replacements of dead actors in a row before the run fails")


class RewardTestConfig(Section):
    """Before step 0, verifiers are tried on a sample of the training rows; see `rewards.scoring.trial`."""

    rows: int = Field(default=16, ge=0, description="rows of the sample; 0: no trial")
    threshold: float = Field(default=0.9, ge=0, le=1, description="share of right, and of each cheap answer, to pass")
    audit: bool = Field(default=True, description="leave out rows whose right answer does not score 1; looks at all")


class RunConfig(Section):
    """Everything a run needs; `redraft train` saves it resolved beside its results."""

    seed: int = Field(default=0, ge=0)
    output_dir: LocalPath
    model: ModelConfig
    data: DataConfig
    rewards: Annotated[tuple[RewardTerm, ...], Field(min_length=1)]
    reward_test: RewardTestConfig = RewardTestConfig()
    rollout: RolloutConfig = RolloutConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    trainer: TrainerConfig = TrainerConfig()
    evaluation: EvaluationConfig | None = None
    sft: SFTConfig | None = None
    cluster: ClusterConfig = ClusterConfig()
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()

    @model_validator(mode="after")
    def _rollouts_can_be_learned_from(self) -> "RunConfig":
        decode, estimator = self.rollout.decode, self.algorithm.estimator
        recorded = self.algorithm.t2t_views == "recorded" and decode.edit_sampling == "sample"
        replays = self.algorithm.on_trajectory or estimator == "autoregressive" or recorded
        if replays and (decode.top_k or decode.top_p < 1):
            raise ValueError(
                f"estimator {estimator!r} with t2t_views {self.algorithm.t2t_views!r} replays the sampling"
                f" distribution, which top_k={decode.top_k} and top_p={decode.top_p} truncate; use top_k: 0 and"
                " top_p: 1.0"
            )
        if replays and decode.editing_window > 1:
            raise ValueError(
                f"estimator {estimator!r} with t2t_views {self.algorithm.t2t_views!r} replays the decoder block by"
                f" block, but rollout.decode.editing_window={decode.editing_window} opens earlier blocks again; use"
                " editing_window: 1 while learning (evaluation.decode may have more)"
            )
        if self.algorithm.on_trajectory and decode.unmask_confidence != "top":
            raise ValueError(
                f"estimator {estimator!r} needs rollout.decode.unmask_confidence: top; with 'drawn' the draw decides"
                " which positions are filled, and the sum of log-probabilities is not the trajectory's likelihood"
            )
        if self.algorithm.route_replay in {"rollout", "compare"} and not decode.record_routes:
            raise ValueError(
                f"algorithm.route_replay: {self.algorithm.route_replay} reads the routes that the rollout recorded;"
                " use rollout.decode.record_routes: true"
            )
        decodes = [decode] if self.evaluation is None else [decode, self.evaluation.decode]
        if self.rollout.engine == "vllm" and any(one.editing_window > 1 for one in decodes):
            raise ValueError(
                "rollout.engine: vllm cannot open earlier blocks again, because vLLM's output only grows; use"
                " editing_window: 1, or engine: torch"
            )
        if self.model.dtype == "bfloat16":
            raise ValueError(
                "model.dtype: bfloat16 weights round small updates away (fp32 master weights are not there yet);"
                " train in float32 and use redraft export --dtype bfloat16"
            )
        if self.evaluation and self.evaluation.decode.block_length != decode.block_length:
            raise ValueError("rollout.decode.block_length and evaluation.decode.block_length must be equal")
        if self.model.path is None and (self.model.init is None or self.sft is None):
            raise ValueError("model.path is needed, or model.init together with an sft section to make a policy")
        if self.sft and self.sft.target_accuracy and not self.evaluation:
            raise ValueError("sft.target_accuracy needs an evaluation section to measure it on")
        return self
