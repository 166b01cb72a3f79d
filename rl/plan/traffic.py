"""Bytes between GPUs and seconds of a step, from the rates of a machine; docs/scale.md has the formulas.

Assumes:
    * Traffic runs beside the arithmetic (prefetch), so a micro-batch takes the longer of the two.
    * A forward of the decoder with n rows takes a + b n: it reads the weights once, and computes a block per row.

The seconds are a lower bound to compare settings by. Rewards, evaluations, checkpoints and starting kernels are not
in them.
"""

from dataclasses import dataclass

from redraft.rl.plan.batch import Batch
from redraft.rl.plan.engine import cache_wanted, engine_weights
from redraft.rl.plan.memory import offloaded_bytes, optimizer_bytes
from redraft.rl.plan.setup import Setup


@dataclass(frozen=True)
class Traffic:
    """One full micro-batch of one view on one rank, forward and backward.

    Attributes:
        expert_rows: Bytes of routed tokens to and from the ranks that own their experts, inside the node.
        expert_gathers: Bytes of experts that other nodes hold a part of, gathered and reduced.
        dense_gathers: The same of dense weights.
        flops: Floating-point operations.
        rows_s: Seconds of the rows.
        gathers_s: Seconds of all that is gathered.
        compute_s: Seconds of the operations.
        gathering_pays_above: T above which gathering all experts would move fewer bytes than expert rows; 0 where
            there are no experts.
    """

    expert_rows: float
    expert_gathers: float
    dense_gathers: float
    flops: float
    rows_s: float
    gathers_s: float
    compute_s: float
    gathering_pays_above: float

    @property
    def ratio(self) -> float:
        """Seconds of traffic per second of arithmetic."""
        return (self.rows_s + self.gathers_s) / self.compute_s


@dataclass(frozen=True)
class Seconds:
    """One step, where nothing but this work takes time."""

    rollout: float
    update: float
    sync: float

    @property
    def step(self) -> float:
        """All three, one after the other: the run is synchronous."""
        return self.rollout + self.update + self.sync


def plan_traffic(setup: Setup) -> Traffic:
    """Count what one micro-batch of T tokens moves and computes."""
    shape, layout, machine = setup.shape, setup.layout, setup.machine
    tokens, in_bf16 = setup.microbatch_tokens, setup.compute_bytes / 2
    rows = 0.0
    if layout.ep > 1:
        routed = shape.experts_per_token * setup.imbalance * shape.hidden * 2 * shape.routed_layers
        rows = 6 * routed * tokens * in_bf16
    adapters_only = setup.config.model.lora is not None
    # Weights are gathered for the forward and the backward pass (2 + 2 bytes); gradients are reduced in fp32 (4).
    per_expert = 4 * in_bf16 + (0 if adapters_only else 4)
    per_dense = 4 * in_bf16 + (0 if adapters_only or setup.gradient_sync == "last" else 4)
    experts = per_expert * shape.expert_parameters / layout.ep * (1 - 1 / layout.efsdp)
    dense = per_dense * shape.dense_parameters * (1 - 1 / layout.dp)
    flops = flops_per_token(setup) * tokens * (4 if _recomputes(setup) else 3)
    outside = machine.network_rate if setup.spans_nodes else machine.node_rate
    crossing = 2 * shape.experts * shape.inner / shape.experts_per_token if shape.experts else 0.0
    return Traffic(
        expert_rows=rows,
        expert_gathers=experts,
        dense_gathers=dense,
        flops=flops,
        rows_s=rows / machine.node_rate,
        gathers_s=(experts + dense) / outside,
        compute_s=flops / machine.flops,
        gathering_pays_above=crossing,
    )


def flops_per_token(setup: Setup) -> float:
    """Floating-point operations of one forward, per token: 2 per active parameter."""
    return 2 * setup.shape.active_parameters


def _recomputes(setup: Setup) -> bool:
    return setup.config.trainer.activation_checkpointing == "layer"


def sync_bytes(setup: Setup) -> float:
    """Bytes that every rollout engine receives after an update; adapters are merged into the weights before."""
    return setup.rollout_bytes * setup.shape.parameters


def checkpoint_bytes(setup: Setup) -> tuple[float, float]:
    """Bytes of a checkpoint: `state/`, weights and moments (adamw: 12P), and `hf/`, weights of the learner's type (4P).

    With `offload: all` the learner holds 2P in bfloat16, and `state/` has these beside their masters.
    """
    each, lora, shape = optimizer_bytes(setup), setup.config.model.lora, setup.shape
    has_masters = setup.config.trainer.optimizer.offload == "all" and each.weights > setup.compute_bytes
    if lora is not None:
        state = sum(setup.adapters) * (each.weights + each.moments)
        return state, shape.adapter_file_parameters(lora.rank, lora.targets) * each.weights
    held = setup.compute_bytes if has_masters else each.weights
    return shape.parameters * (each.weights + each.moments + held * has_masters), shape.parameters * held


def step_seconds(setup: Setup, batch: Batch, traffic: Traffic, cache: float) -> Seconds:
    """Estimate the seconds of a step.

    Args:
        setup: The run, on GPUs.
        batch: Its sizes.
        traffic: Of one micro-batch.
        cache: Bytes of the cache of one engine's GPU, which limits how many completions are decoded together.
    """
    return Seconds(_rollout(setup, batch, cache), _update(setup, batch, traffic), _sync(setup))


def _rollout(setup: Setup, batch: Batch, cache: float) -> float:
    """Wave after wave of slots, the last one as long as the longest completion."""
    machine, decode = setup.machine, setup.config.rollout.decode
    weights = engine_weights(setup) or 2 * setup.shape.parameters
    read = weights / machine.memory_rate
    row = flops_per_token(setup) * decode.block_length / machine.flops
    share = batch.completions / setup.engines / setup.gpus_per_engine
    slots = max(1.0, setup.open_slots * min(1.0, cache / cache_wanted(setup)))
    longest = decode.max_completion_length / setup.assumptions.tokens_per_forward
    waves = max(share / slots - 1, 0.0) * batch.decoder_forwards + longest
    return read * waves + row * share * batch.decoder_forwards


def _update(setup: Setup, batch: Batch, traffic: Traffic) -> float:
    """Forwards and backwards of one rank, each as long as its arithmetic or its traffic, and moments to the host."""
    per_call = batch.sequences_per_microbatch * batch.composite_tokens
    calls = batch.sequences_per_rank / batch.sequences_per_microbatch * batch.views * batch.minibatches
    forward = flops_per_token(setup) * per_call / setup.machine.flops
    # Rows grow with the tokens of a call; what is gathered does not.
    moved = traffic.rows_s * per_call / setup.microbatch_tokens + traffic.gathers_s
    seconds = calls * batch.passes.gradient * max(forward * (4 if _recomputes(setup) else 3), moved)
    seconds += calls * batch.passes.without_gradient * max(forward, moved / 3)
    return seconds + batch.optimizer_steps * 2 * offloaded_bytes(setup) / setup.machine.host_rate


def _sync(setup: Setup) -> float:
    machine = setup.machine
    if setup.used_gpus <= machine.gpus_per_node:
        return sync_bytes(setup) / machine.node_rate
    # The owners are spread over the ranks, so all ports of a node share the work.
    return sync_bytes(setup) / (machine.network_rate * min(setup.layout.world, machine.gpus_per_node))
