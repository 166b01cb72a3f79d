"""What a recipe leaves open until the kind of device is known: types of numbers, and who takes turns on a GPU.

Importing this loads no torch, because `redraft plan` asks it about machines that are not here.
"""

from typing import Literal

from redraft.rl.config.schema import RunConfig

Precision = Literal["float32", "float64", "bfloat16"]


def rollout_dtype(config: RunConfig, on_gpu: bool) -> Precision:
    """Choose the type in which a rollout engine keeps weights, keys and values, and computes.

    With `auto` it is bfloat16 on a GPU whatever the learner's type is, because CUDA graphs and grouped products are
    made for 16 bits. On a CPU it is the learner's type: float32 and float64 runs stay exact.
    """
    if config.rollout.dtype != "auto":
        return config.rollout.dtype
    return "bfloat16" if on_gpu else config.model.dtype


def compute_dtype(config: RunConfig, on_gpu: bool) -> Precision:
    """Choose the type of the learner's matrix products; with `auto`, bfloat16 for float32 weights on a GPU."""
    asked = config.trainer.precision.compute
    if asked != "auto":
        return asked
    return "bfloat16" if on_gpu and config.model.dtype == "float32" else config.model.dtype


def is_colocated(config: RunConfig, on_gpu: bool) -> bool:
    """Tell whether learner and rollout engines take turns on the same devices, and give memory back in between."""
    c = config.cluster
    if c.placement == "colocated":
        return True
    if c.backend == "inprocess":
        return on_gpu  # one process has one GPU
    return on_gpu and c.placement == "auto" and (c.learner_gpus < 1 or c.rollout_gpus < 1)


def gradient_sync(config: RunConfig, efsdp: int) -> Literal["every", "last"]:
    """Choose when gradients are added up over the ranks; with `auto`, once where bf16 gradients are kept in bf16.

    Args:
        config: The recipe.
        efsdp: Pieces that an expert-parallel rank's experts are cut into; these are added up in fp32 every time.
    """
    asked = config.trainer.parallel.gradient_sync
    if asked != "auto":
        return asked
    return "last" if config.trainer.optimizer.kind == "adamw_bf16_sr" and efsdp == 1 else "every"
