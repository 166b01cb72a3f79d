"""One training run of the learning benchmark: the real decoder, experience, advantages and learner, nothing else."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from benchmarks.common.policies import decode
from benchmarks.learning.tasks import TASKS, TOKENS, Problem, Task, reward
from benchmarks.learning.warm import BLOCK_LENGTH
from redraft.rewards.result import SampleScore
from redraft.rewards.term import RewardTerm
from redraft.rl.config.algorithm import AlgorithmConfig
from redraft.rl.config.schema import RunConfig
from redraft.rl.config.sections import DataConfig, ModelConfig, RolloutConfig, RolloutDecode, TrainerConfig
from redraft.rl.data.load import batch_indices
from redraft.rl.experience.assemble import completion_metrics, make_experience
from redraft.rl.experience.metrics import reward_metrics
from redraft.rl.learner.learner import Learner
from redraft.rl.models.registry import load_policy
from redraft.rl.monitor.alarm import AlarmConfig, CollapseAlarm
from redraft.rl.seeding import derive_seed
from redraft.rollout.config import PRESETS as DECODE_MODES
from redraft.rollout.config import DecodeConfig
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.trajectory import Completion, Prompt

MODES = ("q", "s")
MAX_POST_STEPS = 2
# Per step in a run's record; those that the learner did not report are left out.
CURVES = {
    "reward": "reward/mean",
    "tokens_per_forward": "decode/tokens_per_forward",
    "entropy": "objective/entropy",
    "kl": "objective/kl",
    "clip_fraction": "objective/clip_fraction",
    "grad_norm": "objective/grad_norm",
    "drift": "objective/drift",
    "edits": "decode/edits_per_completion",
}


@dataclass(frozen=True)
class RunSpec:
    """One run of the grid; with equal fields but `preset` and `rate`, runs start from the same policy and prompts.

    Attributes:
        preset: Name of the algorithm.
        task: Name of the task.
        mode: Name of the decode mode.
        rate: Learning rate.
        seed: Of prompts and rollouts.
        steps: Batches of rollouts learned from.
        prompts: Prompts per step.
        generations: Completions per prompt.
        held_out: Held-out problems at the end.
    """

    preset: str
    task: str
    mode: str
    rate: float
    seed: int
    steps: int = 50
    prompts: int = 8
    generations: int = 8
    held_out: int = 256


def run_config(spec: RunSpec, algorithm: AlgorithmConfig, max_completion_length: int) -> RunConfig:
    """The recipe of one run: what the learner reads; model, data and rewards are the benchmark's own."""
    decode_config = RolloutDecode.model_validate(
        {
            **DECODE_MODES[spec.mode],
            "block_length": BLOCK_LENGTH,
            "max_post_steps": MAX_POST_STEPS,
            "max_completion_length": max_completion_length,
        }
    )
    return RunConfig(
        seed=spec.seed,
        output_dir="unused",
        model=ModelConfig(path="unused", device="cpu"),
        data=DataConfig(path=spec.task, max_rows=None),
        rewards=(RewardTerm(fn="math_accuracy"),),
        rollout=RolloutConfig(
            prompts_per_step=spec.prompts, num_generations=spec.generations, decode=decode_config, slots=4096
        ),
        algorithm=algorithm,
        trainer=TrainerConfig(total_steps=spec.steps, learning_rate=spec.rate, tokens_per_microbatch=1_000_000),
    )


def run_one(spec: RunSpec, algorithm: AlgorithmConfig, policy: Path) -> dict[str, Any]:
    """Train for `spec.steps` steps.

    Args:
        spec: The run.
        algorithm: What `spec.preset` stands for.
        policy: Folder of the warm-started policy.

    Returns:
        A record that JSON can hold: the spec, the algorithm, one list per curve, held-out results and costs.
        `failed` is the message of a gradient or logit that was not finite; the curves end there.
    """
    started = time.perf_counter()
    task = TASKS[spec.task]()
    config = run_config(spec, algorithm, task.max_completion_length)
    model = load_policy(str(policy), "float32", "cpu")
    spent = count_forwards(model)
    learner, alarm = Learner(model, config, TOKENS), CollapseAlarm(AlarmConfig())
    curves: dict[str, list[float]] = {}
    record: dict[str, Any] = {"failed": None, "alarm": None}
    for step in range(spec.steps):
        try:
            metrics = _learn_step(learner, task, step)
        except FloatingPointError as error:
            record["failed"] = f"step {step}: {error}"
            break
        for name, metric in CURVES.items():
            if metric in metrics:
                curves.setdefault(name, []).append(round(metrics[metric], 5))
        finding = alarm.observe(metrics)
        record["alarm"] = record["alarm"] or (finding and f"step {step}: {finding}")
    rollouts = spec.steps * spec.prompts * spec.generations
    return {
        "spec": asdict(spec),
        "algorithm": algorithm.model_dump(mode="json"),
        "curves": curves,
        "held_out": None if record["failed"] else _held_out(model, task, config, spec),
        "forwards": {name: round(count / rollouts, 3) for name, count in spent.items()},
        "seconds": round(time.perf_counter() - started, 2),
        **record,
    }


def _learn_step(learner: Learner, task: Task, step: int) -> dict[str, float]:
    """One on-policy step, as `rl.loop` takes it."""
    config = learner.config
    chosen = batch_indices(len(task.train), config.rollout.prompts_per_step, config.seed, step)
    problems = [task.train[index] for index in chosen]
    prompts = _prompts(problems, config.rollout.num_generations, config.seed, "rollout", step)
    clock = time.perf_counter()
    completions = decode(TorchEngine(learner.model), prompts, config.rollout.decode, TOKENS)
    seconds = time.perf_counter() - clock
    rewards = _rewards(problems, prompts, completions)
    scored = [SampleScore(value, value, {}) for value in rewards]
    experience = make_experience(prompts, completions, rewards, config.algorithm.advantage)
    updated = learner.update(experience)
    return completion_metrics(completions, seconds) | reward_metrics(prompts, scored) | updated


def _prompts(problems: Sequence[Problem], copies: int, seed: int, purpose: str, step: int) -> list[Prompt]:
    return [
        Prompt(
            f"{purpose}-{step}-{group}-{member}",
            problem.prompt,
            seed=derive_seed(seed, purpose, step, group, member),
            group=group,
        )
        for group, problem in enumerate(problems)
        for member in range(copies)
    ]


def _rewards(problems: Sequence[Problem], prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
    return [reward(problems[p.group], c.token_ids) for p, c in zip(prompts, completions, strict=True)]


def _held_out(model: nn.Module, task: Task, config: RunConfig, spec: RunSpec) -> dict[str, float]:
    """Reward on problems that were never learned from, sampled as in training and with the mode's greedy decode."""
    chosen = batch_indices(len(task.held_out), min(spec.held_out, len(task.held_out)), 0, 0)
    problems = [task.held_out[index] for index in chosen]
    prompts = _prompts(problems, 1, spec.seed, "held_out", 0)
    settings = config.rollout.decode.model_dump()
    greedy = {"temperature": 0.0, "edit_sampling": "argmax"}
    results = {}
    for name, changes in (("sampled", {}), ("greedy", greedy)):
        chosen_config = DecodeConfig.model_validate({**settings, **changes})
        completions = decode(TorchEngine(model), prompts, chosen_config, TOKENS)
        results[name] = fmean(_rewards(problems, prompts, completions))
        results[f"{name}_tokens_per_forward"] = completion_metrics(completions, 1.0)["decode/tokens_per_forward"]
    return {name: round(value, 5) for name, value in results.items()}


def count_forwards(model: nn.Module) -> dict[str, int]:
    """Counts what the network is asked for while learning, in rows: `learn` with a graph, `score` without one.

    A composite forward of n completions counts n, so a count over the number of rollouts is forwards per completion.
    """
    spent = {"learn": 0, "score": 0}
    plain: Callable[..., torch.Tensor] = model.hidden_states  # pyright: ignore[reportAssignmentType]

    def counted(input_ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        if not torch.is_inference_mode_enabled():  # the decoder's
            spent["learn" if torch.is_grad_enabled() else "score"] += len(input_ids)
        return plain(input_ids, *rest)

    model.hidden_states = counted  # pyright: ignore[reportArgumentType]
    return spent
