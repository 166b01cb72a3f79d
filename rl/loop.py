"""The algorithm: rollouts, rewards, advantages, one learner update, weight sync. Nothing here knows about Ray."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redraft.rl.config.schema import RunConfig
from redraft.rl.data.codec import Codec
from redraft.rl.data.tasks import Row
from redraft.rl.experience.assemble import completion_metrics, make_experience, shaped_rewards, shuffled
from redraft.rl.experience.metrics import reward_metrics
from redraft.rl.experience.pipeline import Pipeline
from redraft.rl.experience.sampler import Sampled, Sampler
from redraft.rl.monitor.alarm import CollapseError
from redraft.rl.progress import TRAINER, Progress
from redraft.rl.protocols import PolicyLearner, RewardPool, RolloutPool
from redraft.rl.run_folder.checkpoint import complete_checkpoints, save_checkpoint
from redraft.rl.run_folder.files import WriteError
from redraft.rl.run_folder.recorder import Recorder
from redraft.rl.stages.evaluate import evaluate


@dataclass(frozen=True)
class Parts:
    """What the loop is made of."""

    rollouts: RolloutPool
    rewards: RewardPool
    learner: PolicyLearner
    codec: Codec


@dataclass(frozen=True)
class RunData:
    """Rows to learn from, rows held out, and the fingerprints that checkpoints keep, see `rl.run_folder.inputs`."""

    train: Sequence[Row]
    held_out: Sequence[Row]
    inputs: Mapping[str, Any] = field(default_factory=dict)


def train(
    config: RunConfig,
    parts: Parts,
    data: RunData,
    recorder: Recorder,
    progress: Progress,
    stopping: Callable[[], bool],
) -> int:
    """Run the steps from `progress` to `total_steps`, with a checkpoint every `save_steps` and at the end.

    Args:
        config: The recipe.
        parts: Rollouts, rewards, learner.
        data: Rows.
        recorder: Where results go.
        progress: Where the run stands; moves with it.
        stopping: Asked after each step; true: write a checkpoint and return.

    Returns:
        Number of steps done.

    Raises:
        CollapseError: The collapse alarm fired and the recipe lets it stop the run; a checkpoint is written.
        WriteError: A file of the run cannot be written; a checkpoint is, if there is room for it.
    """
    try:
        return _steps(config, parts, data, recorder, progress, stopping)
    except WriteError:
        saved = complete_checkpoints(recorder.run)
        if progress.step and not (saved and saved[-1].name == f"step_{progress.step:06d}"):
            with contextlib.suppress(OSError):  # the error that is raised says what is kept
                _save(config, parts, data, recorder, progress)
        raise


def _steps(
    config: RunConfig,
    parts: Parts,
    data: RunData,
    recorder: Recorder,
    progress: Progress,
    stopping: Callable[[], bool],
) -> int:
    parts.rollouts.sync(parts.learner.weights())
    for step in range(progress.step, config.trainer.total_steps):
        if config.evaluation and step % config.evaluation.eval_steps == 0:
            recorder.metrics("eval", step, _evaluate(config, parts, data))
        metrics, sampled = _learn_step(config, parts, data, recorder, progress)
        done = step + 1
        collapse = progress.alarm.observe(metrics) if config.trainer.collapse_alarm != "off" else None
        _record(recorder, progress, sampled, metrics | {"alarm/collapse": float(collapse is not None)})
        if collapse:
            recorder.warn(f"step {done}: collapse? {collapse}")
        collapsed = collapse is not None and config.trainer.collapse_alarm == "stop"
        stop = (collapsed or stopping()) and done < config.trainer.total_steps
        if stop or done % config.trainer.save_steps == 0 or done == config.trainer.total_steps:
            _save(config, parts, data, recorder, progress)
        if stop and collapsed:
            raise CollapseError(
                f"stopped after step {done}, with a checkpoint: {collapse}; continue in spite of it with"
                " trainer.collapse_alarm=warn --resume"
            )
        if stop:
            return done
    if config.evaluation:
        recorder.metrics("eval", progress.step, _evaluate(config, parts, data))
    return progress.step


def _learn_step(
    config: RunConfig, parts: Parts, data: RunData, recorder: Recorder, progress: Progress
) -> tuple[dict[str, float], Sampled]:
    """One on-policy step: every completion is written by the weights that this step updates."""
    clock, step = _Clock(), progress.step
    sampled = Sampler(config, data.train, _pipeline(config, parts)).step(step)
    metrics = completion_metrics(sampled.completions, sampled.rollout_s)
    metrics |= reward_metrics(sampled.prompts, sampled.scored)
    if nothing := progress.masked.observe(metrics, sampled.scored):
        recorder.warn(f"step {step + 1}: {nothing}")
    metrics |= {"time/reward_s": sampled.reward_s, "time/reward_overlap_s": sampled.reward_overlap_s}

    rewards = shaped_rewards(sampled, config)
    if config.trainer.shuffle_rewards:
        rewards = shuffled(rewards, config.seed, step)
    experience = make_experience(*sampled.learnable(rewards), config.algorithm)
    metrics |= parts.learner.update(experience)
    progress.step += 1
    clock.lap()
    version = parts.rollouts.sync(parts.learner.weights())
    metrics |= {"policy_version": float(version), "time/sync_s": clock.lap(), "time/step_s": clock.total()}
    return metrics, sampled


def _record(recorder: Recorder, progress: Progress, sampled: Sampled, metrics: dict[str, float]) -> None:
    """Write what the step gave; while that is not done, a checkpoint keeps the row for a resumed run to write."""
    progress.unwritten = [("train", progress.step, metrics)]
    recorder.samples(progress.step, sampled.samples, sampled.completions, sampled.scored)
    recorder.metrics("train", progress.step, metrics)
    progress.unwritten = []


def _evaluate(config: RunConfig, parts: Parts, data: RunData) -> dict[str, float]:
    assert config.evaluation is not None
    return evaluate(_pipeline(config, parts), data.held_out, config.evaluation.decode)


def _pipeline(config: RunConfig, parts: Parts) -> Pipeline:
    return Pipeline.of(config, parts.rollouts, parts.rewards, parts.codec)


def _save(config: RunConfig, parts: Parts, data: RunData, recorder: Recorder, progress: Progress) -> None:
    state: dict[str, dict[str, Any]] = {
        TRAINER: progress.saved(),
        "data.json": dict(data.inputs),
        "config.json": config.model_dump(mode="json"),
    }

    def write(folder: str) -> None:
        parts.learner.save(folder)
        parts.codec.save_tokenizer(f"{folder}/hf")

    save_checkpoint(recorder.run, progress.step, write, state, config.trainer.save_total_limit)


class _Clock:
    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        self.last, seconds = now, now - self.last
        return seconds

    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start
