"""Keys of a learner that outgrows one GPU: ranks, types, optimizer, adapters. Importing them loads no torch.

`redraft plan` computes what they need before anything runs.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from redraft.rl.config.section import Section, kind_or


class ParallelConfig(Section):
    """How the learner is spread over GPUs: one rank per GPU, weights sharded over all ranks (FSDP)."""

    ranks: Annotated[int, Field(gt=0)] | None = Field(
        default=None,
        description="Ranks of the learner, one per GPU; without it, every GPU that no rollout engine has for itself,"
        " and 1 without GPUs.",
    )
    expert_parallel: Annotated[int, Field(gt=0)] | None = Field(
        default=None,
        description="Ranks that share out the experts of each layer and send each other tokens, inside one node;"
        " without it, as many as a node and the number of ranks allow.",
    )
    gradient_sync: Literal["auto", "every", "last"] = Field(
        default="auto",
        description="Add up gradients over the ranks after every micro-batch, or once per optimizer step, which keeps"
        " unsharded gradients meanwhile; auto is last where bf16 gradients would be summed in bf16, else every.",
    )


class PrecisionConfig(Section):
    """Types of the learner's products; what `model.dtype` names are the weights that the optimizer changes."""

    compute: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Type of matrix products; auto is bfloat16 on a GPU, and the type of the weights on a CPU.",
    )


class OptimizerConfig(Section):
    """The optimizer's arithmetic, and where it keeps what it needs between steps."""

    kind: Literal["adamw", "adamw_bf16_sr", "adamw8bit"] = Field(
        default="adamw",
        description="AdamW in the type of the weights (adamw), with bf16 weights and stochastic rounding"
        " (adamw_bf16_sr), or with 8-bit moments (adamw8bit).",
    )
    offload: Literal["none", "states", "all"] = Field(
        default="none",
        description="Keep the moments (states), or moments and master weights (all), in the host's memory between"
        " steps.",
    )

    @model_validator(mode="after")
    def _can_leave_the_gpu(self) -> "OptimizerConfig":
        if self.kind == "adamw8bit" and self.offload != "none":
            raise ValueError(
                f"offload: {self.offload} cannot move 8-bit moments to the host; use offload: none, or kind: adamw"
            )
        return self


Optimizer = Annotated[OptimizerConfig, kind_or("adamw")]


class LoRAConfig(Section):
    """Adapters that are trained in place of the weights, in PEFT's format."""

    rank: int = Field(
        default=16, gt=0, multiple_of=8, description="Rank of every adapter; grouped products need a multiple of 8."
    )
    alpha: float = Field(
        default=32.0,
        gt=0,
        description="Scale of the adapters: their product is multiplied by alpha / rank, as PEFT's lora_alpha.",
    )
    targets: Literal["attention", "all"] = Field(
        default="attention",
        description="Weights with an adapter: those of attention alone, or of the routed experts too.",
    )
