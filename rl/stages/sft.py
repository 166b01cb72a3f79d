"""Train a policy on demonstrations, with the M2T + T2T mixture as loss and transformers' trainer."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from redraft.rl.config.sections import SFTConfig
from redraft.rl.likelihood.score import score_view
from redraft.rl.seeding import derive_seed
from redraft.rl.stages.demonstrations import Demonstration
from redraft.rl.views import supervised_view
from redraft.rl.views.canvas import CanvasBatch, pad_to_grid
from redraft.rollout.trajectory import SpecialTokens

Report = Callable[[int, dict[str, float]], None]


class MixtureLoss(nn.Module):
    """The mixture's loss as a module, because the trainer takes a module that returns its loss; wraps the policy."""

    def __init__(self, policy: nn.Module, config: SFTConfig, mask_id: int, block_length: int) -> None:
        super().__init__()
        self.policy, self.settings, self.mask_id, self.block_length = policy, config, mask_id, block_length

    def forward(
        self,
        tokens: Int[Tensor, "batch length"],
        editable: Bool[Tensor, "batch length"],
        noise_seeds: Int[Tensor, " batch"],
        prompt_lengths: Int[Tensor, " batch"],
    ) -> dict[str, Tensor]:
        """Weighted negative log-probabilities, in nats per editable token."""
        batch = CanvasBatch(
            tokens=tokens,
            editable=editable,
            advantages=torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device),
            noise_seeds=noise_seeds,
            groups=torch.zeros_like(noise_seeds),
            traces=(),
            prompt_lengths=tuple(prompt_lengths.tolist()),
            block_length=self.block_length,
        )
        ratio = (self.settings.mask_ratio_min, self.settings.mask_ratio_max)
        view = supervised_view(batch, ratio, self.settings.edit_ratio, self.settings.t2t_weight, self.mask_id)
        log_prob = score_view(self.policy, batch, view, self.mask_id, temperature=1.0).log_prob
        return {"loss": -(view.weight[view.scored].to(log_prob.dtype) * log_prob).sum() / editable.sum()}


class _Collator:
    """Make tensors of demonstrations, each batch with the next noise seeds of the run's `sft_noise` stream."""

    def __init__(self, block_length: int, pad_id: int, seed: int) -> None:
        self.block_length, self.pad_id, self.seed = block_length, pad_id, seed
        self.batches = itertools.count()

    def __call__(self, rows: list[Demonstration]) -> dict[str, Tensor]:
        prompts = [row.prompt for row in rows]
        tokens, editable = pad_to_grid(prompts, [row.canvas for row in rows], self.block_length, self.pad_id)
        return {
            "tokens": tokens,
            "editable": editable,
            "noise_seeds": derive_seed(self.seed, "sft_noise", next(self.batches)) + torch.arange(len(rows)),
            "prompt_lengths": torch.tensor([len(prompt) for prompt in prompts]),
        }


class _StopAtTarget(TrainerCallback):
    """Report, evaluate every `eval_steps`, and stop once the held-out accuracy is reached."""

    def __init__(self, config: SFTConfig, accuracy: Callable[[], dict[str, float]], report: Report) -> None:
        self.config, self.accuracy, self.report = config, accuracy, report

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.report(state.global_step, {"sft/loss": float(logs["loss"])})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.config.eval_steps and state.global_step < self.config.max_steps:
            return
        metrics = self.accuracy()
        if metrics:
            self.report(state.global_step, metrics)
        target = self.config.target_accuracy
        if target is not None and metrics["eval/accuracy"] >= target:
            control.should_training_stop = True


def train_supervised(
    model: nn.Module,
    demonstrations: Sequence[Demonstration],
    config: SFTConfig,
    accuracy: Callable[[], dict[str, float]],
    report: Report,
    *,
    folder: Path,
    seed: int,
    block_length: int,
    tokens: SpecialTokens,
) -> None:
    """Train a policy in place.

    Args:
        model: The policy.
        demonstrations: What to imitate.
        config: The recipe's `sft` section.
        accuracy: Evaluates the policy; its result is empty where the recipe has no evaluation.
        report: Called with the number of optimizer steps done and metrics.
        folder: Where the trainer may write.
        seed: Of the order of the demonstrations and of the noise.
        block_length: Tokens per block.
        tokens: The policy's special ids.
    """
    trainer = Trainer(
        model=MixtureLoss(model, config, tokens.mask, block_length),
        args=_arguments(config, folder, seed, next(model.parameters()).device),
        data_collator=_Collator(block_length, tokens.pad, seed),
        train_dataset=list(demonstrations),  # pyright: ignore[reportArgumentType]
        callbacks=[_StopAtTarget(config, accuracy, report)],
    )
    trainer.remove_callback(PrinterCallback)  # `_StopAtTarget` reports
    trainer.train()


def _arguments(config: SFTConfig, folder: Path, seed: int, device: torch.device) -> TrainingArguments:
    """Translate the recipe into the trainer's arguments, on the policy's device."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=config.max_steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        lr_scheduler_type="constant_with_warmup",
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        adam_beta2=0.99,
        logging_steps=min(20, config.eval_steps),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=seed,
        use_cpu=device.type == "cpu",
        log_level="error",
        dataloader_pin_memory=False,
    )
    if device.type == "cuda":
        # By default the trainer moves the policy to cuda:0 and copies it to all other GPUs with nn.DataParallel.
        arguments._n_gpu = 1
        arguments._setup_devices = device  # pyright: ignore[reportAttributeAccessIssue]
        torch.cuda.set_device(device)  # accelerate puts batches there; the constructor set cuda:0
    return arguments
