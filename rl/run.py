"""One training run: warm start if needed, backend, resume, the loop, and what changed."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rl.checkpoint import newest_checkpoint, read_state
from rl.codec import Codec
from rl.config import RunConfig
from rl.data import DataError, load_rows, rows_fingerprint
from rl.loop import Parts, RunData, train
from rl.policy import load_text_side
from rl.protocols import PolicyLearner, RewardPool, RolloutPool
from rl.recipe import RecipeError
from rl.recorder import Recorder
from rl.warmstart import ensure_policy, policy_folder
from rollout.trajectory import SpecialTokens


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
    checkpoint = _check_run_folder(config, recorder, resume)
    start = 0 if checkpoint is None else read_state(checkpoint, "trainer.json")["step"]
    if resume:
        recorder.rewind(start)
    data = RunData(
        train=load_rows(config.data, config.seed),
        held_out=load_rows(config.evaluation.data, config.seed) if config.evaluation else [],
    )
    if checkpoint is not None:
        _check_same_data(checkpoint, data)
    path = policy_folder(config) if checkpoint is not None else ensure_policy(config, recorder)
    tokenizer, tokens = load_text_side(str(path))
    with _stop_signal() as stopping, backend(config, str(path), tokens) as (rollouts, rewards, learner):
        if checkpoint is not None:
            learner.load(str(checkpoint))
        parts = Parts(rollouts, rewards, learner, Codec(tokenizer, config.seed))
        steps = train(config, parts, data, recorder, start, stopping)
        return Outcome(steps, steps < config.trainer.total_steps)


@contextlib.contextmanager
def backend(
    config: RunConfig, path: str, tokens: SpecialTokens
) -> Iterator[tuple[RolloutPool, RewardPool, PolicyLearner]]:
    """Rollouts, rewards and learner on the recipe's backend."""
    if config.cluster.backend == "ray":
        from rl import cluster

        with cluster.cluster(config):
            yield cluster.start_parts(path, config, tokens)
        return
    from rewards.worker import RewardWorker
    from rl.local import LocalRollouts
    from rl.policy import load_rollout_policy
    from rl.worker import LearnerWorker
    from rollout.worker import RolloutWorker

    make = partial(load_rollout_policy, path, config.model.dtype, config.model.device)
    with contextlib.closing(RewardWorker(config.rewards)) as rewards:
        rollouts = LocalRollouts(RolloutWorker(make, tokens, config.rollout.max_rows))
        yield rollouts, rewards, LearnerWorker(path, config, tokens)


def _check_run_folder(config: RunConfig, recorder: Recorder, resume: bool) -> Path | None:
    if not resume:
        if any((recorder.run / "checkpoints").glob("step_*")):
            raise RecipeError(
                f"{recorder.run} already holds checkpoints; continue with --resume, or choose another output_dir=FOLDER"
            )
        recorder.rewind(0)
        return None
    checkpoint = newest_checkpoint(recorder.run)
    done = read_state(checkpoint, "trainer.json")["step"]
    if done >= config.trainer.total_steps:
        raise RecipeError(
            f"{checkpoint} has done {done} of trainer.total_steps={config.trainer.total_steps} steps: nothing to"
            f" resume; raise it, e.g. trainer.total_steps={2 * done}"
        )
    return checkpoint


def _check_same_data(checkpoint: Path, data: RunData) -> None:
    saved, now = read_state(checkpoint, "data.json")["fingerprint"], rows_fingerprint(data.train)
    if saved != now:
        raise DataError(f"{checkpoint}: the training rows changed since ({saved}, now {now}); a resume would mix them")


@contextlib.contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask for a stop after the step, with a checkpoint; a second Ctrl-C stops at once."""
    asked = threading.Event()

    def ask(signum: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
