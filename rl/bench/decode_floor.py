"""`redraft bench decode --random-weights`: speed against the time that memory alone takes.

A policy of LLaDA2.1-mini's shape with random weights, built where it runs, decodes at forced tokens per forward. A
pass cannot be faster than its bytes: the weights that its tokens need, each read once, and the keys and values that
are read and written, over the bandwidth that a large copy reaches on the same device in the same run.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import nn

from rl.bench.decode_forced import ForcedSession, Traffic, TrafficSession
from rl.bench.decode_meter import KeptEngine, Meter, WrappedEngine, clock_of, metered
from rl.bench.decode_workload import BLOCK, random_prompts
from rl.policy import MINI_SHAPE, build_bare_policy
from rollout.config import DecodeConfig
from rollout.decoder import decode
from rollout.engine import DecodeSession, Engine
from rollout.torch_engine import TorchEngine
from rollout.trajectory import Prompt, SpecialTokens

Advance = Callable[[int, int], None]
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
SHAPES: Final = {"mini": MINI_SHAPE, "tiny-mini": TINY_MINI}
MINI_GIB: Final = 40.0  # of free GPU memory: 30.3 of weights, the rest for pages, the copy's buffers and activations
BANDWIDTH_BYTES: Final = {"cuda": 1 << 31, "cpu": 1 << 27}
RULES: Final = DecodeConfig(block_length=BLOCK, threshold=0.5, editing_threshold=0.5)


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
    """

    name: str
    slots: tuple[int, ...] = (1, 8, 64)
    rates: tuple[float, ...] = (1.0, 3.0, 5.0)
    new_tokens: int = 256
    prompt_tokens: int = 32
    repeats: int = 3
    seed: int = 0


def measure_floor(plan: FloorPlan, advance: Advance) -> dict[str, Any]:
    """All measurements, as plain numbers.

    Args:
        plan: What to measure.
        advance: Called with decodes done and decodes in all.

    Raises:
        ValueError: The shape is unknown, or does not fit this machine.
    """
    model, tokens = build_random(plan.name, plan.seed)
    engine = TorchEngine(model)
    speed = copy_bandwidth(engine.device)
    cases, total = [], len(plan.slots) * len(plan.rates)
    for slots in plan.slots:
        lengths = (plan.prompt_tokens, plan.prompt_tokens)
        prompts = random_prompts(slots, tokens.mask, plan.seed, lengths)
        for rate in plan.rates:
            cases.append(_measure_case(model, tokens, prompts, rate, plan) | {"slots": slots, "rate": rate})
            advance(len(cases), total)
    for case in cases:
        floor = case["bytes"] / speed
        case |= {"floor_s": floor, "floor_tokens_per_s": case["tokens"] / floor, "share": floor / case["seconds"]}
    return {
        "plan": asdict(plan),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "on": torch.cuda.get_device_name() if engine.device.type == "cuda" else "CPU",
        "bandwidth_gb_per_s": speed / 1e9,
        "cases": cases,
    }


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


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of a large copy; the median of ten."""
    clock, size = clock_of(device), BANDWIDTH_BYTES[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(11):
        started = clock()
        target.copy_(source)
        seconds.append(clock() - started)
    return 2 * size / statistics.median(seconds[1:])


def _measure_case(
    model: Any, tokens: SpecialTokens, prompts: tuple[Prompt, ...], rate: float, plan: FloorPlan
) -> dict[str, Any]:
    """One number of slots at one forced rate: once for the traffic, once metered, which captures graphs; then timed."""
    config = RULES.model_copy(update={"max_completion_length": plan.new_tokens})
    engine, traffic, meter = KeptEngine(TorchEngine(model)), Traffic(), Meter()
    clock, num_experts = clock_of(engine.device), model.config.num_experts

    def forced(session: DecodeSession) -> DecodeSession:
        return ForcedSession(session, tokens.mask, rate)

    def timed(own: Engine) -> tuple[float, int]:
        started = clock()
        completions = decode(own, prompts, config, tokens, len(prompts))
        return clock() - started, sum(one.num_forwards for one in completions)

    timed(WrappedEngine(engine, lambda session: forced(TrafficSession(session, num_experts, traffic))))
    metered_s, forwards = timed(metered(WrappedEngine(engine, forced), meter, clock))
    seconds = statistics.median(timed(WrappedEngine(engine, forced))[0] for _ in range(plan.repeats))
    num_tokens = len(prompts) * plan.new_tokens
    return {
        "tokens": num_tokens,
        "seconds": seconds,
        "tokens_per_s": num_tokens / seconds,
        "tokens_per_forward": num_tokens / forwards,
        "passes": meter.passes,
        "prefills": meter.prefills,
        "ms_per_pass": 1000 * seconds / meter.passes,
        "policy_share": (metered_s - meter.model_s) / (metered_s - meter.prefill_s),
        "bytes": total_bytes(model, traffic),
        "experts_per_layer": float(sum(traffic.experts)) / len(traffic.experts) / traffic.routed,
    }


def total_bytes(model: Any, traffic: Traffic) -> float:
    """What all passes of a decode must move at least; activations, logits and routes are not counted."""
    sizes, config = _weight_bytes(model), model.config
    dtype = next(model.parameters()).dtype
    per_token = model.cache_shape.bytes_per_token(dtype)
    embedded = config.hidden_size * dtype.itemsize
    passes = len(traffic.tokens)
    moved = passes * (sizes["body"] + sizes["head"]) + float(sum(traffic.experts)) * sizes["expert"]
    moved += sum(traffic.tokens) * embedded + sum(traffic.kv_tokens) * per_token
    for count, kv_tokens in traffic.prefills:
        # Routes are not recorded there: as many experts as independent choices of k would visit.
        missed = (1 - config.num_experts_per_tok / config.num_experts) ** count
        visited = traffic.routed * config.num_experts * (1 - missed)
        moved += sizes["body"] + visited * sizes["expert"] + count * embedded + kv_tokens * per_token
    return moved


def _weight_bytes(model: Any) -> dict[str, float]:
    """Of the head, of one expert, and of what every pass reads; of the embedding a pass reads only rows."""
    stacked = [parameter for parameter in model.parameters() if parameter.dim() == 3]  # experts along the first one
    routed = len(stacked) // 2  # two stacks in each layer
    embedding = sum(_bytes(m.weight) for m in model.modules() if isinstance(m, nn.Embedding))
    head = _bytes(model.head_weight)
    every = sum(map(_bytes, [*model.parameters(), *model.buffers()]))
    experts = sum(map(_bytes, stacked))
    return {
        "head": head,
        "expert": experts / (routed * model.config.num_experts),
        "body": every - embedding - head - experts,
    }


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
