"""Scoring: text in, score out. Imports no torch, no ray, and no other layer of the project."""

import redraft.rewards.library.judge.judge  # noqa: F401 - for its name: a function `judge` here would hide the module
from redraft.rewards.adapters.trl import trl_reward
from redraft.rewards.adapters.verl import verl_score
from redraft.rewards.library.code.reward import code_tests
from redraft.rewards.library.format import boxed_format, format_match, think_answer_format
from redraft.rewards.library.instructions import ifeval
from redraft.rewards.library.length import cosine_length, repetition_penalty, soft_overlong
from redraft.rewards.library.math import math_accuracy
from redraft.rewards.library.puzzles import countdown, sudoku
from redraft.rewards.result import RewardError, SampleScore, Status, Verdict
from redraft.rewards.reward import names, resolve, reward
from redraft.rewards.scoring.mixture import RewardMixture, Sample, status_counts
from redraft.rewards.term import RewardTerm

if __name__ != "redraft.rewards":  # a second copy of every class and registry would follow
    raise ImportError(
        f"{__file__} is a part of Redraft and was imported as {__name__!r}; import redraft.rewards, or, for a package"
        " rewards of your own, run in its folder and not in a checkout of Redraft"
    )

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
