"""The bytes that decoding must move, and how fast this machine moves bytes: the floor of `--random-weights`."""

import statistics
from typing import Any, Final

import torch
from torch import nn

from benchmarks.decode.forced import Traffic
from benchmarks.decode.meter import clock_of

BANDWIDTH_BYTES: Final = {"cuda": 1 << 31, "cpu": 1 << 27}


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


def total_bytes(model: Any, traffic: Traffic, visits: float) -> float:
    """What all passes of a decode must move at least; activations, logits and routes are not counted.

    Args:
        model: The policy.
        traffic: Tokens of the decode, pass by pass.
        visits: Different experts that a pass visits, summed over layers: `Traffic.visits` of this decode or of a
            shorter one with as many rows.
    """
    sizes, config = weight_bytes(model), model.config
    dtype = next(model.parameters()).dtype
    per_token = model.cache_shape.bytes_per_token(dtype)
    embedded = config.hidden_size * dtype.itemsize
    moved = len(traffic.tokens) * (sizes["body"] + sizes["head"] + visits * sizes["expert"])
    moved += sum(traffic.tokens) * embedded + sum(traffic.kv_tokens) * per_token
    for count, kv_tokens in traffic.prefills:
        # Routes are not recorded there: as many experts as independent choices of k would visit.
        missed = (1 - config.num_experts_per_tok / config.num_experts) ** count
        visited = sizes["routed"] * config.num_experts * (1 - missed)
        moved += sizes["body"] + visited * sizes["expert"] + count * embedded + kv_tokens * per_token
    return moved


def weight_bytes(model: Any) -> dict[str, float]:
    """Of the head, of one expert, and of what every pass reads; of the embedding a pass reads only rows.

    Besides, `routed`: the number of layers with experts.
    """
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
        "routed": routed,
    }


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
