"""The collapse alarm: fires when confidence rises while reward falls, and only then."""

import io

import numpy as np
import pytest
from rich.console import Console

from redraft.rl.config.recipe import load_recipe
from redraft.rl.monitor.alarm import AlarmConfig, CollapseAlarm, CollapseError, find_collapse
from redraft.rl.monitor.display import ConsoleDisplay
from redraft.rl.run import run_training
from redraft.rl.run_folder.checkpoint import newest_checkpoint
from redraft.rl.run_folder.recorder import Recorder
from tiny import make_policy, write_recipe

STEPS = 60


def stream(reward, tokens_per_forward, entropy, noise=0.02, seed=0):
    """Metrics of a run whose means follow the given functions of the step."""
    random = np.random.default_rng(seed)
    return [
        {
            "reward/mean": reward(step) + noise * random.normal(),
            "reward/std": 0.4,
            "decode/tokens_per_forward": tokens_per_forward(step) * (1 + noise * random.normal()),
            "objective/entropy": entropy(step) * (1 + noise * random.normal()),
        }
        for step in range(STEPS)
    ]


def flat(value):
    return lambda step: value


def ramp(before, after, start=20, end=35):
    return lambda step: float(np.interp(step, [start, end], [before, after]))


def findings(steps):
    alarm = CollapseAlarm(AlarmConfig())
    return {step: finding for step, metrics in enumerate(steps) if (finding := alarm.observe(metrics))}


def test_a_collapse_is_found_while_it_happens_and_the_message_says_what_fell_and_what_rose():
    found = findings(stream(ramp(0.6, 0.1), ramp(1.5, 4.0), ramp(0.8, 0.1)))
    assert found
    first = min(found)
    assert 20 < first <= 35
    assert found[first].startswith("reward fell from 0.")
    assert "tokens per forward rose from 1." in found[first]
    assert "entropy fell from 0." in found[first]


def test_either_measure_of_confidence_is_enough():
    by_entropy = findings(stream(ramp(0.6, 0.1), flat(1.5), ramp(0.8, 0.1)))
    by_speed = findings(stream(ramp(0.6, 0.1), ramp(1.5, 4.0), flat(0.8)))
    assert all("entropy fell" in text and "tokens per forward" not in text for text in by_entropy.values())
    assert all("tokens per forward rose" in text and "entropy" not in text for text in by_speed.values())
    assert by_entropy
    assert by_speed


def test_the_numbers_of_the_message_are_the_windows_means():
    config = AlarmConfig(window=2, history=10)
    rows = [
        {"reward/mean": reward, "reward/std": 0.0, "decode/tokens_per_forward": speed}
        for reward, speed in [(0.5, 1.0), (0.9, 1.0), (0.9, 1.0), (0.9, 1.0), (0.1, 9.0), (0.1, 9.0)]
    ]
    # Reward steps: .4, 0, 0, -.8, 0: E[d^2] = .8 / 5 = .16, standard error sqrt(.16 / 2) = .283, four of them 1.13.
    assert find_collapse(rows, config) is None
    quieter = AlarmConfig(window=2, history=10, noise=2.0)  # .566 < .8; speed: E[d^2] = 64 / 5, limit 5.06 < 8
    expected = "reward fell from 0.9 to 0.1 while tokens per forward rose from 1 to 9, within 5 steps"
    assert find_collapse(rows, quieter) == expected
    spread = [{**row, "reward/std": 3.3} for row in rows]  # .25 * 3.3 = .825 > .8
    assert find_collapse(spread, quieter) is None


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(stream(ramp(0.3, 0.8), ramp(1.5, 4.0), ramp(0.8, 0.1)), id="confidence and reward rise"),
        pytest.param(stream(ramp(0.6, 0.1), ramp(1.5, 1.0), ramp(0.3, 0.9)), id="an overshoot: both fall"),
        pytest.param(stream(ramp(0.6, 0.1), flat(1.5), flat(0.8)), id="reward falls alone"),
        pytest.param(stream(flat(0.6), ramp(1.5, 4.0), ramp(0.8, 0.1)), id="confidence rises alone"),
        pytest.param([{"objective/entropy": 1.0 - 0.01 * step} for step in range(STEPS)], id="no reward to watch"),
    ],
)
def test_other_movements_are_no_collapse(steps):
    assert findings(steps) == {}


def test_noise_alone_fires_in_none_of_300_runs():
    runs = [stream(flat(0.5), flat(1.5), flat(0.5), noise=0.1, seed=seed) for seed in range(300)]
    assert [seed for seed, steps in enumerate(runs) if findings(steps)] == []


def test_the_alarm_starts_anew_after_it_has_fired():
    found = sorted(findings(stream(ramp(0.6, 0.1, 20, 24), ramp(1.5, 4.0, 20, 24), flat(0.8), noise=0.005)))
    assert len(found) == 1


def test_windows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="window must be in 1 to history // 2 = 4, got 5"):
        AlarmConfig(window=5, history=8)


# --- in a run -----------------------------------------------------------------------------------------------------

# The reward is the share of different characters. Shuffled, it says nothing about the completions, and at a hot
# learning rate the policy grows sure of whatever it was told at random, until it repeats a few characters. The default
# method's trust region would prevent it.
PLAIN = "algorithm={estimator: {step_sampling: uniform, lookahead: 0}, update: {num_minibatches: 1, target_drift: 0}}"
HOT = [
    PLAIN, "trainer.learning_rate=3e-2", "trainer.save_steps=100", "trainer.total_steps=24", "evaluation=null",
    "rollout.prompts_per_step=8", "rollout.num_generations=8",
]  # fmt: skip


def variety_run(folder, *overrides, resume=False):
    if not (folder / "policy").is_dir():
        make_policy(folder / "policy")
    path = write_recipe(folder)
    body = "    return [len(set(text)) / max(len(text), 1) for text in completions]\n"
    (folder / "reward.py").write_text(f"def digits(prompts, completions, **columns):\n{body}")
    config = load_recipe([path], [*HOT, *overrides])
    console = Console(file=io.StringIO(), width=200)
    recorder = Recorder(config, ConsoleDisplay(config, console))
    try:
        return run_training(config, recorder, resume), console.file.getvalue()
    except CollapseError as error:
        return error, console.file.getvalue()


def test_a_real_collapse_stops_a_run_that_is_preempted_every_few_steps_with_a_checkpoint(tmp_path):
    shuffled = "trainer.shuffle_rewards=true"
    for total in range(4, 28, 4):  # no piece is long enough for the alarm, which looks at two windows of 5 steps
        words = (shuffled, "trainer.collapse_alarm=stop", f"trainer.total_steps={total}")
        error, shown = variety_run(tmp_path, *words, resume=total > 4)
        if isinstance(error, CollapseError):
            break
    assert isinstance(error, CollapseError)
    saved = newest_checkpoint(tmp_path / "run").name
    step = int(saved.removeprefix("step_"))
    assert step < 24
    assert str(error).startswith(f"stopped after step {step}, with a checkpoint: reward fell from 0.9")
    assert "trainer.collapse_alarm=warn --resume" in str(error)
    assert f"step {step}: collapse? reward fell from 0.9" in shown
    outcome, _ = variety_run(
        tmp_path, shuffled, "trainer.collapse_alarm=warn", f"trainer.total_steps={step + 1}", resume=True
    )
    assert outcome.steps == step + 1


def test_the_same_run_with_its_true_rewards_is_healthy(tmp_path):
    outcome, shown = variety_run(tmp_path, "trainer.collapse_alarm=stop")
    assert outcome.steps == 24
    assert "collapse" not in shown


def test_the_warning_is_yellow(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=80)
    ConsoleDisplay(load_recipe([write_recipe(tmp_path)], []), console).warn("step 3: collapse?")
    assert console.file.getvalue() == "\x1b[33mstep 3: collapse?\x1b[0m\n"
