"""Run one training from its recipe to its last checkpoint: checks, warm start, parts, the loop."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from redraft.rl.cluster.backend import backend
from redraft.rl.cluster.errors import ClusterError, LearnerLostError
from redraft.rl.cluster.stop_signal import stop_signal
from redraft.rl.config.schema import RunConfig
from redraft.rl.data.codec import Codec
from redraft.rl.data.held_out import load_held_out
from redraft.rl.data.load import load_rows
from redraft.rl.data.rows import Row
from redraft.rl.loop import Training, train
from redraft.rl.models.registry import load_text_side
from redraft.rl.preflight.checks import check_evaluation, check_machine, check_reward_calls, check_run
from redraft.rl.preflight.first_policy import settle_first_policy
from redraft.rl.preflight.quarantine import find_unfit, read_quarantine, write_quarantine
from redraft.rl.preflight.resume import find_start
from redraft.rl.preflight.verifiers import check_rewards
from redraft.rl.progress import RunProgress
from redraft.rl.run_folder.checkpoint import complete_checkpoints, what_is_kept
from redraft.rl.run_folder.files import WriteError
from redraft.rl.run_folder.inputs import check_inputs, run_inputs
from redraft.rl.run_folder.lock import run_lock
from redraft.rl.run_folder.recorder import Recorder
from redraft.rl.stages.warm_start import make_warm_start, plan_start, policy_folder, present_policy, run_warm_start


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended."""

    steps: int
    stopped: bool  # by a signal, before its last step


def run_training(config: RunConfig, recorder: Recorder, resume: bool) -> RunOutcome:
    """Train as the recipe says.

    Args:
        config: The recipe.
        recorder: Where results go.
        resume: Continue from the newest complete checkpoint of `output_dir`.

    Raises:
        RunLockedError: Another process works in `output_dir`.
        RecipeError: There is nothing left to do, or earlier results would be mixed
            with new ones.
        DataError: What the run depends on changed since its checkpoint.
        HubError: The hub does not give the first policy.
        WriteError: A file of the run cannot be written; says what is kept.
    """
    check_machine(config)
    with _own_folder(recorder.run):
        config = _settled(config, recorder, resume)
        checkpoint = find_start(config, recorder.run, resume)
        rows, held_out = load_rows(config.data, config.seed), load_held_out(config)
        check_reward_calls(config, rows, held_out)
        if checkpoint is None:
            fit = _begin(config, recorder, rows, held_out)
        else:
            fit = _fit_rows_of_resumed(config, recorder.run, rows, held_out)
        return _train(config, recorder, checkpoint, fit, held_out)


def run_sft(config: RunConfig, recorder: Recorder) -> Path:
    """Run only the recipe's warm start.

    Returns:
        The folder of its policy.

    Raises:
        RunLockedError: Another process works in `output_dir`.
        RecipeError: The recipe has no warm start, or `output_dir` already holds
            checkpoints of RL.
        DataError: A demonstration or an evaluation row cannot be used.
        WriteError: A file of the run cannot be written; says what is kept.
    """
    with _own_folder(recorder.run):
        config = _settled(config, recorder, resume=False)
        held_out = load_held_out(config)
        check_evaluation(config, held_out)
        return run_warm_start(config, recorder, held_out)


def _settled(config: RunConfig, recorder: Recorder, resume: bool) -> RunConfig:
    """Settle the commit of a first policy that is on the hub."""
    settled, origin = settle_first_policy(config, resume)
    recorder.settle(settled, origin)
    return settled


@contextlib.contextmanager
def _own_folder(run: Path) -> Iterator[None]:
    """Keep other processes out of the run folder, and say which checkpoints are kept where a write to it fails."""
    with run_lock(run):
        try:
            yield
        except WriteError as error:
            raise WriteError(f"{error}; {what_is_kept(run)}") from error


def _begin(config: RunConfig, recorder: Recorder, rows: list[Row], held_out: list[Row]) -> list[Row]:
    """Check all that a new run needs, write the first files of its folder, and make its warm start if it has one.

    Returns:
        The rows that the recipe's verifiers can judge.
    """
    unfit = find_unfit(config, rows, recorder.say)
    fit = _without(rows, unfit)
    check_run(config, fit, held_out, policy_folder(config))
    demonstrations = plan_start(config, recorder.say)
    check_rewards(config.rewards, fit, config.reward_test, config.seed, recorder.say)
    # Nothing is written before this line, so a run that is refused leaves its folder as it was.
    recorder.begin()
    write_quarantine(recorder.run, rows, unfit)
    recorder.rewind(0)
    if demonstrations:
        make_warm_start(config, recorder, held_out, demonstrations)
    return fit


def _fit_rows_of_resumed(config: RunConfig, run: Path, rows: list[Row], held_out: list[Row]) -> list[Row]:
    """Return the rows that the run learned from before it was interrupted, once its first policy can read them."""
    fit = _without(rows, read_quarantine(run))
    check_run(config, fit, held_out, present_policy(config))
    return fit


def _without(rows: list[Row], unfit: Mapping[int, str]) -> list[Row]:
    return [row for index, row in enumerate(rows) if index not in unfit]


def _train(
    config: RunConfig, recorder: Recorder, checkpoint: Path | None, rows: list[Row], held_out: list[Row]
) -> RunOutcome:
    """Start the parts and run the loop, from the checkpoint if there is one."""
    policy = str(policy_folder(config, "all"))
    inputs = run_inputs(config, rows, held_out, policy)
    if checkpoint is not None:
        check_inputs(checkpoint, inputs, recorder.warn)
    tokenizer, tokens = load_text_side(policy)
    # Ray's own signal handlers would end the process without a checkpoint. Ours are installed after Ray has started.
    with backend(config, policy, tokens) as (rollouts, rewards, learner), stop_signal() as stopping:
        run = Training(
            config=config,
            train=rows,
            held_out=held_out,
            rollouts=rollouts,
            rewards=rewards,
            learner=learner,
            codec=Codec(tokenizer, config.seed),
            recorder=recorder,
            progress=RunProgress(),
            inputs=inputs,
        )
        if checkpoint is not None:
            run = _restored(run, checkpoint)
        steps = _train_on(run, stopping)
    return RunOutcome(steps, steps < config.trainer.total_steps)


def _train_on(run: Training, stopping: Callable[[], bool]) -> int:
    """Run the loop; if ranks of the learner are lost, go on from the newest complete checkpoint with new ones.

    The prompts of a step are a function of its number, so those of the steps that are made again come again, and none
    is left out. A loss before the first checkpoint leads back to the run's first policy.

    Raises:
        ClusterError: The learner was lost more than `cluster.max_restarts` times without a new step between.
    """
    farthest, losses, most = run.progress.step, 0, run.config.cluster.max_restarts
    lost: LearnerLostError | None = None
    while True:
        try:
            if lost is not None:
                run = _with_new_learner(run, lost)
            return train(run, stopping)
        except LearnerLostError as error:
            lost, losses = error, losses + 1 if run.progress.step <= farthest else 1
            farthest = max(farthest, run.progress.step)
            if losses > most:
                again = "continue with --resume (in Python resume=True)"
                raise ClusterError(f"{lost}\nlost {losses} times in a row at step {farthest + 1}; {again}") from lost


def _with_new_learner(run: Training, lost: LearnerLostError) -> Training:
    """Replace the learner, and go back to the newest complete checkpoint."""
    checkpoint = next(reversed(complete_checkpoints(run.recorder.run)), None)
    start = checkpoint.name if checkpoint else "the run's first policy"
    run.recorder.warn(f"step {run.progress.step + 1}: {lost}\ngoing on with a new learner from {start}")
    run.learner.restart()
    return _restored(run, checkpoint)


def _restored(run: Training, checkpoint: Path | None) -> Training:
    """Load the policy of a checkpoint, and take back what the run folder holds of later steps."""
    run = replace(run, progress=RunProgress.of(checkpoint))
    if checkpoint is not None:
        run.learner.load(str(checkpoint))
    run.recorder.begin()
    run.recorder.rewind(run.progress.step, run.progress.unwritten)
    run.progress.unwritten = ()
    return run
