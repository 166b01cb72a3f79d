"""`python -m benchmarks decode --random-weights`: speed against the time that memory alone takes.

A policy of LLaDA2.1-mini's shape with random weights, built where it runs, decodes at forced tokens per forward. A
pass cannot be faster than its bytes: the weights that its tokens need, each read once, and the keys and values that
are read and written, over the bandwidth that a large copy reaches on the same device in the same run.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from benchmarks.common.policies import build_bare_policy
from benchmarks.decode.bytes import copy_bandwidth
from benchmarks.decode.rates import ForcedBench
from benchmarks.decode.workload import BLOCK, random_prompts
from redraft.rl.models.llada2 import LLADA2_MINI
from redraft.rollout.trajectory import SpecialTokens

TINY_MINI: Final[Mapping[str, Any]] = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 16,
    "n_group": 8,
    "topk_group": 4,
    "rope_theta": 600000.0,
    "max_position_embeddings": 4096,
}
"""The same stack at a size for a CPU's tests; it fits into caches, so the floor says nothing about it."""
SHAPES: Final = {"mini": LLADA2_MINI.to_dict(), "tiny-mini": TINY_MINI}
MINI_GIB: Final = 40.0  # of free GPU memory: 30.3 of weights, the rest for pages, the copy's buffers and activations
LARGEST_RATE: Final = BLOCK / 3  # two forwards that fill a block and one that finds it full


@dataclass(frozen=True)
class FloorPlan:
    """What is measured.

    Attributes:
        name: Of the shape: `mini`, on a GPU in bfloat16, or `tiny-mini`, in float32 where there is no GPU.
        slots: Rows at a time; as many prompts, so all rows run from the first pass to the last.
        rates: Tokens per forward.
        new_tokens: Per completion.
        prompt_tokens: Per prompt, whole blocks.
        repeats: Timed decodes of each; medians are reported.
        seed: Of weights and prompts.
        profile: Also the kernels of a pass, for every number of slots.
    """

    name: str
    slots: tuple[int, ...] = (1, 8, 64)
    rates: tuple[float, ...] = (1.0, 3.0, 5.0)
    new_tokens: int = 256
    prompt_tokens: int = 32
    repeats: int = 3
    seed: int = 0
    profile: bool = False

    def __post_init__(self) -> None:
        wrong = [rate for rate in self.rates if not 0 < rate <= LARGEST_RATE]
        if wrong:
            raise ValueError(
                f"rate {wrong[0]:g}: tokens per forward must be above 0 and at most {LARGEST_RATE:.3g}, a third of a"
                f" block of {BLOCK}: two forwards that fill it, and one that ends it"
            )


def measure_floor(plan: FloorPlan) -> Iterator[dict[str, Any]]:
    """Measures case by case, so that what is measured can be kept before the next case begins.

    Args:
        plan: What to measure.

    Yields:
        The same record again and again, as plain numbers, with one more case, or one more finding about its sessions.

    Raises:
        ValueError: The shape is unknown, or does not fit this machine.
    """
    model, tokens = build_random(plan.name, plan.seed)
    device = next(model.parameters()).device
    speed = copy_bandwidth(device)
    cases: list[dict[str, Any]] = []
    sessions: list[dict[str, Any]] = []
    record = {
        "plan": asdict(plan),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "on": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "bandwidth_gb_per_s": speed / 1e9,
        "wanted": len(plan.slots) * len(plan.rates),
        "cases": cases,
        "sessions": sessions,
    }
    for slots in plan.slots:
        prompts = random_prompts(slots, tokens.mask, plan.seed, (plan.prompt_tokens, plan.prompt_tokens))
        bench = ForcedBench(model, tokens, prompts, plan.new_tokens)
        sessions.append({"slots": slots, "warm_up_s": bench.warm_up(max(plan.rates))})
        visits = bench.visits(max(plan.rates))
        for rate in plan.rates:
            case = bench.measure(rate, visits, plan.repeats)
            floor = case["bytes"] / speed
            case |= {"floor_s": floor, "floor_tokens_per_s": case["tokens"] / floor, "share": floor / case["seconds"]}
            cases.append({"slots": slots, "rate": rate, **case})
            sessions[-1]["graphs"] = bench.graphs()
            yield record
        sessions[-1]["plain"] = bench.compare_plain(max(plan.rates))
        yield record
        if plan.profile:
            sessions[-1]["profile"] = bench.profile(max(plan.rates))
            yield record


def build_random(name: str, seed: int) -> tuple[Any, SpecialTokens]:
    """A policy with random weights, made on the device it runs on, and its special ids.

    Raises:
        ValueError: The name is unknown, there is no GPU for `mini`, or not enough memory on it.
    """
    if name not in SHAPES:
        raise ValueError(f"unknown random weights {name!r}; valid: {', '.join(SHAPES)}")
    device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    if name == "mini":
        _check_gpu()
    model = build_bare_policy(SHAPES[name], dtype, device, seed)
    return model, SpecialTokens(mask=SHAPES[name]["vocab_size"] - 1, pad=0, stops=())


def _check_gpu() -> None:
    if not torch.cuda.is_available():
        raise ValueError(
            "--random-weights mini needs a GPU: its weights take 32.5 GB in bfloat16, and this machine has none;"
            " --random-weights tiny-mini runs the same measurement on a CPU"
        )
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < MINI_GIB:
        raise ValueError(f"--random-weights mini needs {MINI_GIB:g} GiB of free GPU memory, but {free:.1f} are free")
