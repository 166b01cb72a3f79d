"""AdamW for little memory: bf16 weights with stochastic rounding, and moments that wait on the host between steps.

A parameter is stepped by itself: what is stored is brought to the parameter's device, widened, stepped by torch's AdamW
and written back. So the extra memory on the device is that of one parameter, not of the network.

**Guarantees**
    * A resumed run repeats the step of the undisturbed one bit for bit: the noise of the rounding is a function of
      seed, step, parameter and place in it, so nothing has to be saved and any number of ranks rounds alike.
    * Stochastic rounding is unbiased: its expectation is the fp32 number.
    * Without rounding, a step is that of torch's AdamW, wherever the moments are kept.

**Assumes**
    * Gradients are finite; the learner has tested their norm.

**Rejected alternatives**
    * Rounding to nearest: a step of 1e-4 from a weight near 1 is below half a bf16 step of 2^-8 and is lost every time.
    * A random generator per rank: ranks that hold copies of a weight would round them apart.
    * Asynchronous copies from pinned memory: twice the speed of the copies, for the same memory pinned.

Source: stochastic rounding as in Gupta et al., arXiv 1502.02551, section 3.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import BFloat16, Float32, Int64
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from redraft.rl.parallel.pieces import own_rows
from redraft.rl.seeding import derive_seed
from redraft.rollout.sampling import mix

_PIECE = 1 << 24  # entries that are widened and rounded at a time; their noise takes 8 bytes each
_MOMENTS = ("exp_avg", "exp_avg_sq")


class LeanAdamW(Optimizer):
    """AdamW whose stored numbers may be narrower than its arithmetic, or lie on the host.

    Args:
        groups: Parameters with their `lr` and `weight_decay`.
        betas: Decays of the two moments.
        rounding: Seed of stochastic rounding to bf16, for weights and moments; None rounds to nearest.
        host: Keep all that is stored on the host; each piece visits the device in its step.
        master: Type of copies of the weights that are kept beside narrower parameters; None keeps no copies.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        betas: tuple[float, float],
        *,
        rounding: int | None = None,
        host: bool = False,
        master: torch.dtype | None = None,
    ) -> None:
        super().__init__(groups, {"betas": betas, "eps": 1e-8})
        self.rounding = rounding
        for group in self.param_groups:
            for parameter in group["params"]:
                whole = parameter.detach()
                kept = whole.to(master) if master is not None and master != whole.dtype else None
                stored = {name: torch.zeros_like(whole if kept is None else kept) for name in _MOMENTS}
                stored |= {} if kept is None else {"master": kept}
                if host:
                    stored = {name: tensor.cpu() for name, tensor in stored.items()}
                self.state[parameter] = {"step": torch.tensor(0.0), **stored}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step every parameter that has a gradient, piece by piece."""
        numbered = ((group, parameter) for group in self.param_groups for parameter in group["params"])
        for number, (group, parameter) in enumerate(numbered):
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            first, weights = own_rows(parameter.detach())
            at, offset = int(state["step"]), first * math.prod(parameter.shape[1:])
            noise = None if self.rounding is None else derive_seed(self.rounding, "rounding", at, number)
            kept = [own_rows(state[name]).tensor for name in (*_MOMENTS, "master") if name in state]
            parts = [weights.view(-1), own_rows(parameter.grad).tensor.reshape(-1), *(part.view(-1) for part in kept)]
            for start in range(0, weights.numel(), _PIECE):  # none, if this rank holds none of its rows
                pieces = [part[start : start + _PIECE] for part in parts]
                _step_piece(pieces, group, at, noise, offset + start)
            state["step"] += 1

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy a saved state into this one, whose types and places it keeps: torch's own follows the parameters."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for parameter, number in zip(parameters, numbers, strict=True):
            for name, tensor in self.state[parameter].items():
                tensor.copy_(state_dict["state"][number][name])
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})


def _step_piece(pieces: Sequence[Tensor], group: dict[str, Any], at: int, noise: int | None, start: int) -> None:
    """Widen a piece on the weights' device, step it, and store it again.

    Args:
        pieces: Weights, gradients, both moments, and master weights if there are any; all but the weights may lie
            elsewhere. Weights, moments and master weights are changed.
        group: Of the parameter.
        at: Steps before this one.
        noise: Seed of the rounding.
        start: Place of the piece's first entry in the whole parameter.
    """
    weights, gradients, *kept = pieces
    wide = torch.promote_types(torch.promote_types(weights.dtype, kept[-1].dtype), torch.float32)
    mean, square, *master = (part.to(weights.device, wide) for part in kept)
    moved = master[0] if master else weights.to(wide)
    adamw(
        *([moved], [gradients.to(wide)], [mean], [square], [], [torch.tensor(float(at))]),
        foreach=False,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
    values = [moved, mean, square, *master]
    if noise is None:
        rounded = values
    else:
        place = torch.arange(start, start + len(weights), device=weights.device)
        bits = mix(mix(place) ^ noise)
        # One draw of 64 bits is enough for the three numbers of a place.
        rounded = [round_to_bf16(value, (bits >> 16 * part) & 0xFFFF) for part, value in enumerate(values)]
    for target, value in zip((weights, *kept), rounded, strict=True):
        target.copy_(value)


def round_to_bf16(values: Float32[Tensor, " n"], noise: Int64[Tensor, " n"]) -> BFloat16[Tensor, " n"]:
    """Round to one of the two neighbours in bf16, to the farther from zero where noise plus the cut bits carry.

    Example: 0.99 lies between 0.98828125 and 0.9921875, at 44 % of the way, so 44 % of the draws give the upper one.

    Args:
        values: Finite numbers.
        noise: Uniform on 0 to 2^16 - 1.
    """
    bits = values.view(torch.int32) + noise.to(torch.int32)
    return (bits & -(1 << 16)).view(torch.float32).bfloat16()
