"""One training run: warm start if needed, backend, resume, the loop."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from redraft.rl.cluster.backend import backend
from redraft.rl.cluster.stop_signal import stop_signal
from redraft.rl.config.schema import RunConfig
from redraft.rl.data.codec import Codec
from redraft.rl.data.held_out import load_held_out
from redraft.rl.data.load import load_rows
from redraft.rl.loop import Parts, RunData, train
from redraft.rl.models.registry import load_text_side
from redraft.rl.preflight.checks import check_evaluation, check_machine, check_reward_calls, check_run
from redraft.rl.preflight.quarantine import find_unfit, read_quarantine, write_quarantine
from redraft.rl.preflight.resume import find_start
from redraft.rl.preflight.verifiers import check_rewards
from redraft.rl.progress import Progress
from redraft.rl.run_folder.checkpoint import what_is_kept
from redraft.rl.run_folder.files import WriteError
from redraft.rl.run_folder.inputs import check_inputs, run_inputs
from redraft.rl.run_folder.lock import run_lock
from redraft.rl.run_folder.recorder import Recorder
from redraft.rl.stages.warm_start import make_warm_start, plan_start, policy_folder, present_policy, run_warm_start

logger = logging.getLogger(__name__)


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
        RunLockedError: Another process works in `output_dir`.
        RecipeError: There is nothing left to do, or earlier results would be mixed with new ones.
        DataError: What the run depends on changed since its checkpoint.
        WriteError: A file of the run cannot be written; says what is kept.
    """
    check_machine(config)
    with _own_folder(recorder.run):
        return _run(config, recorder, find_start(config, recorder.run, resume))


def run_sft(config: RunConfig, recorder: Recorder) -> Path:
    """Run only the recipe's warm start; the folder of its policy. Raises as `run_training` and `run_warm_start` do."""
    with _own_folder(recorder.run):
        held_out = load_held_out(config)
        check_evaluation(config, held_out)
        return run_warm_start(config, recorder, held_out)


@contextlib.contextmanager
def _own_folder(run: Path) -> Iterator[None]:
    """Nobody else writes into the run folder, and a file that cannot be written there is no end without a word."""
    with run_lock(run):
        try:
            yield
        except WriteError as error:
            raise WriteError(f"{error}; {what_is_kept(run)}") from error


def _run(config: RunConfig, recorder: Recorder, checkpoint: Path | None) -> Outcome:
    """From the rows to the last step; a resumed run starts from its checkpoint, and writes nothing before it could."""
    rows, held_out = load_rows(config.data, config.seed), load_held_out(config)
    check_reward_calls(config, rows, held_out)
    unfit = read_quarantine(recorder.run) if checkpoint else find_unfit(config, rows, recorder.say)
    fit = [row for index, row in enumerate(rows) if index not in unfit]
    first = present_policy(config) if checkpoint else policy_folder(config)
    check_run(config, fit, held_out, first)
    if checkpoint is None:
        demonstrations = plan_start(config, recorder.say)
        check_rewards(config.rewards, fit, config.reward_test, config.seed, recorder.say)
        recorder.begin()
        write_quarantine(recorder.run, rows, unfit)
        recorder.rewind(0)
        if demonstrations:
            make_warm_start(config, recorder, held_out, demonstrations)
    path = str(first)
    data = RunData(fit, held_out, run_inputs(config, fit, held_out, path))
    if checkpoint is not None:
        check_inputs(checkpoint, data.inputs, recorder.warn)
    tokenizer, tokens = load_text_side(path)
    progress = Progress.of(checkpoint)
    # Our signal handlers come after Ray's, which would end the process without a checkpoint.
    with backend(config, path, tokens) as (rollouts, rewards, learner), stop_signal() as stopping:
        if checkpoint is not None:
            learner.load(str(checkpoint))
            recorder.begin()
            recorder.rewind(progress.step, progress.unwritten)
            progress.unwritten = ()
        parts = Parts(rollouts, rewards, learner, Codec(tokenizer, config.seed))
        steps = train(config, parts, data, recorder, progress, stopping)
        return Outcome(steps, steps < config.trainer.total_steps)
