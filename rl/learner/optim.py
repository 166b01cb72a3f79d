"""Optimizer and learning-rate schedule."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from redraft.rl.config.sections import TrainerConfig
from redraft.rl.learner.optim_low import LeanAdamW

SCALE = "rate_scale"  # key of the optimizer's groups
LARGEST_CUT, LARGEST_RISE = 0.25, 1.2  # factors of the scale, per batch


def freeze_router(model: nn.Module) -> None:
    """Stop every router from learning, because a small change of a router sends whole sequences to other experts.

    Routers are found by their module name, `gate`.
    """
    for name, parameter in model.named_parameters():
        if "gate" in name.split("."):
            parameter.requires_grad_(False)


def make_optimizer(model: nn.Module, config: TrainerConfig, seed: int = 0) -> Optimizer:
    """Make the recipe's kind of AdamW for the parameters that learn, with weight decay on matrices only.

    Its state is filled in here with the values that Adam begins with. AdamW itself creates it at the first optimizer
    step, which is too late for checkpoints: to save a learner that has taken no step, DCP takes one at rate 0, which
    Adam counts; and a learner that loads a checkpoint would drop the state that it has no place for.

    Args:
        model: The policy.
        config: Kind, rates and offload.
        seed: The run's seed, for stochastic rounding.
    """
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learned if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learned if p.dim() <= 1], "weight_decay": 0.0},
    ]
    for group in groups:
        group |= {SCALE: 1.0, "lr": config.learning_rate}
    betas, asked = (0.9, config.adam_beta2), config.optimizer
    if asked.kind == "adamw8bit":
        return _eight_bit(groups, betas)
    if asked.kind == "adamw_bf16_sr":
        return LeanAdamW(groups, betas, rounding=seed, host=asked.offload != "none")
    if asked.offload != "none":
        # Where the weights are narrower than fp32, as `offload: all` loads them on a GPU, they have fp32 copies.
        narrow = asked.offload == "all" and any(p.dtype.itemsize < 4 for p in learned)
        return LeanAdamW(groups, betas, host=True, master=torch.float32 if narrow else None)
    optimizer = AdamW(groups, betas=betas)
    for parameter in learned:
        moments = {name: torch.zeros_like(parameter, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}
    return optimizer


def require_torchao() -> None:
    """Refuse 8-bit moments where torchao is not installed.

    Raises:
        ValueError: It is not.
    """
    if find_spec("torchao") is None:
        raise ValueError(
            "trainer.optimizer: adamw8bit needs torchao, which is not installed: pip install 'redraft[lowbit]', or use"
            " adamw"
        )


def _eight_bit(groups: list[dict[str, Any]], betas: tuple[float, float]) -> Optimizer:
    """Make torchao's AdamW with 8-bit moments, which compiles its step."""
    require_torchao()
    from torchao.optim import AdamW8bit

    optimizer = AdamW8bit(groups, betas=betas, eps=1e-8)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            moments = {
                name: optimizer._new_buffer(parameter, signed)  # torchao has no public way to make a moment
                for name, signed in (("exp_avg", True), ("exp_avg_sq", False))
            }
            optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}
    return optimizer


def set_learning_rate(optimizer: Optimizer, config: TrainerConfig, step: int) -> float:
    """Set the learning rate: linear warm-up over `warmup_steps`, then constant, times the trust region's scale.

    Args:
        optimizer: Of `make_optimizer`.
        config: The schedule.
        step: Counted from 0.

    Returns:
        The rate.
    """
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # torchao's step is compiled, and reads the rate from where it lies
            group["lr"].fill_(rate * group[SCALE])
        else:
            group["lr"] = rate * group[SCALE]
    return rate * optimizer.param_groups[0][SCALE]


def hold_drift(optimizer: Optimizer, drift: float, target: float) -> None:
    """Scale the learning rate so that the policy moves about `target` per batch, and never above the recipe's rate.

    Squared log ratios grow with the square of the rate (Adam's steps are proportional to it), so the rate is off by the
    square root of target / drift (docs/math.md eq 49). One batch divides it by 4 at most and multiplies it by
    1.2 at most, because a rate that is too high costs more than one that is too low for a few batches.
    The scale is stored in the optimizer's groups, so that a checkpoint of the optimizer holds it.

    Args:
        optimizer: Of `make_optimizer`.
        drift: Mean of log ratio^2 / 2 at the last optimizer step of a batch.
        target: What it should be.
    """
    factor = max(LARGEST_CUT, min(LARGEST_RISE, (target / drift) ** 0.5)) if drift > 0 else LARGEST_RISE
    for group in optimizer.param_groups:
        group[SCALE] = min(1.0, group[SCALE] * factor)
