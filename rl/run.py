"""One training run: warm start if needed, backend, resume, the loop, and what changed."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.audit import find_unfit, read_quarantine, write_quarantine
from rl.checkpoint import complete_checkpoints, newest_checkpoint, read_state
from rl.codec import Codec, check_lengths
from rl.config import RunConfig
from rl.data import DataError, load_rows, rows_fingerprint, source_name
from rl.held_out import load_held_out
from rl.loop import Parts, RunData, train
from rl.policy import load_text_side, policy_limits
from rl.protocols import PolicyLearner, RewardPool, RolloutPool
from rl.recipe import RecipeError
from rl.recorder import Recorder
from rl.reward_gate import check_rewards
from rl.warmstart import ensure_policy, policy_folder
from rollout.chat import Tokenizer
from rollout.trajectory import SpecialTokens
from rollout.vllm_engine import require_vllm

logger = logging.getLogger(__name__)

# What a resumed run may change; everything else would make it another experiment.
MAY_CHANGE = {
    "output_dir",
    "report_to",
    "cluster",
    "rollout.engine",
    "rollout.num_actors",
    "rollout.slots",
    "rollout.cache_gib",
    "rollout.logits_mib",
    "rollout.forward_timeout_s",
    "trainer.total_steps",
    "trainer.save_steps",
    "trainer.save_total_limit",
    "trainer.collapse_alarm",
    "reward_test",
    "evaluation.eval_steps",
}


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    steps: int
    stopped: bool  # by a signal, before its last step


def run_training(config: RunConfig, recorder: Recorder, resume: bool) -> Outcome:
    """Train as the recipe says.

    Args:
        config: The recipe.
        recorder: Where results go.
        resume: Continue from the newest complete checkpoint of `output_dir`.

    Raises:
        RecipeError: There is nothing left to do, or earlier results would be mixed with new ones.
    """
    if config.rollout.engine == "vllm":
        require_vllm()  # known now, not after the warm start
    checkpoint = _resumed_checkpoint(config, recorder) if resume else None
    if not resume and complete_checkpoints(recorder.run):
        raise RecipeError(
            f"{recorder.run} already holds checkpoints; continue with --resume, or choose another output_dir=FOLDER"
        )
    start = read_state(checkpoint, "trainer.json")["step"] if checkpoint else 0
    rows = load_rows(config.data, config.seed)
    unfit = read_quarantine(recorder.run) if checkpoint else find_unfit(config, rows, recorder.say)
    fit = [row for index, row in enumerate(rows) if index not in unfit]
    data = RunData(train=fit, held_out=load_held_out(config))
    if checkpoint is None:
        check_rewards(config.rewards, data.train, config.reward_test, config.seed, recorder.say)
    else:
        _check_same_data(checkpoint, data)
    recorder.begin()
    write_quarantine(recorder.run, rows, unfit)
    recorder.rewind(start)
    path = str(policy_folder(config) if checkpoint else ensure_policy(config, recorder, data.held_out))
    tokenizer, tokens = load_text_side(path)
    _check_fit(config, data, path, tokenizer)
    # Our signal handlers come after Ray's, which would end the process without a checkpoint.
    with backend(config, path, tokens) as (rollouts, rewards, learner), _stop_signal() as stopping:
        if checkpoint is not None:
            learner.load(str(checkpoint))
        parts = Parts(rollouts, rewards, learner, Codec(tokenizer, config.seed))
        steps = train(config, parts, data, recorder, start, stopping)
        return Outcome(steps, steps < config.trainer.total_steps)


@contextlib.contextmanager
def backend(
    config: RunConfig, path: str, tokens: SpecialTokens
) -> Iterator[tuple[RolloutPool, RewardPool, PolicyLearner]]:
    """Rollouts, rewards and learner on the recipe's backend; in-process, the same workers are called directly."""
    if config.cluster.backend == "ray":
        from rl import cluster

        with cluster.cluster(config):
            rollouts, rewards, learner = cluster.start_parts(path, config, tokens)
            with contextlib.closing(rewards):
                yield rollouts, rewards, learner
        return
    from rewards.worker import LocalRewards
    from rl.rollout_workers import rollout_worker
    from rl.worker import LearnerWorker

    worker = rollout_worker(path, config, tokens, threads=None)
    with contextlib.closing(LocalRewards(config.rewards)) as rewards, contextlib.closing(worker()) as rollouts:
        yield rollouts, rewards, LearnerWorker(path, config, tokens, config.cluster.learner_threads)


def _resumed_checkpoint(config: RunConfig, recorder: Recorder) -> Path:
    checkpoint = newest_checkpoint(recorder.run)
    done = read_state(checkpoint, "trainer.json")["step"]
    if done >= config.trainer.total_steps:
        raise RecipeError(
            f"{checkpoint} has done {done} of trainer.total_steps={config.trainer.total_steps} steps: nothing to"
            f" resume; raise it, e.g. trainer.total_steps={2 * done}"
        )
    saved, now = _flat(read_state(checkpoint, "config.json")), _flat(config.model_dump(mode="json"))
    changed = [key for key in sorted(saved.keys() | now.keys()) if saved.get(key) != now.get(key)]
    other = [key for key in changed if not any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE)]
    if other:
        told = ", ".join(f"{key} was {saved.get(key)!r}, now {now.get(key)!r}" for key in other[:5])
        raise RecipeError(f"{checkpoint} belongs to another recipe: {told}; resume with the same, or start anew")
    return checkpoint


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {k: v for key, part in value.items() for k, v in _flat(part, f"{prefix}.{key}".lstrip(".")).items()}


def _check_same_data(checkpoint: Path, data: RunData) -> None:
    saved, now = read_state(checkpoint, "data.json")["fingerprint"], rows_fingerprint(data.train)
    if saved != now:
        raise DataError(f"{checkpoint}: the training rows changed since ({saved}, now {now}); a resume would mix them")


def _check_fit(config: RunConfig, data: RunData, path: str, tokenizer: Tokenizer) -> None:
    """Refuse prompts that the policy has no room for before the first step, not in the middle of the run."""
    limits, block_length = policy_limits(path), config.rollout.decode.block_length
    if limits.block_length != block_length:
        logger.warning("%s was trained with blocks of %d tokens, not %d", path, limits.block_length, block_length)
    limit = limits.max_positions
    check_lengths(data.train, tokenizer, config.rollout.decode, limit, source_name(config.data))
    if config.evaluation is not None:
        where = source_name(config.evaluation.data)
        check_lengths(data.held_out, tokenizer, config.evaluation.decode, limit, where)


@contextlib.contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask for a stop after the step, with a checkpoint; a second one stops at once."""
    asked = threading.Event()

    def ask(signum: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        logger.warning("stopping after this step, with a checkpoint; once more stops at once, without")

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
