"""Settle what a recipe leaves open on a given machine: ranks, placement, types. The formulas then only calculate."""

from dataclasses import dataclass
from typing import Literal

from redraft.rl.cluster.placement import Machines, Placement, place_parts
from redraft.rl.config.by_device import Precision, compute_dtype, gradient_sync, rollout_dtype
from redraft.rl.config.schema import RunConfig
from redraft.rl.models.shape import Shape
from redraft.rl.parallel.layout import RankLayout
from redraft.rl.plan.machine import Machine

BYTES: dict[str, int] = {"float64": 8, "float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Assumptions:
    """What only a run can measure.

    Attributes:
        prompt_tokens: Mean length of a prompt.
        completion_tokens: Mean length of a completion; None takes the longest that is allowed.
        tokens_per_forward: Tokens that the decoder writes per forward of a block (`decode/tokens_per_forward`).
        imbalance: Rows of the busiest expert-parallel rank, over the mean; None is 2, and 1 where one rank has all
            experts.
    """

    prompt_tokens: int = 256
    completion_tokens: int | None = None
    tokens_per_forward: float = 3.0
    imbalance: float | None = None


@dataclass(frozen=True)
class Setup:
    """One run on one machine with nothing left open.

    Attributes:
        config: The recipe.
        shape: Of its policy.
        machine: What it runs on.
        assumptions: What only a run can measure.
        placement: Which part lies where; each rollout engine has a whole policy.
    """

    config: RunConfig
    shape: Shape
    machine: Machine
    assumptions: Assumptions
    placement: Placement

    @property
    def on_gpu(self) -> bool:
        """Tell whether the run has GPUs."""
        return self.machine.gpus > 0

    @property
    def layout(self) -> RankLayout:
        """The learner's ranks."""
        return self.placement.layout

    @property
    def colocated(self) -> bool:
        """Tell whether learner and rollout engines take turns on the same GPUs."""
        return self.placement.colocated

    @property
    def engines(self) -> int:
        """Count the rollout engines."""
        return self.placement.engines

    @property
    def gpus_per_engine(self) -> int:
        """GPUs, or the host, that hold the policy of one engine together."""
        return max(1, self.placement.gpus_per_engine)

    @property
    def used_gpus(self) -> int:
        """Count the GPUs that have work."""
        return self.placement.used_gpus

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight as the optimizer changes it (`model.dtype`)."""
        return BYTES[self.config.model.dtype]

    @property
    def compute(self) -> Precision:
        """Type of the learner's products."""
        return compute_dtype(self.config, self.on_gpu)

    @property
    def compute_bytes(self) -> int:
        """Bytes of a number in the learner's products."""
        return BYTES[self.compute]

    @property
    def rollout_bytes(self) -> int:
        """Bytes of a number in the rollout engines (`rollout.dtype`)."""
        return BYTES[rollout_dtype(self.config, self.on_gpu)]

    @property
    def gradient_sync(self) -> Literal["every", "last"]:
        """When gradients are added up; summed in bf16 they lose most where no shard is reduced in fp32."""
        return gradient_sync(self.config, self.layout.efsdp)

    @property
    def adapters(self) -> tuple[int, int]:
        """Count the adapters' parameters, on dense weights and on experts; none where all weights are trained."""
        lora = self.config.model.lora
        return (0, 0) if lora is None else self.shape.adapter_parameters(lora.rank, lora.targets)

    @property
    def imbalance(self) -> float:
        """Rows of the busiest expert-parallel rank, over the mean."""
        return self.assumptions.imbalance or (2.0 if self.layout.ep > 1 else 1.0)

    @property
    def spans_nodes(self) -> bool:
        """Tell whether the learner's ranks lie on several nodes."""
        return self.layout.world > self.machine.gpus_per_node

    @property
    def completion_tokens(self) -> int:
        """Mean tokens of a completion."""
        return self.assumptions.completion_tokens or self.config.rollout.decode.max_completion_length

    @property
    def sequence_tokens(self) -> int:
        """Mean tokens of prompt and completion, in whole blocks."""
        return whole_blocks(
            self.assumptions.prompt_tokens + self.completion_tokens, self.config.rollout.decode.block_length
        )

    @property
    def open_slots(self) -> int:
        """Completions that one GPU of an engine decodes together: its slots, or all it has if these are fewer."""
        rollout = self.config.rollout
        share = -(-rollout.prompts_per_step * rollout.num_generations // self.engines)
        return -(-min(rollout.slots, share) // self.gpus_per_engine)

    @property
    def composite_tokens(self) -> int:
        """Tokens of one completion's composite input, as `learner.microbatches` counts them for its budget.

        A clean canvas, and a noisy copy of the blocks from the one in which the prompt ends.
        """
        block = self.config.rollout.decode.block_length
        return 2 * self.sequence_tokens - self.assumptions.prompt_tokens // block * block

    @property
    def microbatch_tokens(self) -> int:
        """T: tokens of the largest micro-batch. A completion beyond the budget has a micro-batch of its own."""
        return max(self.config.trainer.tokens_per_microbatch, self.composite_tokens)


def whole_blocks(tokens: int, block_length: int) -> int:
    """Round tokens up to whole blocks."""
    return -(-tokens // block_length) * block_length


def settle_setup(config: RunConfig, shape: Shape, machine: Machine, assumptions: Assumptions) -> Setup:
    """Decide what the recipe leaves open.

    Raises:
        ValueError: Sizes of the recipe do not fit each other, the network or the machine.
    """
    node = machine.gpus_per_node if machine.gpus else config.trainer.parallel.ranks or 1
    per_engine = _gpus_per_engine(config, shape, machine)
    placement = place_parts(config, shape.experts, Machines(machine.gpus, node), per_engine)
    return Setup(config, shape, machine, assumptions, placement)


def _gpus_per_engine(config: RunConfig, shape: Shape, machine: Machine) -> int:
    """Choose one GPU where a whole policy leaves room for anything, else the GPUs of a node."""
    fits = BYTES[rollout_dtype(config, machine.gpus > 0)] * shape.parameters < machine.usable_bytes
    return 1 if not machine.gpus or fits else min(machine.gpus, machine.gpus_per_node)
