"""Scoring: text in, score out. Imports no torch, no ray, and no other layer of the project.

To write a reward, read `reward` (how a function becomes one), `Verdict` (what it may return) and `RewardTerm` (what a
recipe can say about it), in this order; `docs/rewards.md` shows all three at work.

The functions of the library load when they are first asked for: `from redraft import reward` takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Not lazily: `reward` is also the name of the module, which would stand in the function's place.
from redraft.rewards.result import RewardError, SampleScore, Status, Verdict
from redraft.rewards.reward import LIBRARY, names, resolve, reward

if __name__ != "redraft.rewards":  # a second copy of every class and registry would follow
    raise ImportError(
        f"{__file__} is a part of Redraft and was imported as {__name__!r}; import redraft.rewards, or, for a package"
        " rewards of your own, run in its folder and not in a checkout of Redraft"
    )

if TYPE_CHECKING:
    from redraft.rewards.adapters.trl import trl_reward
    from redraft.rewards.adapters.verl import verl_score
    from redraft.rewards.library.code.reward import code_tests
    from redraft.rewards.library.format import boxed_format, format_match, think_answer_format
    from redraft.rewards.library.instructions.reward import ifeval
    from redraft.rewards.library.judge.judge import judge
    from redraft.rewards.library.length import cosine_length, repetition_penalty, soft_overlong
    from redraft.rewards.library.math import math_accuracy
    from redraft.rewards.library.puzzles import countdown, sudoku
    from redraft.rewards.scoring.mixture import RewardMixture, Sample, status_counts
    from redraft.rewards.term import RewardTerm

_OTHERS = {
    "RewardMixture": "redraft.rewards.scoring.mixture",
    "RewardTerm": "redraft.rewards.term",
    "Sample": "redraft.rewards.scoring.mixture",
    "status_counts": "redraft.rewards.scoring.mixture",
}

__all__ = [
    "RewardError",
    "RewardMixture",
    "RewardTerm",
    "Sample",
    "SampleScore",
    "Status",
    "Verdict",
    "boxed_format",
    "code_tests",
    "cosine_length",
    "countdown",
    "format_match",
    "ifeval",
    "judge",
    "math_accuracy",
    "names",
    "repetition_penalty",
    "resolve",
    "reward",
    "soft_overlong",
    "status_counts",
    "sudoku",
    "think_answer_format",
    "trl_reward",
    "verl_score",
]


def __getattr__(name: str) -> Any:
    """Load what has not been loaded."""
    place = _OTHERS.get(name) or LIBRARY.get(name, "").rpartition(":")[0]
    if name not in __all__ or not place:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(place), name)
    return found


def __dir__() -> list[str]:
    """Return all names, also of what has not been loaded."""
    return sorted({*globals(), *__all__})
