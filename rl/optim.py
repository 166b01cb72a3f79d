"""Optimizer and learning-rate schedule."""

from torch import nn
from torch.optim import AdamW

from rl.config import TrainerConfig


def freeze_router(model: nn.Module) -> None:
    """Stop learning of every router, found by its module name `gate`: small router moves reroute whole sequences."""
    for name, parameter in model.named_parameters():
        if "gate" in name.split("."):
            parameter.requires_grad_(False)


def make_optimizer(model: nn.Module, config: TrainerConfig) -> AdamW:
    """AdamW on the parameters that learn; weight decay on matrices only."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learned if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learned if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=config.learning_rate, betas=(0.9, config.adam_beta2))


def set_learning_rate(optimizer: AdamW, config: TrainerConfig, step: int) -> float:
    """Linear warm-up over `warmup_steps`, then constant; returns the rate of this step (counted from 0)."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate
