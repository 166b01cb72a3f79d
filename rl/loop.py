"""The algorithm: rollouts, rewards, advantages, one update of the policy, weights back. Nothing here knows about Ray.

    for each batch:
        prompts     -> completions    decoded by the policy of the last update
        completions -> rewards        while others are still being decoded
        rewards     -> advantages     each completion beside the others of its prompt
        learner updates the policy; its weights go to the rollouts

A batch counts as one step of `trainer.total_steps`, also where the learner makes several optimizer steps of it.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redraft.rl.config.schema import RunConfig
from redraft.rl.data.codec import Codec
from redraft.rl.data.rows import Row
from redraft.rl.experience.assemble import completion_metrics, make_experience, shaped_rewards, shuffled
from redraft.rl.experience.metrics import reward_metrics
from redraft.rl.experience.pipeline import Pipeline
from redraft.rl.experience.sampler import Sampled, Sampler
from redraft.rl.monitor.alarm import CollapseError
from redraft.rl.progress import TRAINER, RunProgress
from redraft.rl.protocols import PolicyLearner, RewardPool, RolloutPool
from redraft.rl.run_folder.checkpoint import complete_checkpoints, save_checkpoint
from redraft.rl.run_folder.files import WriteError
from redraft.rl.run_folder.recorder import Recorder
from redraft.rl.stages.evaluate import evaluate_rows
from redraft.rl.stages.model_card import describe_policy
from redraft.rl.weight_sync.canary import first_sync


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run: its recipe, its rows, the parts that do the work, and where it stands.

    Attributes:
        config: The recipe.
        train: Rows to learn from.
        held_out: Rows to evaluate on.
        rollouts: Completes prompts.
        rewards: Scores completions.
        learner: Updates the policy.
        codec: The policy's tokenizer.
        recorder: Writes the run folder.
        progress: How far the run is; moves with it.
        inputs: Fingerprints of what the run depends on, for its checkpoints; see `run_folder.inputs`.
    """

    config: RunConfig
    train: Sequence[Row]
    held_out: Sequence[Row]
    rollouts: RolloutPool
    rewards: RewardPool
    learner: PolicyLearner
    codec: Codec
    recorder: Recorder
    progress: RunProgress
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def pipeline(self) -> Pipeline:
        """Join rollouts and rewards."""
        return Pipeline.of(self.config, self.rollouts, self.rewards, self.codec)


def train(run: Training, stopping: Callable[[], bool]) -> int:
    """Learn from one batch after the other, with a checkpoint every `trainer.save_steps` and at the end.

    Args:
        run: The run, at the start or where a checkpoint left it.
        stopping: Asked after each batch; at True a checkpoint is written and the run returns.

    Returns:
        Steps done since the start of the run.

    Raises:
        CollapseError: The collapse alarm fired and the recipe lets it stop the run; a checkpoint is written.
        WriteError: A file of the run cannot be written; a checkpoint is, if there is room for it.
    """
    try:
        return _all_batches(run, stopping)
    except WriteError:
        saved = complete_checkpoints(run.recorder.run)
        if run.progress.step and not (saved and saved[-1].name == f"step_{run.progress.step:06d}"):
            with contextlib.suppress(OSError):  # the error that is raised says what is kept
                _save(run)
        raise


def _all_batches(run: Training, stopping: Callable[[], bool]) -> int:
    trainer, progress = run.config.trainer, run.progress
    run.rollouts.restore()  # a learner that was lost left them asleep
    probe = run.codec.prompts(run.train[:1], 1, "probe", 0)
    first_sync(run.rollouts, run.learner, probe[0], run.config.rollout.decode)
    while progress.step < trainer.total_steps:
        if run.config.evaluation and progress.step % run.config.evaluation.eval_steps == 0:
            _evaluate(run)
        sampled, metrics = _learn(run)
        collapse = progress.alarm.observe(metrics) if trainer.collapse_alarm != "off" else None
        _record(run, sampled, metrics | {"alarm/collapse": float(collapse is not None)})
        if collapse:
            run.recorder.warn(f"step {progress.step}: collapse? {collapse}")
        is_last = progress.step == trainer.total_steps
        collapsed = collapse is not None and trainer.collapse_alarm == "stop"
        stops_early = (collapsed or stopping()) and not is_last
        if stops_early or is_last or progress.step % trainer.save_steps == 0:
            _save(run)
        if stops_early and collapsed:
            raise CollapseError(
                f"stopped after step {progress.step}, with a checkpoint: {collapse}; continue in spite of it with"
                " trainer.collapse_alarm=warn --resume (in Python resume=True)"
            )
        if stops_early:
            return progress.step
    if run.config.evaluation:
        _evaluate(run)
    return progress.step


def _learn(run: Training) -> tuple[Sampled, dict[str, float]]:
    """Learn from one batch, of which every completion was written by the weights that it updates."""
    started, step = time.perf_counter(), run.progress.step
    sampled = Sampler(run.config, run.train, run.pipeline()).batch(step)
    metrics = _observe(run, sampled)
    rewards = shaped_rewards(sampled, run.config)
    if run.config.trainer.shuffle_rewards:
        rewards = shuffled(rewards, run.config.seed, step)
    experience = make_experience(*sampled.learnable(rewards), run.config.algorithm.advantage)
    run.rollouts.release()  # engines on the learner's own GPU give their memory back meanwhile
    metrics |= run.learner.update(experience)
    run.progress.step += 1
    updated = time.perf_counter()
    run.rollouts.restore()
    version = run.rollouts.sync(run.learner.weights())
    done = time.perf_counter()
    metrics |= {"policy_version": float(version), "time/sync_s": done - updated, "time/step_s": done - started}
    return sampled, metrics


def _observe(run: Training, sampled: Sampled) -> dict[str, float]:
    """Measure a batch; warn where no completion has a score, and raise ValueError after too many such batches."""
    metrics = completion_metrics(sampled.completions, sampled.rollout_s)
    metrics |= reward_metrics(sampled.prompts, sampled.scored)
    if nothing := run.progress.masked.observe(metrics, sampled.scored):
        run.recorder.warn(f"step {run.progress.step + 1}: {nothing}")
    return metrics | {"time/reward_s": sampled.reward_s, "time/reward_overlap_s": sampled.reward_overlap_s}


def _record(run: Training, sampled: Sampled, metrics: dict[str, float]) -> None:
    """Write a batch's samples and metrics; until they are written, a checkpoint keeps the metrics for a resumed run."""
    run.progress.unwritten = [("train", run.progress.step, metrics)]
    run.recorder.samples(run.progress.step, sampled.samples, sampled.completions, sampled.scored)
    run.recorder.metrics("train", run.progress.step, metrics)
    run.progress.unwritten = []


def _evaluate(run: Training) -> None:
    assert run.config.evaluation is not None
    metrics = evaluate_rows(run.pipeline(), run.held_out, run.config.evaluation.decode)
    run.recorder.metrics("eval", run.progress.step, metrics)


def _save(run: Training) -> None:
    state: dict[str, dict[str, Any]] = {
        TRAINER: run.progress.saved(),
        "data.json": dict(run.inputs),
        "config.json": run.config.model_dump(mode="json"),
    }

    def write(folder: str) -> None:
        run.learner.save(folder)
        run.codec.save_tokenizer(f"{folder}/hf")
        describe_policy(Path(folder) / "hf", run.config, run.progress.step, run.codec.tokenizer)

    save_checkpoint(run.recorder.run, run.progress.step, write, state, run.config.trainer.save_total_limit)
