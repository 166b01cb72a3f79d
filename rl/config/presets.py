"""Published methods as settings of the `algorithm` section.

Each preset names its source and where it deviates from the published code; docs/algorithms.md says which to take.
`vrbpo` is the default method: the defaults of `config.choices` are its settings. The others must not change with it, so
they lie over `NEUTRAL`, and each names the keys of its estimator that the default method chose. Where a
recipe writes another estimator or loss beside a preset, these keys have the values of `NEUTRAL_OF_KIND`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Preset:
    """One method.

    Attributes:
        settings: Sections of `AlgorithmConfig`, over `NEUTRAL`.
        source: Where it was published.
        deviations: What is different from the published code, and why.
    """

    settings: Mapping[str, Any]
    source: str
    deviations: str


def preset_settings(name: str) -> dict[str, Any]:
    """Return a preset's sections, laid over `NEUTRAL`."""
    return {**NEUTRAL, **PRESETS[name].settings}


def neutral_of(section: str, kind: object) -> dict[str, Any]:
    """Return a section of this kind in which the default method chooses nothing; empty if its defaults are neutral."""
    keys = NEUTRAL_OF_KIND.get(section, {}).get(str(kind))
    return {"kind": kind, **keys} if keys else {}


DEFAULT_METHOD: Final = "vrbpo"
NEUTRAL: Final[Mapping[str, Any]] = {"update": {"num_minibatches": 1, "target_drift": 0.0}}
"""Sections whose defaults are the default method's own choice, at the values that choose nothing."""
NEUTRAL_OF_KIND: Final[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
    "estimator": {
        "trajectory": {"lookahead": 0.0},
        "trajectory_sampled": {"lookahead": 0.0, "step_sampling": "uniform"},
    },
    "loss": {"clip": {"epsilon_high": 0.2}, "stable": {"epsilon_high": 0.2}},
}
"""Section, kind and keys at the values that choose nothing: no lookahead, steps drawn evenly, and one bound for both
sides of a ratio, as PPO has it."""

_MEAN_FIELD: Final[Mapping[str, Any]] = {"kind": "mean_field", "num_mc": 1, "prompt_mask_ratio": 0.15}
_BOTH_SIDES: Final[Mapping[str, Any]] = {"kind": "clip", "epsilon": 0.2, "epsilon_high": 0.2}

PRESETS: Final[Mapping[str, Preset]] = {
    "vrbpo": Preset(
        settings={
            "estimator": {"kind": "trajectory_sampled", "num_mc": 2, "step_sampling": "surprisal", "lookahead": 0.3},
            "loss": {"kind": "clip", "ratio": "token", "epsilon": 0.2, "epsilon_high": 0.28},
            "advantage": "dr_grpo",
            "update": {"num_minibatches": 2, "target_drift": 1e-3},
        },
        source="Redraft: surprising steps of the decoder's own trajectory, clip-higher and a trust region, Dr.GRPO",
        deviations="none; docs/experiments.md records what was tried for it",
    ),
    "ebpo": Preset(
        settings={
            "estimator": {
                "kind": "elbo",
                "num_mc": 2,
                "noise": {"kind": "exact_count", "count_exponent": 0.5, "tiles": True},
                "edits": "none",
            },
            "loss": {"kind": "clip", "ratio": {"kind": "sequence", "gamma": 1.0}},
            "advantage": "dr_grpo",
        },
        source="EBPO, LLaDA2.1 (arXiv 2602.08676) eq 4 and 5",
        deviations="masks are stratified, importance-sampled and tiled (DARE's grid is noise: cyclic); the log ratio is"
        " divided by the editable tokens (gamma 0 is as printed, and clips most completions)",
    ),
    "espo": Preset(
        settings={
            "estimator": {"kind": "elbo", "num_mc": 2, "noise": "coupled"},
            "loss": {**_BOTH_SIDES, "ratio": "sequence"},
            "advantage": "leave_one_out",
            "regulariser": {"kl": {"kind": "k2", "beta": 1e-3}},
        },
        source="ESPO (arXiv 2512.03759)",
        deviations="lengths count generated tokens, not the canvas; one pair of masks; levels per block",
    ),
    "coupled_grpo": Preset(
        settings={
            "estimator": {"kind": "coupled", "num_mc": 3},
            "loss": {**_BOTH_SIDES, "ratio": {"kind": "position", "normaliser": "batch"}},
            "advantage": "leave_one_out",
            "regulariser": {"kl": {"kind": "k3", "beta": 0.01}},
        },
        source="coupled-GRPO, DiffuCoder (arXiv 2506.20639)",
        deviations="one t per completion, not per batch; KL to the starting policy",
    ),
    "diffu_grpo": Preset(
        settings={
            "estimator": _MEAN_FIELD,
            "loss": {
                "kind": "clip",
                "ratio": {"kind": "token", "normaliser": "sequence"},
                "epsilon": 0.5,
                "epsilon_high": 0.5,
            },
            "regulariser": {"kl": {"kind": "k3", "beta": 0.04}},
            "update": {**NEUTRAL["update"], "num_iterations": 12, "redraw": True},
        },
        source="d1 / diffu-GRPO (arXiv 2504.12216)",
        deviations="the reference policy is never replaced (there every 64 steps); no dropout; no global seeding",
    ),
    "wd1": Preset(
        settings={
            "estimator": _MEAN_FIELD,
            "loss": {"kind": "reinforce", "ratio": "token"},
            "advantage": "signed_softmax",
        },
        source="wd1 (arXiv 2507.08838)",
        deviations="weights are normalised inside the prompt's group, not the local batch; rollouts from the policy,"
        " not from its mixture with the reference",
    ),
    "unigrpo": Preset(
        settings={
            "estimator": {"kind": "random_mask", "num_mc": 2},
            "loss": {**_BOTH_SIDES, "ratio": {"kind": "token", "normaliser": "sequence"}},
            "advantage": "grpo",
            "regulariser": {"kl": {"kind": "k3", "beta": 0.01}},
        },
        source="UniGRPO, MMaDA (arXiv 2505.15809), as implemented in dLLM-RL",
        deviations="levels are spaced over the views of one update, not over inner iterations",
    ),
    "spg": Preset(
        settings={
            "estimator": {"kind": "elbo", "num_mc": 2},
            "loss": {"kind": "sandwich", "bound_beta": 1.5, "bound_mix": 0.5},
        },
        source="SPG (arXiv 2510.09541)",
        deviations="every block is masked (one there); positions without a masked view are left out instead of getting"
        " a made-up probability; no prompt masking",
    ),
    "bgpo": Preset(
        settings={
            "estimator": {"kind": "elbo", "num_mc": 16, "noise": {"kind": "exact_count", "stratify": False}},
            "loss": "bgpo",
        },
        source="BGPO (arXiv 2510.11683)",
        deviations="log ratios are divided by the editable tokens, without which most bounds overflow",
    ),
    "gdpo": Preset(
        settings={
            "estimator": {"kind": "elbo", "num_mc": 2, "noise": "gauss"},
            "loss": {**_BOTH_SIDES, "ratio": "sequence"},
        },
        source="GDPO (arXiv 2510.08554)",
        deviations="weight w n / k of the realised count, where the published w / t is biased (up to 64 % at 8 tokens)",
    ),
    "vrpo": Preset(
        settings={
            "estimator": {"kind": "elbo", "num_mc": 8, "noise": {"kind": "exact_count", "stratify": False}},
            "loss": {"kind": "dpo", "ratio": {"kind": "sequence", "gamma": 0.0}, "beta": 0.1},
        },
        source="VRPO, LLaDA 1.5 (arXiv 2505.19223)",
        deviations="pairs are the best and worst completions of each group, drawn on policy, not a fixed data set",
    ),
    "tracerl": Preset(
        settings={
            "estimator": {"kind": "trajectory", "cut": {"kind": "shrink", "steps": 2}, "lookahead": 0.0},
            "loss": {**_BOTH_SIDES, "ratio": {"kind": "token", "normaliser": "sequence"}},
            "advantage": "grpo",
            "regulariser": {"kl": {"kind": "k3", "beta": 0.01}},
        },
        source="TraceRL (arXiv 2509.06949)",
        deviations="no value model; KL to the starting policy instead of the rollout policy",
    ),
    "d2": Preset(
        settings={
            "estimator": {"kind": "trajectory", "cut": {"kind": "merge", "segments": 2}, "lookahead": 0.0},
            "loss": {**_BOTH_SIDES, "ratio": "token"},
            "advantage": "grpo",
        },
        source="d2 StepMerge (arXiv 2509.21474)",
        deviations="2 segments per block (16 per completion there); no KL",
    ),
    "justgrpo": Preset(
        settings={
            "estimator": {"kind": "autoregressive", "num_mc": 32},
            "loss": {"kind": "reinforce", "ratio": "token"},
            "advantage": "grpo",
        },
        source="JustGRPO (arXiv 2601.15165)",
        deviations="exact only for rollouts written left to right, one token at a time: rollout.decode.threshold 1,"
        " editing_threshold 1 and unmask_fallback leftmost; num_mc below the block length samples positions",
    ),
    "stabledrl": Preset(
        settings={
            "estimator": {"kind": "elbo", "num_mc": 2},
            "loss": {"kind": "stable", "ratio": "sequence", "epsilon": 0.8, "epsilon_high": 4.0},
            "update": {**NEUTRAL["update"], "redraw": True},
        },
        source="StableDRL (arXiv 2603.06743)",
        deviations="on the ELBO instead of SPG's bound; draws shared by new and old policy inside a pass",
    ),
    "gdsd": Preset(
        settings={
            "estimator": {"kind": "elbo", "num_mc": 2, "noise": "coupled"},
            "loss": {"kind": "squared", "psi": 1.0},
        },
        source="GDSD (arXiv 2605.29398)",
        deviations="log ratios of ELBOs; the token-logit centring variant is left out",
    ),
}
