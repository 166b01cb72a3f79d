"""The sections of a recipe beside `algorithm`. Importing them loads neither torch nor ray."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from redraft.rl.config.parallel import LoRAConfig, Optimizer, OptimizerConfig, ParallelConfig, PrecisionConfig
from redraft.rl.config.section import Section
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

    path: LocalPath | None = Field(
        default=None,
        description="Policy to start from: a folder, or owner/name on the hub; without it, the result of the warm"
        " start.",
    )
    revision: str | None = Field(
        default=None,
        description="Branch, tag or commit of a policy on the hub; without it, the main branch. The run keeps the"
        " commit that it began with.",
    )
    init: dict[str, Any] | None = Field(
        default=None, description="Shape of a new model: fields of LLaDA2's config.json by name."
    )
    dtype: Literal["float32", "float64", "bfloat16"] = Field(
        default="float32",
        description="Type of the weights that learn; bfloat16 needs trainer.optimizer: adamw_bf16_sr.",
    )
    device: str = Field(default="auto", description="Where the learner computes; auto: cuda if there is one, else cpu.")
    lora: LoRAConfig | None = Field(
        default=None, description="Train adapters in place of the weights; without the section all weights are trained."
    )

    @model_validator(mode="after")
    def _revision_is_of_a_path(self) -> "ModelConfig":
        if self.revision is not None and self.path is None:
            raise ValueError("revision is of a model.path on the hub, and there is no path; leave revision out")
        return self


class DataConfig(Section):
    """Where rows come from: a hub name, a local file or folder, or the generated `arithmetic` task."""

    path: LocalPath = Field(description="File, folder or name on the hub, or `arithmetic`, the generated task.")
    name: str | None = Field(default=None, description="Configuration of a hub data set; local copies have none.")
    split: str = Field(default="train", description="Part of the data set, such as train or test.")
    transform: str | None = Field(
        default=None, description="gsm8k_calculator, or pkg.module:function, which makes a list of rows of one row."
    )
    kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the generated task or of the transform."
    )
    max_rows: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="Most rows to keep, a sample drawn by the seed; without it, all rows are kept."
    )


class SFTConfig(Section):
    """The warm start: supervised training on the M2T + T2T mixture."""

    data: DataConfig = Field(description="Rows whose answers are learned.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Learning rate of AdamW after the warm-up.")
    batch_size: int = Field(default=128, gt=0, description="Rows per optimizer step.")
    max_steps: int = Field(default=1000, gt=0, description="Optimizer steps, unless target_accuracy ends it earlier.")
    warmup_steps: int = Field(default=50, ge=0, description="Optimizer steps until the learning rate is reached.")
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay of AdamW.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Longer gradients are scaled down to this norm.")
    mask_ratio_min: float = Field(default=0.0, ge=0, le=1, description="Lowest share of masked tokens in a block.")
    mask_ratio_max: float = Field(default=1.0, ge=0, le=1, description="Highest share of masked tokens in a block.")
    edit_ratio: float = Field(
        default=0.1, ge=0, le=1, description="Share of visible tokens that are replaced by wrong ones (T2T)."
    )
    t2t_weight: float = Field(default=1.0, ge=0, description="Weight of edits (T2T) beside unmasked tokens (M2T).")
    eval_steps: int = Field(default=100, gt=0, description="Optimizer steps between two held-out evaluations.")
    target_accuracy: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Stop at this held-out greedy accuracy, from 0 to 1; without it, at max_steps.",
    )

    @model_validator(mode="after")
    def _noise_is_a_range(self) -> "SFTConfig":
        if self.mask_ratio_min > self.mask_ratio_max:
            raise ValueError(f"mask_ratio_min {self.mask_ratio_min} is above mask_ratio_max {self.mask_ratio_max}")
        return self


class RolloutDecode(DecodeConfig):
    """Decoding while learning: sampled, with positions chosen by the state, so that its likelihood is exact."""

    temperature: float = Field(
        default=1.0, gt=0, description="Temperature of the sampling distribution; the learner replays it."
    )
    edit_sampling: Literal["argmax", "sample"] = Field(
        default="sample", description="An edit writes the argmax, or a redraw. Only a redraw has a likelihood."
    )
    unmask_confidence: Literal["drawn", "top"] = Field(
        default="top",
        description="Confidence of a masked position: the probability of the drawn token, or the highest one, which"
        " chooses the positions before the draw.",
    )


class RolloutConfig(Section):
    """How completions are drawn while learning."""

    prompts_per_step: int = Field(default=32, gt=0, description="Prompts per batch of rollouts.")
    num_generations: int = Field(default=8, gt=1, description="Completions per prompt: the group of the baseline.")
    decode: RolloutDecode = Field(default=RolloutDecode(), description="How a completion is decoded while learning.")
    engine: Literal["torch", "vllm"] = Field(
        default="torch", description="Engine that decodes; both draw the same tokens, and vllm needs redraft[vllm]."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = Field(
        default="auto",
        description="Type of an engine's weights, keys and values; auto is bfloat16 on a GPU, and model.dtype on a CPU."
        " The learner sends its weights rounded to this type.",
    )
    num_actors: int = Field(default=1, gt=0, description="Processes that decode, each with its own copy of the policy.")
    slots: int = Field(default=256, gt=0, description="Completions that one actor decodes together.")
    cache_gib: float | None = Field(
        default=None,
        gt=0,
        description="Most memory of one actor for keys and values, in GiB; without it, what the slots need, on a GPU"
        " at most half of what is free.",
    )
    logits_mib: float = Field(default=256.0, gt=0, description="Most memory of one actor for logits at a time, in MiB.")
    forward_timeout_s: float = Field(
        default=300.0, gt=0, description="Longest wait for one forward of an actor, in seconds."
    )
    max_sampling_rounds: int = Field(
        default=1,
        gt=0,
        description="Batches of prompts that may be drawn per step to replace groups of equal rewards (DAPO's"
        " dynamic sampling); 1 replaces none.",
    )

    @property
    def limits(self) -> Limits:
        """Bundle what a rollout actor may use."""
        cache_bytes = None if self.cache_gib is None else int(self.cache_gib * 2**30)
        return Limits(self.slots, cache_bytes, int(self.logits_mib * 2**20), self.forward_timeout_s)


class EvaluationConfig(Section):
    """Held-out evaluation."""

    data: DataConfig = Field(description="Held-out rows.")
    decode: DecodeConfig = Field(default=DecodeConfig(), description="How a completion is decoded in evaluations.")
    eval_steps: int = Field(default=20, gt=0, description="Batches of rollouts between two evaluations.")


class TrainerConfig(Section):
    """Optimisation."""

    total_steps: int = Field(default=100, gt=0, description="Batches of rollouts to learn from.")
    learning_rate: float = Field(default=1e-6, gt=0, description="Learning rate of AdamW after the warm-up.")
    warmup_steps: int = Field(default=0, ge=0, description="Batches of rollouts until the learning rate is reached.")
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay of AdamW.")
    adam_beta2: float = Field(default=0.99, gt=0, lt=1, description="Decay of AdamW's mean of squared gradients.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Longer gradients are scaled down to this norm.")
    tokens_per_microbatch: int = Field(
        default=16384, gt=0, description="Most tokens of the composite input per forward of the learner."
    )
    activation_checkpointing: Literal["none", "layer"] = Field(
        default="none",
        description="Keep all activations for the backward pass, or the input of each layer and compute it twice.",
    )
    optimizer: Optimizer = Field(default=OptimizerConfig(), description="Arithmetic and memory of the optimizer.")
    parallel: ParallelConfig = Field(default=ParallelConfig(), description="How the learner is spread over GPUs.")
    precision: PrecisionConfig = Field(default=PrecisionConfig(), description="Types of the learner's products.")
    freeze_router: bool = Field(default=True, description="Keep the routers of a mixture of experts as they are.")
    save_steps: int = Field(default=50, gt=0, description="Batches of rollouts between two checkpoints.")
    save_total_limit: int = Field(default=2, gt=0, description="Checkpoints to keep; older ones are deleted.")
    shuffle_rewards: bool = Field(
        default=False, description="Control experiment: give the rewards of a batch to the wrong completions."
    )
    collapse_alarm: Literal["warn", "stop", "off"] = Field(
        default="warn",
        description="What happens when confidence rises fast while the reward falls (redraft.rl.monitor.alarm); stop"
        " saves a checkpoint first.",
    )


class ClusterConfig(Section):
    """Where the parts run."""

    backend: Literal["ray", "inprocess"] = Field(
        default="ray", description="Ray actors, or everything in this process, which needs no cluster."
    )
    placement: Literal["auto", "colocated", "apart"] = Field(
        default="auto",
        description="Learner and rollout engines take turns on the same GPUs (colocated), or have GPUs of their own"
        " (apart); auto is apart where learner_gpus and rollout_gpus are whole GPUs, else colocated.",
    )
    reward_workers: int = Field(default=1, gt=0, description="Actors that score completions.")
    learner_cpus: float = Field(default=1.0, ge=0, description="CPUs that Ray reserves for each learner rank.")
    learner_gpus: float = Field(
        default=0.0,
        ge=0,
        description="GPUs for all ranks of the learner; 0 takes what trainer.parallel and the cluster say.",
    )
    rollout_cpus: float = Field(default=1.0, ge=0, description="CPUs that Ray reserves for each rollout actor.")
    rollout_gpus: float = Field(
        default=0.0, ge=0, le=1, description="GPU of each rollout actor, at most one; 0 is decided by placement."
    )
    learner_threads: int = Field(default=1, gt=0, description="Torch threads of each learner rank.")
    rollout_threads: int = Field(default=1, gt=0, description="Torch threads of each rollout actor.")
    start_timeout_s: float = Field(default=180.0, gt=0, description="Longest wait for an actor to start, in seconds.")
    rollout_timeout_s: float = Field(
        default=900.0, gt=0, description="Longest wait for one batch of completions, in seconds."
    )
    reward_timeout_s: float = Field(
        default=300.0,
        gt=0,
        description="Longest wait for one call to a reward worker, up to 64 completions, in seconds.",
    )
    update_timeout_s: float = Field(
        default=1800.0, gt=0, description="Longest wait for one learner update or checkpoint, in seconds."
    )
    weight_sync: Literal["auto", "object_store", "collective", "shared_memory"] = Field(
        default="auto",
        description="How weights go to the rollout actors: through Ray's object store, by broadcast (NCCL, or gloo on a"
        " CPU), or in memory that both sides share on one machine (CPU) or GPU; auto is the object store on a CPU, and"
        " on GPUs shared_memory where learner and engines share them, else collective.",
    )
    sync_bucket_mib: float = Field(
        default=512.0,
        gt=0,
        description="Weights that travel at a time, in MiB; sender and receivers have memory for two such buckets.",
    )
    sync_timeout_s: float = Field(default=300.0, gt=0, description="Longest wait for one weight sync, in seconds.")
    max_restarts: int = Field(
        default=3, ge=0, description="Replacements of a dead actor, or of the learner, in a row before the run fails."
    )


class RewardTestConfig(Section):
    """Before step 0, verifiers are tried on a sample of the training rows; see `rewards.scoring.trial`."""

    rows: int = Field(default=16, ge=0, description="Rows of the sample; with 0 there is no trial.")
    threshold: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Share of right answers that must score 1, and of each kind of cheap answer that must score 0.",
    )
    audit: bool = Field(
        default=True, description="Score the right answer of every row, and leave out rows where it does not score 1."
    )
