"""Bytes of the learner on one of its GPUs, term by term; docs/scale.md has the formulas and their letters.

Guarantees:
    * Every term is a line with a name, so the largest one can be named where a run does not fit.
    * bfloat16 products with float32 weights give the formulas as docs/scale.md writes them. Other types use the same
      formulas with their own bytes per number.

Assumes:
    * Weights are sharded over all ranks and gathered layer by layer (FSDP), experts over `ep` ranks before that.

Rejected alternatives:
    * Measuring on the meta device: it takes the network's code and torch's import (two seconds), and it misses what
      collectives and the allocator take.
"""

from typing import NamedTuple

from redraft.rl.plan.card import Line, Phase
from redraft.rl.plan.setup import BYTES, Setup

_SLICE_BYTES = 256 * 2**20  # of logits, three at a time: values, their exponentials, gradients


class OptimizerBytes(NamedTuple):
    """Bytes per trained parameter. adamw: 4 + 4 + 8 = 16; adamw8bit: 4 + 4 + 2; adamw_bf16_sr: 2 + 2 + 4."""

    weights: float
    gradients: float
    moments: float
    accumulators: float = 0.0  # fp32 sums of bf16 gradients, with gradient_sync: last

    @property
    def total(self) -> float:
        """All four together, where nothing is kept on the host."""
        return sum(self)


def optimizer_bytes(setup: Setup) -> OptimizerBytes:
    """Count bytes per trained parameter of the recipe's optimizer, before any of them moves to the host."""
    kind, size = setup.config.trainer.optimizer.kind, setup.weight_bytes
    if kind == "adamw8bit":
        return OptimizerBytes(size, size, 2)
    if kind == "adamw_bf16_sr":
        return OptimizerBytes(2, 2, 4, 4 if setup.gradient_sync == "last" else 0)
    return OptimizerBytes(size, size, 2 * size)


def state_bytes(setup: Setup) -> tuple[float, float]:
    """Bytes per trained parameter on the GPU, and on the host.

    With `offload: all` a GPU keeps weights and gradients in the type of the products: 2 + 2 for bfloat16.
    """
    each, offload = optimizer_bytes(setup), setup.config.trainer.optimizer.offload
    if offload == "none":
        return each.total, 0.0
    if offload == "states":
        return each.total - each.moments, each.moments
    on_gpu = 2.0 * setup.compute_bytes + each.accumulators
    master = each.weights if each.weights > setup.compute_bytes else 0.0
    return on_gpu, master + each.moments


def offloaded_bytes(setup: Setup) -> float:
    """Bytes that one rank's optimizer keeps in the host's memory."""
    return (sum(setup.adapters) or setup.shape.parameters) * state_bytes(setup)[1] / setup.layout.dp


def learner_lines(setup: Setup) -> list[Line]:
    """Bytes of the learner on one of its GPUs."""
    shape, ranks = setup.shape, setup.layout.dp
    sizes: list[tuple[str, float, Phase, str]] = [("state", _state(setup) / ranks, "always", _state_text(setup))]
    if setup.config.algorithm.needs_reference and setup.config.model.lora is None:
        reference = shape.parameters * setup.compute_bytes / ranks
        sizes.append(("reference", reference, "always", "the frozen starting policy of the KL, or of DPO"))
    if setup.gradient_sync == "last" and setup.layout.dp > 1:
        dense = shape.dense_parameters if setup.config.model.lora is None else setup.adapters[0]
        sizes.append(("unsynced gradients", 4.0 * dense, "learning", "of dense weights, until the optimizer's step"))
    sizes += [
        ("gathered", _gathered(setup), "learning", "whole weights of two layers, gradients of one, the embedding"),
        ("head", _head(setup), "learning", "the head's weight and gradient, scored hidden states, slices of logits"),
        ("activations", _activations(setup), "learning", _activations_text(setup)),
    ]
    return [Line("learner", *parts) for parts in sizes]


def _state(setup: Setup) -> float:
    """Bytes of weights, gradients and moments of all ranks of a replica."""
    trained = state_bytes(setup)[0]
    if setup.config.model.lora is None:
        return setup.shape.parameters * trained
    return setup.shape.parameters * setup.compute_bytes + sum(setup.adapters) * trained


def _state_text(setup: Setup) -> str:
    kind, offload = setup.config.trainer.optimizer.kind, setup.config.trainer.optimizer.offload
    what = "frozen weights, adapters with gradients and moments" if setup.config.model.lora else "weights, gradients"
    moments = "" if setup.config.model.lora else ", moments"
    return f"{what}{moments} ({kind}{', offload: ' + offload if offload != 'none' else ''})"


def _is_plain(setup: Setup) -> bool:
    """Tell whether one process computes with the weights themselves: nothing is gathered, cast or reduced.

    Gradients of bfloat16 weights are reduced in fp32, by one process too.
    """
    if setup.on_gpu:  # one GPU takes the path of several
        return False
    return setup.layout.dp == 1 and setup.compute_bytes == setup.weight_bytes > BYTES["bfloat16"]


def _gathered(setup: Setup) -> float:
    """(4 + 6) * (X/R/e + (D - 2VH)/L) + 2VH: two layers in bf16, one layer's gradients in bf16 and fp32."""
    if _is_plain(setup):
        return 0.0
    shape, size = setup.shape, setup.compute_bytes
    gradients = 0 if setup.config.model.lora else size + 4
    experts = shape.expert_parameters / shape.routed_layers / setup.layout.ep if shape.routed_layers else 0.0
    dense = (shape.dense_parameters - 2 * shape.head_parameters) / shape.layers
    return (2 * size + gradients) * (experts + dense) + size * shape.head_parameters


def _head(setup: Setup) -> float:
    """8VH + 3TH + 3 slices: weight, gradient and its fp32 reduction; hidden states of T/2 slots with fp32 gradients."""
    shape, size = setup.shape, setup.compute_bytes
    gradient = 0 if setup.config.model.lora else size + 4
    weight = 0 if _is_plain(setup) else (size + gradient) * shape.head_parameters
    return weight + setup.microbatch_tokens * shape.hidden * (size + 4) / 2 + 3 * _SLICE_BYTES


def _activations(setup: Setup) -> float:
    """2LTH + 1.3 T layer: inputs of all layers and the insides of one, or without checkpointing those of all."""
    tokens, shape = setup.microbatch_tokens, setup.shape
    inside = layer_bytes(setup)
    if setup.config.trainer.activation_checkpointing == "layer":
        return setup.compute_bytes * shape.layers * tokens * shape.hidden + 1.3 * tokens * inside
    return (shape.layers + 0.3) * tokens * inside


def layer_bytes(setup: Setup) -> float:
    """Bytes that the backward pass of one layer needs per token: 2 (2 qkv + 2 nh hd + 3H) + k imb (6I + 6H) + 6I."""
    shape, size = setup.shape, setup.compute_bytes
    attention = size * (2 * shape.qkv + 2 * shape.heads + 3 * shape.hidden)
    routed = shape.experts_per_token * setup.imbalance * 3 * size * (shape.inner + shape.hidden)
    return attention + routed + 3 * size * shape.shared_inner


def _activations_text(setup: Setup) -> str:
    kept = "inputs of all layers, one computed again"
    whole = "insides of all layers (activation_checkpointing: none)"
    return kept if setup.config.trainer.activation_checkpointing == "layer" else whole
