"""`python -m benchmarks estimators`: how biased, how noisy and how well aimed every likelihood estimator is.

Five measurements on policies trained for the purpose: bias against the exact ELBO, variance of gradient and value,
shared against unshared draws, the angle between each surrogate's infinite-sample gradient and the true policy
gradient, and that angle after 1024 rollouts against the forwards spent on them.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from benchmarks.common.plain import plain
from benchmarks.common.pretrain import PretrainConfig, pretrain
from benchmarks.estimators.angles import MODES, ExactMode, draw_rollouts, rollout_angle
from benchmarks.estimators.bias import measure_biases
from benchmarks.estimators.fixtures import (
    LANGUAGE,
    LONG_BLOCK,
    SumPolicy,
    language_tokens,
    train_language_policy,
    train_sum_policy,
)
from benchmarks.estimators.variance import (
    BERNOULLI,
    BEST,
    BUDGETS,
    IID,
    SCHEMES,
    Scheme,
    Spread,
    count_spreads,
    gradient_spread,
    log_ratio,
)
from redraft.rl.seeding import derive_seed

ROLLOUTS: Final = 1024
SMALL_STEP: Final = 1e-3  # learning rate of the one AdamW step between the old and the new policy of log-ratios
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        policies: Policies of the angles, each trained with a seed of its own.
        prompts: Of each.
        sum_steps: Optimizer steps of their training.
        language_steps: Optimizer steps of the policy of the variances.
        completions: That variances are averaged over.
        draws: Gradients per completion, masking scheme and budget.
        single_draws: Gradients per completion of schemes with independent views, which are measured with one view.
        bias_draws: Draws of each scheme for the bias.
        replicates: Independent lots of 1024 rollouts per policy and mode.
        surrogate_rollouts: Rollouts that stand for infinitely many, per policy.
    """

    policies: int
    prompts: int
    sum_steps: int
    language_steps: int
    completions: int
    draws: int
    single_draws: int
    bias_draws: int
    replicates: int
    surrogate_rollouts: int


SHORT: Final = Effort(2, 3, 2500, 1000, 3, 40, 300, 2000, 2, 2048)
LONG: Final = Effort(5, 4, 2500, 1000, 4, 120, 1000, 20000, 4, 8192)


def _cut(cut: dict[str, Any]) -> dict[str, Any]:
    return {"estimator": {"kind": "trajectory", "cut": cut}}


SURROGATES: Final[dict[str, tuple[dict[str, Any], int]]] = {
    "coupled-GRPO": ({"estimator": "coupled", "loss": {"ratio": "position"}}, 20),
    "mean field (d1)": ({"estimator": {"kind": "mean_field", "num_mc": 1}}, 1),
    "left to right (JustGRPO)": ({"estimator": {"kind": "autoregressive", "num_mc": 5}}, 1),
}
"""Surrogates of final blocks: settings, and noise seeds per block (1: not random)."""

TRAJECTORIES: Final[dict[str, dict[str, Any]]] = {
    "trajectory": {"estimator": "trajectory"},
    "trajectory, 2 steps from one state (TraceRL)": _cut({"kind": "shrink", "steps": 2}),
    "trajectory merged to 3 segments (d2)": _cut({"kind": "merge", "segments": 3}),
    "trajectory merged to 2 segments (d2)": _cut({"kind": "merge", "segments": 2}),
}


def _elbo(num_mc: int) -> dict[str, Any]:
    return {"estimator": {"kind": "elbo", "num_mc": num_mc, "noise": {"count_exponent": 0.5, "tiles": True}}}


def _steps(num_mc: int, step_sampling: str = "uniform") -> dict[str, Any]:
    return {"estimator": {"kind": "trajectory_sampled", "num_mc": num_mc, "step_sampling": step_sampling}}


BUDGET_ROWS: Final[dict[str, dict[str, Any]]] = {
    **{f"trajectory steps, {k}": _steps(k) for k in (1, 2, 4)},
    "trajectory steps, 2, by surprisal": _steps(2, "surprisal"),
    "trajectory, all steps": {"estimator": "trajectory"},
    **{f"ELBO, {n}": _elbo(n) for n in (1, 2, 4, 8)},
    **{name: {"preset": name} for name in ("vrbpo", "ebpo", "espo", "coupled_grpo", "unigrpo", "gdpo")},
    **{name: {"preset": name} for name in ("tracerl", "d2", "justgrpo")},
    "diffu_grpo (no prompt masks)": {"preset": "diffu_grpo", "estimator": {"prompt_mask_ratio": 0.0}},
}


class Work:
    """Counts units of work for the progress bar."""

    def __init__(self, total: int, advance: Advance) -> None:
        self.done, self.total, self.advance = 0, total, advance

    def tick(self) -> None:
        """One more unit is done."""
        self.done += 1
        self.advance(min(self.done, self.total), self.total)


def measure(effort: Effort, seed: int, advance: Advance) -> dict[str, Any]:
    """All measurements, as plain numbers.

    Args:
        effort: How much.
        seed: Of fixtures, rollouts and noise.
        advance: Called with units of work done and in all.
    """
    work = Work(_units(effort), advance)
    policies = []
    for index in range(effort.policies):
        policies.append(train_sum_policy(derive_seed(seed, "bench_policy", index), effort.prompts, effort.sum_steps))
        work.tick()
    biases = measure_biases(policies[0], effort.bias_draws)
    work.tick()
    noise = _measure_noise(effort, seed, work)
    angles = _merge(
        [
            _measure_angles(policy, effort, derive_seed(seed, "bench_angles", index), work)
            for index, policy in enumerate(policies)
        ]
    )
    return {
        "effort": asdict(effort),
        "seed": seed,
        "bias": {name: one._asdict() for name, one in biases.items()},
        **noise,
        **angles,
    }


def _units(effort: Effort) -> int:
    """Trainings, completions per scheme and budget, modes and lots of rollouts; bias and log-ratios count one each."""
    cells = sum(
        1 if scheme.independent else sum(_drawable(scheme, n) for n in BUDGETS)
        for scheme in SCHEMES
        if scheme != BERNOULLI
    )
    lots = len(MODES) + sum(mode.order == "decoder" for mode in MODES) * effort.replicates
    return effort.policies * (1 + lots) + cells * effort.completions + 3


def _drawable(scheme: Scheme, forwards: int) -> bool:
    """Pairs and strata need at least two views."""
    return forwards > 1 or scheme.independent or not scheme.unbiased


def _measure_noise(effort: Effort, seed: int, work: Work) -> dict[str, Any]:
    """Variance of gradient and value by scheme and forwards, and of log-ratios."""
    model, text = train_language_policy(derive_seed(seed, "bench_language"), effort.language_steps)
    work.tick()
    rows = [torch.tensor(completion) for _, completion in text[: effort.completions]]
    spreads: dict[str, dict[int, Spread]] = {}
    iid, bernoulli = count_spreads(model, rows, LANGUAGE, effort.single_draws, work.tick)
    for scheme in SCHEMES:
        if scheme in (IID, BERNOULLI):
            spreads[scheme.name] = {n: (iid if scheme is IID else bernoulli).over(n) for n in BUDGETS}
        elif scheme.independent:
            one = gradient_spread(model, rows, scheme.config(1), LANGUAGE, effort.single_draws, work.tick)
            spreads[scheme.name] = {n: one.over(n) for n in BUDGETS}
        else:
            spreads[scheme.name] = {
                n: gradient_spread(model, rows, scheme.config(n), LANGUAGE, effort.draws, work.tick)
                for n in BUDGETS
                if _drawable(scheme, n)
            }
    new = copy.deepcopy(model)
    pretrain(new, text, language_tokens(), PretrainConfig(1, 32, SMALL_STEP, seed, block_length=LONG_BLOCK))
    ratios = {
        scheme.name: log_ratio(model, new, rows, scheme.config(4), LANGUAGE, 256)._asdict() for scheme in (IID, BEST)
    }
    work.tick()
    return {
        "variance": {name: {n: one._asdict() for n, one in by.items()} for name, by in spreads.items()},
        "log_ratio": ratios,
    }


def _measure_angles(policy: SumPolicy, effort: Effort, seed: int, work: Work) -> dict[str, Any]:
    """Cosines of one policy: of surrogates by mode, and of finite budgets by decoder mode."""
    surrogates, budgets, decoding = {}, {}, {}
    for mode in MODES:
        exact = ExactMode(policy, mode)
        found = {
            "trajectory without its edits": exact.angle(exact.of_unmasks),
            "ELBO, all masks": exact.angle(exact.of_elbo),
            "SPG mix": exact.angle(exact.of_sandwich),
        }
        found |= {name: exact.angle(exact.of_views(*row)) for name, row in SURROGATES.items()}
        if mode.order == "decoder":
            many = draw_rollouts(exact, effort.surrogate_rollouts, seed)
            found |= {name: rollout_angle(exact, many, plain(settings))[0] for name, settings in TRAJECTORIES.items()}
            budgets[mode.name] = _measure_budgets(exact, effort.replicates, seed + 1, work)
        surrogates[mode.name] = {name: [value] for name, value in found.items()}
        decoding[mode.name] = {name: [value] for name, value in exact.summary().items()}
        work.tick()
    return {"decoding": decoding, "surrogates": surrogates, "budgets": budgets}


def _measure_budgets(exact: ExactMode, replicates: int, seed: int, work: Work) -> dict[str, dict[str, list[float]]]:
    """Cosines of every estimator on lots of 1024 rollouts, all estimators on the same ones."""
    found: dict[str, dict[str, list[float]]] = {name: {"cosine": [], "forwards": []} for name in BUDGET_ROWS}
    for replicate in range(replicates):
        rollouts = draw_rollouts(exact, ROLLOUTS, seed + replicate)
        for name, settings in BUDGET_ROWS.items():
            angle, forwards = rollout_angle(exact, rollouts, plain(settings))
            found[name]["cosine"].append(angle)
            found[name]["forwards"].append(forwards)
        work.tick()
    return found


def _merge(parts: Sequence[Any]) -> Any:
    """Joins the lists of equal nested dictionaries."""
    if isinstance(parts[0], list):
        return [value for part in parts for value in part]
    return {key: _merge([part[key] for part in parts]) for key in parts[0]}
